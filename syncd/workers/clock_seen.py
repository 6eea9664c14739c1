"""Notices that the wall clock was set, by comparing it with a clock that nobody can set.

Grace periods then restart, and due times and the ends of pauses and limits move with the clock,
here and nowhere else. Times that are past stay as they were noted, such as `stored_at`, from which
`stalled_after` counts: such an age grows or shrinks with the jump.
"""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from syncd.state import folders, grace, limits
from syncd.state.database.store import Store, Transaction, read_fact, set_fact
from syncd.state.holds import pauses

log = logging.getLogger(__name__)

#: The fact that keeps the last reading of the clocks.
CLOCK = "clock"
#: Seconds between two recordings of the clocks.
CLOCK_NOTED_SECONDS = 600.0
#: Seconds by which the wall clock must depart from the steady one to count as set.
CLOCK_JUMP_SECONDS = 30.0
#: The longest time for which a machine is believed to have been off, in seconds.
LONGEST_OFF_SECONDS = 400 * 86_400.0


def boottime() -> float:
    """Return seconds of a clock that runs while the machine is suspended, and cannot be set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the id of this boot; a random one when the kernel tells none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class ClockSeen:
    """A reading of the clocks: the machine's boot, the difference between them, and the time."""

    boot: str
    drift: float
    at: float

    @classmethod
    def parse(cls, text: str) -> "ClockSeen":
        """Return the reading that `str` wrote."""
        boot, drift, *at = text.split()
        # Older versions did not record the time.
        return cls(boot, float(drift), float(at[0]) if at else float(drift))

    def __str__(self) -> str:
        return f"{self.boot} {self.drift} {self.at}"

    def jump(self, now: "ClockSeen") -> float:
        """Return the seconds by which the clock was set between this reading and `now`, or 0.

        Within one boot, the steady clock decides. After a reboot, the wall clock is believed if it
        is neither behind this reading nor far ahead of it.
        """
        if self.boot == now.boot:
            jump = now.drift - self.drift
            return jump if abs(jump) >= CLOCK_JUMP_SECONDS else 0.0
        passed = now.at - self.at
        return 0.0 if 0.0 <= passed <= LONGEST_OFF_SECONDS else passed


@dataclass(kw_only=True, eq=False)
class ClockWatch:
    """Compares the clocks with their last reading, which it keeps in the state."""

    store: Store
    clock: Callable[[], float]
    #: a clock that nobody can set, in seconds since the machine's start `boot`
    steady: Callable[[], float]
    boot: str

    def __post_init__(self) -> None:
        self._seen: ClockSeen | None = None
        self._noted_at = 0.0

    def look(self) -> None:
        """Notice that the clock was set, so that nothing ends by the jump.

        Call this before a time is taken as over, and before one is promised.
        """
        now = self.clock()
        seen = ClockSeen(self.boot, now - self.steady(), now)
        known = self._seen or self.store.read(read_fact, CLOCK, ClockSeen.parse)
        jump = known.jump(seen) if known else 0.0
        if known is None or jump:
            if jump:
                log.warning("the clock was set by %+.0f s; every grace period restarts", jump)
            self.store.write(_restart, now, max(-jump, 0.0))
            self._noted_at = 0.0
        if abs(now - self._noted_at) >= CLOCK_NOTED_SECONDS:
            self.store.write(_note, seen)
            self._noted_at = now
        self._seen = seen


def clock_watch(store: Store, clock: Callable[[], float] = time.time) -> ClockWatch:
    """Return the watch over this machine's clock."""
    return ClockWatch(store=store, clock=clock, steady=boottime, boot=boot_id())


def _restart(db: Transaction, now: float, set_back: float) -> None:
    grace.restart(db, now, folders.names(db), set_back=set_back)


def _note(db: Transaction, seen: ClockSeen) -> None:
    """Record a reading, and move with the clock what it is behind since the last one.

    That is one transaction: the same jump moves nothing twice, whoever notices it.
    """
    known = read_fact(db, CLOCK, ClockSeen.parse)
    if known and (jump := known.jump(seen)):
        pauses.move_spans(db, jump)
        limits.move_span(db, jump)
    set_fact(db, CLOCK, str(seen))
