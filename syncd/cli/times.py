"""Times on the command line."""

import re
import time
from datetime import datetime, timedelta

import click

from syncd.log import printable
from syncd.units import parse_seconds

#: The longest time that may be given, in seconds.
YEAR_SECONDS = 31_536_000.0
#: A time of day, and a date with or without one. ISO 8601 knows more, such as 12-23 for noon in a
#: time zone, which nobody means.
_CLOCK = re.compile(r"\d{2}:\d{2}(:\d{2})?", re.ASCII)
_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})?)?", re.ASCII
)


def span_of(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Return the seconds of a duration on the command line."""
    try:
        given = None if value is None else parse_seconds(value)
    except ValueError as error:
        raise click.BadParameter(f"{printable(value or '')!r} {error}") from error
    if given is not None and not 0 < given <= YEAR_SECONDS:
        raise click.BadParameter("it must be more than 0 and at most a year")
    return given


def past_time(_: click.Context, __: click.Parameter, given: str | None) -> float | None:
    """Return a time: how long ago it was, or an ISO 8601 date, local unless it says otherwise."""
    if given is None:
        return None
    now = time.time()
    try:
        is_duration = given[-1:] in ("s", "m", "h", "d")
        at = now - parse_seconds(given) if is_duration else _date(given).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(
            f"{printable(given)!r} is neither a duration (90m, 2h, 3d) nor a date (2026-11-29, "
            "2026-11-29T14:30, 2026-11-29T14:30Z)"
        ) from error
    if at > now:
        raise click.BadParameter(f"{printable(given)!r} lies in the future")
    return at


def future_time(_: click.Context, __: click.Parameter, given: str | None) -> float | None:
    """Return a time within a year: the next at which a clock shows it, or a date, as above."""
    if given is None:
        return None
    now = datetime.now().astimezone()
    is_clock = bool(_CLOCK.fullmatch(given))
    try:
        at = _date(f"{now:%Y-%m-%d} {given}" if is_clock else given)
        if is_clock and at.astimezone() <= now:
            at += timedelta(days=1)
        left = at.timestamp() - now.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        words = "is not a time such as 07:30 or '2026-12-24 07:30'"
        raise click.BadParameter(f"{printable(given)!r} {words}") from error
    if not 0 < left <= YEAR_SECONDS:
        when = "is over" if left <= 0 else "is more than a year away"
        raise click.BadParameter(f"{printable(given)!r} {when}")
    return at.timestamp()


def _date(given: str) -> datetime:
    """Return the moment that a date names, with or without a time; ValueError for other forms."""
    if not _DATE.fullmatch(given):
        raise ValueError(given)
    return datetime.fromisoformat(given)
