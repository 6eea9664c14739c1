"""Commands that a person is offered, as they have to be typed: with configuration and folders."""

import re
import shlex
from pathlib import Path

#: Every command that a text may offer: `syncd why ...`.
_NAMES = (
    *("adopt", "config", "deletes", "doctor", "fetch", "frames", "limit", "log", "ls", "once"),
    "pause",
    *("resume", "retry", "run", "status", "verify", "wait", "why"),
)
#: Those that take the folders as arguments, and those that find them in the configuration alone.
_WITH_DIRECTORIES = ("once", "run")
_WITH_CONFIGURATION = ("adopt", "deletes approve", "deletes reject", "retry", "verify", "wait")
_NAME = "|".join(("deletes (?:approve|reject)", *_NAMES))
_OFFER = re.compile(rf"(?<![^\s(`>“])syncd (?P<name>{_NAME})\b(?P<given> DIR)?")
_option = _directories = _variable = ""


def set_config(path: Path | None) -> None:
    """Have each offered command name `path`, if this one was given it with `--config`."""
    global _option  # noqa: PLW0603 - one process is one command
    _option = "" if path is None else f"-c {shlex.quote(str(path))} "


def set_folders(directories: str, variable: str) -> None:
    """Have offered commands name folders that no configuration names, ready to be typed.

    `variable` is the assignment that names them to commands which take no directories.
    """
    global _directories, _variable
    _directories, _variable = directories, variable


def offered(text: str) -> str:
    """Return `text` with its commands as they work here."""
    return _OFFER.sub(_as_typed, text) if _option or _directories or _variable else text


def _as_typed(found: re.Match[str]) -> str:
    name, given = found["name"], found["given"] or ""
    before = f"{_variable} " if _variable and name in _WITH_CONFIGURATION else ""
    if _directories and name in _WITH_DIRECTORIES:
        given = given or f" {_directories}"
    return f"{before}syncd {_option}{name}{given}"
