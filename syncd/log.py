"""The log: for a person at a terminal, for the journal, or as JSON; without secrets, one line each.

Modules log as ever (`logging.getLogger(__name__)`). Facts for machines go along as
`extra=fields("uploaded", folder=name, bytes=size)`: JSON shows them beside the message, the journal
keeps them as fields of its own (`SYNCD_FOLDER`), a terminal leaves them out. What is said again and
again, with the same `cause`, is one line and a count. Names of files pass through `printable`.
"""

import json
import logging
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from syncd.offers import offered

Format = Literal["auto", "text", "journal", "json"]
#: Libraries that log too much below a warning, whole URLs included.
_CHATTY = ("httpx", "httpcore", "watchdog", "asyncio", "uvicorn")
#: Shorter than this a value is no secret, and hiding it would garble the text.
_SECRET_CHARS = 6
#: The query of a URL is a secret where it is presigned; user-info always is.
_URL_SECRETS = re.compile(r"(https?://)(?:[^\s/?#@\"'<>]+@)?([^\s?\"'<>]*)(\?[^\s\"'<>]*)?")

#: The socket on which the journal takes records with fields.
JOURNAL_SOCKET = "/run/systemd/journal/socket"
#: Seconds in which the same cause is told once; and how many causes are remembered.
REPEAT_SECONDS, MOST_CAUSES = 60.0, 1000
#: The most text that the journal takes in one datagram, with room for the fields.
_JOURNAL_BYTES = 48 << 10

_hidden: set[str] = set()


def fields(event: str, **facts: object) -> dict[str, Any]:
    """Return the `extra` that carries facts for machines along with a line; None is left out.

    Lines of one event and one `cause` are the same: the first is told, the others are counted.
    """
    known = {name: fact for name, fact in facts.items() if fact is not None}
    return {"fields": {"event": event, **known}}


def configure(
    style: Format = "auto",
    level: str = "info",
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Send all logging to `stream` (standard error), in `style`; safe to call again."""
    stream = stream or sys.stderr
    environ = os.environ if environ is None else environ
    chosen = _chosen(style, stream, environ)
    handler: logging.Handler = _StreamHandler(stream)
    if chosen == "journal" and is_journal(stream, environ):
        handler = _JournalHandler(stream)
    colours = chosen == "text" and stream.isatty() and not environ.get("NO_COLOR")
    handler.setFormatter(_Text(colours=colours) if colours else _FORMATTERS[chosen]())
    handler.addFilter(_repeats)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(capture=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def tell_repeats() -> None:
    """Log how often suppressed lines were repeated; to be called every now and then."""
    for logger, level, text in _repeats.over(time.monotonic()):
        logging.getLogger(logger).log(level, "%s", text)


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
    return "json" if in_container(environ) else "text"


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Return whether `stream` is the one that systemd means, and not one redirected since."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def in_container(environ: Mapping[str, str]) -> bool:
    """Return whether this process seems to run in a container."""
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return (
        "KUBERNETES_SERVICE_HOST" in environ
        or "container" in environ
        or any(mark.exists() for mark in marks)
    )


class _Repeats(logging.Filter):
    """Lets the first line of an event and cause pass, and counts those that follow."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        #: since when, how many more, and the first line
        self._seen: dict[tuple[str, int, str, str], tuple[float, int, str]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        facts: Mapping[str, Any] = getattr(record, "fields", {})
        if "cause" not in facts:
            return True
        key = (record.name, record.levelno, str(facts.get("event")), str(facts["cause"]))
        with self._lock:
            if key in self._seen:
                since, more, text = self._seen[key]
                self._seen[key] = (since, more + 1, text)
                return False
            if len(self._seen) < MOST_CAUSES:
                self._seen[key] = (time.monotonic(), 0, str(facts["cause"]))
        return True

    def over(self, now: float) -> list[tuple[str, int, str]]:
        """Forget what was first said a while ago; return a line for each that was repeated."""
        with self._lock:
            old = [key for key, (since, _, _) in self._seen.items() if now - since > REPEAT_SECONDS]
            told = [(key, *self._seen.pop(key)) for key in old]
        return [
            (key[0], key[1], f"{more} more like this in {REPEAT_SECONDS:.0f} s: {text}")
            for key, _, more, text in told
            if more
        ]


_repeats = _Repeats()


class _StreamHandler(logging.StreamHandler[TextIO]):
    """Writes lines; a stream that is closed, full or broken is no reason to stop."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handleError(record)


class _JournalHandler(_StreamHandler):
    """Hands records to the journal with their fields; as lines where it takes none."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._lines = _Journal()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.sendto(_journal_datagram(record, self._lines), JOURNAL_SOCKET)
        except OSError:
            super().emit(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _journal_datagram(record: logging.LogRecord, lines: "_Formatter") -> bytes:
    """Return a record as systemd's native protocol has it."""
    text = "\n".join([lines.message(record), *lines.traceback(record)])
    values = {
        "MESSAGE": text,
        "PRIORITY": str(_priority(record.levelno)),
        "SYSLOG_IDENTIFIER": "syncd",
        "SYNCD_LOGGER": record.name,
    }
    for name, fact in lines.facts(record).items():
        values[f"SYNCD_{name.upper()}"] = str(fact)
    datagram = bytearray()
    for name, value in values.items():
        coded = value.encode("utf-8", "backslashreplace")[:_JOURNAL_BYTES]
        # With its length before it, a value may hold anything, line breaks too.
        datagram += name.encode() + b"\n" + struct.pack("<Q", len(coded)) + coded + b"\n"
    return bytes(datagram)


class _Formatter(logging.Formatter):
    """The base of all formats: the message redacted, on one line."""

    def message(self, record: logging.LogRecord) -> str:
        return printable(redacted(offered(record.getMessage())))

    def facts(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the facts for machines, each fit to be shown."""
        facts: Mapping[str, Any] = getattr(record, "fields", {})
        return {
            name: printable(redacted(fact)) if isinstance(fact, str) else fact
            for name, fact in facts.items()
        }

    def traceback(self, record: logging.LogRecord) -> list[str]:
        if not record.exc_info:
            return []
        return [
            printable(line) for line in redacted(self.formatException(record.exc_info)).splitlines()
        ]


class _Text(_Formatter):
    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        if self._colours:
            at, level = f"\x1b[2m{at}\x1b[0m", self._coloured(level, record.levelno)
        return "\n".join([f"{at} {level}{self.message(record)}", *self.traceback(record)])

    def _coloured(self, level: str, number: int) -> str:
        colour = "31;1" if number >= logging.ERROR else "33" if number >= logging.WARNING else "2"
        return f"\x1b[{colour}m{level}\x1b[0m" if level else ""


class _Journal(_Formatter):
    """The journal adds time and unit; a prefix tells it how grave a line is."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_priority(record.levelno)}>"
        lines = [self.message(record), *self.traceback(record)]
        return "\n".join(prefix + line for line in lines)


class _Json(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts: dict[str, Any] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.message(record),
        }
        facts |= {name: fact for name, fact in self.facts(record).items() if name not in facts}
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
