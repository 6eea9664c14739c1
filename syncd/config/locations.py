"""Finds the configuration file, the state directory and the service. A leaf, quick to import.

Commands that only read the state need no more; `loading` reads and validates everything.
"""

import os
import re
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from syncd.exceptions import ConfigError, StrangersFileError

SYSTEM_FILE = Path("/etc/syncd/syncd.toml")
#: UTF-8, with or without the byte order mark that some editors put first.
ENCODING = "utf-8-sig"
FILE_VARIABLE, STATE_VARIABLE = "SYNCD_CONFIG", "SYNCD_STATE__DIRECTORY"
WATCH_VARIABLE, FOLDERS_VARIABLE = "SYNCD_WATCH", "SYNCD_FOLDERS"
URL_VARIABLE = "AYMARA_AI_BASE_URL"
BASE_URLS = {
    "production": "https://api.aymara.ai",
    "staging": "https://staging-api.aymara.ai",
    "development": "http://localhost:8000",
}
_PLAIN_URL = re.compile(r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?", re.ASCII)
#: The line with which a table begins.
_TABLES = re.compile(r"^(?=[ \t]*\[)", re.MULTILINE)
#: The errors of a configuration that takes a closer look.
_ODD = (ConfigError, OSError, ValueError, AttributeError, TypeError)


class Glance(NamedTuple):
    """The part of the configuration that commands need which only read the state."""

    state_directory: Path
    base_url: str
    names_folders: bool


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
    """Return the state directory as `syncd.config.loading` would, reading nothing else.

    Return None where that takes a closer look: the file is missing, broken, or says something odd.
    """
    try:
        if given := environ.get(STATE_VARIABLE):
            return absolute(given, here)
        return _configured_state(*_first_file(named, environ, here, skip_strangers=True), environ)
    except _ODD:
        return None


def glance(named: Path | None, environ: Mapping[str, str], here: Path) -> Glance | None:
    """Return what the commands that only read the state need, without validating all the rest.

    Return None where that takes a closer look, as `state_directory` does.
    """
    try:
        values, base = _first_file(named, environ, here, skip_strangers=False)
        url = _base_url(values.get("api", {}), environ)
        given = environ.get(STATE_VARIABLE)
        directory = absolute(given, here) if given else _configured_state(values, base, environ)
    except _ODD:
        return None
    variables = (environ.get(WATCH_VARIABLE), environ.get(FOLDERS_VARIABLE))
    names_folders = bool(values.get("folders") or any(variables))
    return None if url is None or directory is None else Glance(directory, url, names_folders)


def guess(named: Path | None, environ: Mapping[str, str], here: Path) -> Glance | None:
    """Return as much of that as a configuration with mistakes still tells; an unclear URL is empty.

    Return None where the state directory cannot be told.
    """
    try:
        text, base = _first_text(named, environ, here, skip_strangers=True)
        values = _legible(text)
        given = environ.get(STATE_VARIABLE)
        directory = absolute(given, here) if given else _configured_state(values, base, environ)
    except _ODD:
        return None
    try:
        url = _base_url(values.get("api", {}), environ)
    except _ODD:
        url = None
    return None if directory is None else Glance(directory, url or "", names_folders=True)


def _legible(text: str) -> dict[str, Any]:
    """Return the tables of a broken file that can be read; raise where the state's cannot."""
    import tomllib  # noqa: PLC0415 - as below

    values: dict[str, Any] = {}
    for table in _TABLES.split(text):
        try:
            read = tomllib.loads(table)
        except tomllib.TOMLDecodeError:
            if "directory" in table:
                raise
        else:
            values |= {name: read[name] for name in ("state", "api") if name in read}
    return values


def _first_file(
    named: Path | None, environ: Mapping[str, str], here: Path, *, skip_strangers: bool
) -> tuple[dict[str, Any], Path]:
    """Return what the first configuration file there is says, and its directory."""
    text, base = _first_text(named, environ, here, skip_strangers=skip_strangers)
    if not text:
        return {}, base
    # Only here: without a file a health check does not wait for this import.
    import tomllib  # noqa: PLC0415

    return tomllib.loads(text), base


def _first_text(
    named: Path | None, environ: Mapping[str, str], here: Path, *, skip_strangers: bool
) -> tuple[str, Path]:
    chosen = chosen_file(named, environ)
    for path in config_files(named, environ, here):
        try:
            return read_config(path, chosen=chosen is not None), path.parent
        except StrangersFileError:
            if not skip_strangers:
                raise
        except (FileNotFoundError, NotADirectoryError):
            if chosen:
                raise
    return "", here


def _configured_state(
    values: dict[str, Any], base: Path, environ: Mapping[str, str]
) -> Path | None:
    directory = values.get("state", {}).get("directory") or None
    if directory is None:
        return default_state_directory(environ)
    return absolute(directory, base) if isinstance(directory, str) else None


def _base_url(api: dict[str, Any], environ: Mapping[str, str]) -> str | None:
    """Return the service's base URL; None for one that is not plain, or behind a proxy."""
    if "proxy" in api or environ.get("SYNCD_API__PROXY"):
        # It may hold a password, which must be hidden first.
        return None
    names = ("base_url", "environment")
    own = {name: environ.get(f"SYNCD_API__{name.upper()}") for name in names}
    said = {name: value for name, value in own.items() if value}
    said = said or {name: api[name] for name in names if name in api}
    said = said or {"base_url": environ.get(URL_VARIABLE, "")}
    known = BASE_URLS.get(said.get("environment") or "production")
    url = said.get("base_url") or known
    return url.rstrip("/") if known and url and _PLAIN_URL.fullmatch(url) else None
