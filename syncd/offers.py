"""Commands that a person is offered, as they have to be typed: with the configuration file."""

import re
import shlex
from pathlib import Path

#: Every command that a text may offer: `syncd why ...`.
_NAMES = (
    *("adopt", "config", "deletes", "doctor", "fetch", "frames", "limit", "log", "ls", "once"),
    "pause",
    *("resume", "retry", "run", "status", "verify", "wait", "why"),
)
_OFFER = re.compile(rf"(?<![^\s(`>“])syncd (?=(?:{'|'.join(_NAMES)})\b)")
_option = ""


def set_config(path: Path | None) -> None:
    """Have each offered command name `path`, if this one was given it with `--config`."""
    global _option  # noqa: PLW0603 - one process is one command
    _option = "" if path is None else f"-c {shlex.quote(str(path))} "


def offered(text: str) -> str:
    """Return `text` with its commands as they work here."""
    return _OFFER.sub(lambda found: found[0] + _option, text) if _option else text
