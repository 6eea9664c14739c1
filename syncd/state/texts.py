"""Values of the tables as people and JSON see them.

Times are RFC 3339 text in UTC, sizes are bytes.
"""

import base64
import os
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from syncd.log import printable

if TYPE_CHECKING:
    from syncd.state.holds import Hold

JsonObject = dict[str, Any]
#: The characters that need no escape within bash's $'...'.
_PLAIN = frozenset(map(chr, range(0x20, 0x7F))) - {"'", "\\"}


def shown(path: bytes) -> str:
    r"""Return a path as text, with bytes that are not UTF-8 written out (`\xff`)."""
    return path.decode("utf-8", "backslashreplace")


def storable(text: str) -> str:
    r"""Return `text` as a table can hold it, with bytes that are not UTF-8 written out (`\xff`).

    Python keeps such bytes as lone surrogates, which SQLite refuses.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def argument(path: bytes) -> str:
    """Return any path quoted for bash, and never as an option."""
    end_of_options = "-- " if path.startswith(b"-") else ""
    if printable(path).encode() == path:
        return end_of_options + shlex.quote(os.fsdecode(path))
    plain = (chr(byte) if chr(byte) in _PLAIN else f"\\x{byte:02x}" for byte in path)
    return f"{end_of_options}$'{''.join(plain)}'"


def path_members(path: bytes) -> JsonObject:
    """Return the members of an object that tell a path: Base64 too if the text is not exact."""
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path": shown(path), "path_b64": base64.b64encode(path).decode()}


def path_bytes(entry: JsonObject) -> bytes:
    """Return the exact path of an object that has the texts of one."""
    exact = entry.get("path_b64")
    return base64.b64decode(exact) if exact else str(entry["path"]).encode()


def timestamp(seconds: float | None) -> str | None:
    """Return seconds since the epoch as RFC 3339 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def seconds(when: str) -> float:
    """Return an RFC 3339 time as seconds since the epoch."""
    return datetime.fromisoformat(when).timestamp()


def error_text(
    message: str | None, status: int | None, code: str | None, request_id: str | None
) -> str | None:
    """Return a copy's last error in one line; None when it has none."""
    if message is None:
        return None
    facts = [f"status {status}" if status else ""]
    facts.append(code if code and not code.startswith("local.") else "")
    facts.append(f"request {request_id}" if request_id else "")
    known = ", ".join(filter(None, facts))
    return f"{message} ({known})" if known else message


def hold_object(hold: "Hold") -> JsonObject:
    """Return a hold as `status --json` shows it; its reason is a code, then words."""
    return {
        "id": hold.id,
        "stops": hold.stops,
        "scope": hold.scope,
        "reason": f"{hold.reason}: {hold.message}",
        "since": timestamp(hold.since),
        "affects": hold.affects,
        "first": hold.first,
        "commands": hold.commands,
    }
