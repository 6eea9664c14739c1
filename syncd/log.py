"""The log: for a person at a terminal, for the journal, or as JSON; without secrets, one line each.

Modules log as ever (`logging.getLogger(__name__)`). Facts for machines go along as
`extra={"fields": {"folder": name, "bytes": size}}`: JSON shows them beside the message, the other
formats leave them out. Names of files pass through `printable` first.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

Format = Literal["auto", "text", "journal", "json"]
#: Libraries that tell, below a warning, more than anybody wants, whole URLs among it.
_CHATTY = ("httpx", "httpcore", "apscheduler", "watchdog", "asyncio", "uvicorn")
#: Shorter than this a value is no secret, and hiding it would garble the text.
_SECRET_CHARS = 6
#: The query of a URL is a secret where it is presigned; user-info always is.
_URL_SECRETS = re.compile(r"(https?://)(?:[^\s/?#@\"'<>]+@)?([^\s?\"'<>]*)(\?[^\s\"'<>]*)?")

_hidden: set[str] = set()


def configure(
    style: Format = "auto",
    level: str = "info",
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Send all logging to `stream` (standard error), in `style`; safe to call again."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_FORMATTERS[_chosen(style, stream, environ)]())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(capture=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def hide(secret: str) -> None:
    """Never let `secret` reach the log."""
    if len(secret) >= _SECRET_CHARS:
        _hidden.add(secret)


def redacted(text: str) -> str:
    """Return `text` without any hidden secret, and without what URLs carry of theirs."""
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, "[secret]")
    return _URL_SECRETS.sub(_bare_url, text) if "://" in text else text


def printable(path: bytes | str) -> str:
    r"""Return a name as it may be shown on one line of a terminal.

    Control characters, escapes, direction marks and bytes that are no UTF-8 are written out
    (`\n`, `\x1b`, `\u202e`, `\xff`).
    """
    text = path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    # Python keeps a byte that is no UTF-8 as a lone surrogate.
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else ascii(char)[1:-1]


def _bare_url(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{'?[hidden]' if match[3] else ''}"


def _chosen(style: Format, stream: TextIO, environ: Mapping[str, str]) -> Format:
    if style != "auto":
        return style
    if is_journal(stream, environ):
        return "journal"
    if stream.isatty():
        return "text"
    return "json" if _in_container(environ) else "text"


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Say whether `stream` is the one that systemd means, and not one redirected since."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def _in_container(environ: Mapping[str, str]) -> bool:
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return (
        "KUBERNETES_SERVICE_HOST" in environ
        or "container" in environ
        or any(mark.exists() for mark in marks)
    )


class _Formatter(logging.Formatter):
    """What all formats share: the message redacted, on one line."""

    def message(self, record: logging.LogRecord) -> str:
        return printable(redacted(record.getMessage()))

    def traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info:
            return []
        return [
            printable(line) for line in redacted(self.formatException(record.exc_info)).splitlines()
        ]


class _Text(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return "\n".join([f"{time} {level}{self.message(record)}", *self.traceback(record)])


class _Journal(_Formatter):
    """The journal adds time and unit; a prefix tells it how grave a line is."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record.levelno)}>"
        lines = [self.message(record), *self.traceback(record)]
        return "\n".join(prefix + line for line in lines)


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.message(record),
        }
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        facts |= {
            key: printable(redacted(value)) if isinstance(value, str) else value
            for key, value in fields.items()
            if key not in facts
        }
        if lines := self.traceback(record):
            facts["traceback"] = "\n".join(lines)
        return json.dumps(facts, ensure_ascii=False, default=str)


def _priority(level: int) -> int:
    """Return the priority of syslog(3) for a level of logging's."""
    for least, priority in ((50, 2), (40, 3), (30, 4), (20, 6)):
        if level >= least:
            return priority
    return 7


_FORMATTERS: dict[Format, type[_Formatter]] = {"text": _Text, "journal": _Journal, "json": _Json}
