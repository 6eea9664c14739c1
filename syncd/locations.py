"""Where the configuration file and the state directory are. A leaf, quick to import.

`syncd.config` reads everything else; a health check wants only to know where the state is.
"""

import os
import shlex
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

from syncd.exceptions import ConfigError, StrangersFileError

SYSTEM_FILE = Path("/etc/syncd/syncd.toml")
#: UTF-8, with or without the byte order mark that some editors put first.
ENCODING = "utf-8-sig"
FILE_VARIABLE, STATE_VARIABLE = "SYNCD_CONFIG", "SYNCD_STATE__DIRECTORY"


def current_directory() -> Path:
    """Return the current directory, also where it was removed: nothing is found beneath it then."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/proc/self/cwd")


def chosen_file(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file that was asked for; None where none was."""
    chosen = named or Path(environ.get(FILE_VARIABLE) or "")
    return None if chosen == Path() else chosen


def config_files(named: Path | None, environ: Mapping[str, str], here: Path) -> list[Path]:
    """Return where the configuration is looked for, as absolute paths, the first that is there."""
    chosen = chosen_file(named, environ)
    candidates = [chosen] if chosen else [Path("syncd.toml"), SYSTEM_FILE]
    return [here / expanded(candidate) for candidate in candidates]


def read_config(path: Path, *, chosen: bool) -> str:
    """Return the text of a configuration file; raise OSError or UnicodeDecodeError.

    Raise ConfigError when others may write it, and StrangersFileError when nobody chose it and it
    belongs neither to this user nor to root: whoever may write into the current directory could
    say where the key is sent.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        owners = {status.st_uid, path.lstat().st_uid}
        if not chosen and (strangers := owners - {os.geteuid(), 0}):
            raise StrangersFileError(
                f"{path} is not used: it belongs to user {min(strangers)}, and neither to this one "
                "nor to root; --config uses it all the same"
            )
        if writers := other_writers(status):
            raise ConfigError(
                f"{path}: {writers} may write the file; run: chmod go-w {shlex.quote(str(path))}"
            )
        return file.read().decode(ENCODING)


def other_writers(status: os.stat_result) -> str:
    """Say who may write a file beside its owner, root and this process; empty when nobody may."""
    if not stat.S_ISREG(status.st_mode):
        return ""
    if status.st_mode & stat.S_IWOTH:
        return "everyone on this machine"
    if status.st_mode & stat.S_IWGRP and status.st_gid not in {0, os.getegid(), *os.getgroups()}:
        return f"group {status.st_gid}"
    return ""


def absolute(path: str | Path, base: Path) -> Path:
    """Return `path` absolute and without `..`, its links not followed.

    Raise ConfigError where it begins with a `~` that stands for no home.
    """
    # Path.resolve() would follow links, and the name a person gave would be lost.
    return Path(os.path.abspath(base / expanded(path)))  # noqa: PTH100


def expanded(path: str | Path) -> Path:
    """Return `path` with a leading `~` replaced; raise ConfigError where that has no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        user = Path(path).parts[0].removeprefix("~")
        whose = f"there is no user {user}" if user else "this user has no home directory"
        raise ConfigError(f"{path}: {whose}; write the whole path instead of ~{user}") from error


def default_state_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the state directory of those who name none; None where there is no home."""
    # systemd separates several with colons; the first is the unit's own.
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given)
    home = environ.get("XDG_STATE_HOME", "")
    if home.startswith("/"):
        return Path(home) / "syncd"
    try:
        return Path(environ.get("HOME") or Path.home()) / ".local" / "state" / "syncd"
    except RuntimeError:
        return None


def state_directory(named: Path | None, environ: Mapping[str, str], here: Path) -> Path | None:
    """Return the state directory as `syncd.config` would, reading nothing else.

    None where that takes a closer look: the file is missing, broken, or says something odd.
    """
    try:
        return _state_directory(named, environ, here)
    except ConfigError:
        return None


def _state_directory(named: Path | None, environ: Mapping[str, str], here: Path) -> Path | None:
    if given := environ.get(STATE_VARIABLE):
        return absolute(given, here)
    for path in config_files(named, environ, here):
        try:
            text = read_config(path, chosen=chosen_file(named, environ) is not None)
            table = tomllib.loads(text).get("state", {})
            directory = table.get("directory") or None
        except (FileNotFoundError, NotADirectoryError, StrangersFileError):
            continue
        except (OSError, ValueError, AttributeError):
            return None
        if directory is None:
            return default_state_directory(environ)
        return absolute(directory, path.parent) if isinstance(directory, str) else None
    return None if chosen_file(named, environ) else default_state_directory(environ)
