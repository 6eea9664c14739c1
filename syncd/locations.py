"""Where the configuration file and the state directory are. A leaf, quick to import.

`syncd.config` reads everything else; a health check wants only to know where the state is.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

SYSTEM_FILE = Path("/etc/syncd/syncd.toml")
FILE_VARIABLE, STATE_VARIABLE = "SYNCD_CONFIG", "SYNCD_STATE__DIRECTORY"


def chosen_file(named: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file that was asked for; None where none was."""
    chosen = named or Path(environ.get(FILE_VARIABLE) or "")
    return None if chosen == Path() else chosen


def config_files(named: Path | None, environ: Mapping[str, str], here: Path) -> list[Path]:
    """Return where the configuration is looked for, as absolute paths, the first that is there."""
    chosen = chosen_file(named, environ)
    candidates = [chosen] if chosen else [Path("syncd.toml"), SYSTEM_FILE]
    return [here / candidate.expanduser() for candidate in candidates]


def absolute(path: str | Path, base: Path) -> Path:
    """Return `path` absolute and without `..`, its links not followed."""
    # Path.resolve() would follow links, and the name a person gave would be lost.
    return Path(os.path.abspath(base / Path(path).expanduser()))  # noqa: PTH100


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
    if given := environ.get(STATE_VARIABLE):
        return absolute(given, here)
    for path in config_files(named, environ, here):
        try:
            table = tomllib.loads(path.read_text("utf-8")).get("state", {})
            directory = table.get("directory") or None
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, AttributeError):
            return None
        if directory is None:
            return default_state_directory(environ)
        return absolute(directory, path.parent) if isinstance(directory, str) else None
    return None if chosen_file(named, environ) else default_state_directory(environ)
