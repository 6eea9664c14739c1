"""Times on the command line."""

import time
from datetime import datetime

import click

from syncd.log import printable
from syncd.units import parse_seconds


def past_time(_: click.Context, __: click.Parameter, given: str | None) -> float | None:
    """Return a time: how long ago it was, or an ISO 8601 date, local unless it says otherwise."""
    if given is None:
        return None
    now = time.time()
    try:
        is_duration = given[-1:] in ("s", "m", "h", "d")
        at = (
            now - parse_seconds(given) if is_duration else datetime.fromisoformat(given).timestamp()
        )
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(
            f"{printable(given)!r} is neither a duration (90m, 2h, 3d) nor a date (2026-11-29, "
            "2026-11-29T14:30, 2026-11-29T14:30Z)"
        ) from error
    if at > now:
        raise click.BadParameter(f"{printable(given)!r} lies in the future")
    return at
