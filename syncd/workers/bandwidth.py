"""Applies the bandwidth limit in force: a person's, the timetable's or the configured one."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from syncd.files_api import Bandwidth
from syncd.state import limits
from syncd.state.database.store import Store
from syncd.state.limits import Limit
from syncd.state.texts import JsonObject, timestamp
from syncd.timetable import Timetable
from syncd.units import rate

log = logging.getLogger(__name__)


class InForce(NamedTuple):
    """A limit in bytes a second (None: no limit), who set it, and when that ends, if it does."""

    rate: int | None
    #: configuration, timetable, or command
    source: str
    until: float | None

    def shown(self) -> JsonObject:
        """Return it as `status` and `limit` show it."""
        until = timestamp(self.until)
        return {"bytes_per_second": self.rate, "source": self.source, "until": until}


def in_force(limit: Limit | None, timetable: Timetable, now: float) -> InForce:
    """Return the limit in force at `now`; a person's limit overrides the configuration."""
    if limit is not None:
        return InForce(limit.rate, "command", limit.until)
    scheduled, until = timetable.at(now)
    return InForce(scheduled, "timetable" if timetable.entries else "configuration", until)


@dataclass(kw_only=True, eq=False)
class BandwidthControl:
    """Sets the limit of the bucket that all uploads share."""

    store: Store
    bucket: Bandwidth
    timetable: Timetable
    clock: Callable[[], float]
    #: notices that the clock was set, before a limit ends
    look_at_clock: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        #: the period for which the timetable's answer holds
        self._scheduled = (0.0, 0.0)
        self.in_force = InForce(None, "configuration", None)

    def step(self) -> float | None:
        """Apply what holds now; return the seconds until that changes by itself."""
        now = self.clock()
        limit = self.store.read(limits.kept)
        if limit is not None and limit.is_over(now):
            self.look_at_clock()
            self.store.write(limits.end_due, now)
            limit = self.store.read(limits.kept)
        if limit is not None or not self._scheduled[0] <= now < self._scheduled[1]:
            self._apply(in_force(limit, self.timetable, now), now, is_scheduled=limit is None)
        until = self.in_force.until
        return None if until is None else max(until - now, 0.0)

    def _apply(self, found: InForce, now: float, *, is_scheduled: bool) -> None:
        # Ask the timetable again when its next entry begins, or when the clock was set back.
        ends = float("inf") if found.until is None else found.until
        self._scheduled = (now, ends) if is_scheduled else (0.0, 0.0)
        if found.rate != self.in_force.rate:
            log.info("the limit on the bandwidth is %s (%s)", rate(found.rate), found.source)
            self.bucket.limit(found.rate)
        self.in_force = found
