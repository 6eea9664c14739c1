"""The kinds of values that settings have: their units, bounds and words."""

from itertools import pairwise
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from syncd.config.credentials import KEY_VARIABLE
from syncd.timetable import Timetable
from syncd.units import parse_bytes, parse_seconds

#: A longer time is a mistake.
DAY_SECONDS, YEAR_SECONDS = 86_400.0, 31_536_000.0
MOST_WORKERS = 64


def _bytes(value: Any) -> Any:
    return parse_bytes(value) if isinstance(value, str) else value


def _seconds(value: Any) -> Any:
    return parse_seconds(value) if isinstance(value, str) else value


def _span(seconds: float) -> float:
    if not 0 <= seconds <= YEAR_SECONDS:
        raise ValueError(f"must be from 0 to {YEAR_SECONDS:.0f} seconds (a year)")
    return seconds


def _limit(value: Any) -> Any:
    if not (_is_number(value) or value == "off"):
        raise ValueError('must be a number, or "off"')
    return None if value == "off" else value


def _is_number(value: Any) -> bool:
    """Say whether a value is a number, or the text of one, as a variable has it."""
    try:
        return not isinstance(value, bool) and float(value) is not None
    except (TypeError, ValueError):
        return False


def _uuid(text: str) -> str:
    digits = text.replace("-", "").lower()
    if len(digits) != 32 or set(digits) - set("0123456789abcdef"):
        raise ValueError("must be a UUID, such as 123e4567-e89b-12d3-a456-426614174000")
    cuts = (0, 8, 12, 16, 20, 32)
    return "-".join(digits[start:end] for start, end in pairwise(cuts))


#: In one spelling: copies in the same workspace are recognized by it.
WorkspaceUuid = Annotated[str, AfterValidator(_uuid)]
#: Whole bytes, at least one; text with a unit, or a number.
Size = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
#: Seconds, more than none; text with a unit, or a number.
Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False)]
#: Seconds, from none to a year, as a number alone; text with a unit is refused.
Span = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_span)]
#: Limits that `"off"` turns off (None).
Count = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_limit)]
Percent = Annotated[Annotated[float, Field(ge=0, le=100)] | None, BeforeValidator(_limit)]


def _automatic(value: Any) -> Any:
    if value == "auto":
        return None
    if not (_is_number(value) and float(value) in range(1, MOST_WORKERS + 1)):
        raise ValueError(f'must be a number from 1 to {MOST_WORKERS}, or "auto"')
    return value


Workers = Annotated[int | None, BeforeValidator(_automatic)]


def _timetable(text: str) -> str:
    Timetable.parse(text)
    return text


Bandwidth = Annotated[str, AfterValidator(_timetable)]


def checked_url(url: str) -> str:
    """Return the URL of a service; ValueError where it cannot be one."""
    wanted = "must be a URL such as https://api.example.com"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError(wanted) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise ValueError(wanted)
    if parts.query or parts.fragment or " " in url:
        raise ValueError(f"{wanted}, without a query")
    if parts.username is not None:
        raise ValueError(f"{wanted}, without a user name: the key goes into {KEY_VARIABLE}")
    return url


def checked_proxy(url: str) -> str:
    """Return the URL of a proxy; ValueError where it cannot be one."""
    try:
        parts = urlsplit(url)
        sane = parts.port != 0 and parts.scheme == "http" and bool(parts.hostname)
        sane &= url.isprintable() and " " not in url
    except ValueError:
        sane = False
    if not sane or parts.path.strip("/") or parts.query or parts.fragment:
        # No example with a user: the log would cut it out of the message.
        raise ValueError(
            "must look like http://proxy:3128; a user and password go before the host, as "
            "user:password@, with special characters percent-encoded (%20 is a space, %23 is #, "
            "%2F is /)"
        )
    return url
