"""How many transfers run at a time: as many as make the whole faster, measured as they run."""

import threading
from collections.abc import Callable
from statistics import median

#: Transfers at a time at first, at least, and at most.
FIRST, FEWEST, MOST = 4, 2, 64
#: Twice as many must be faster by this factor to be worth their threads.
WORTH = 1.3
#: A limit at which the speed falls below this share of its best has become too high.
TOO_SLOW = 0.5
#: Seconds after which more are tried again.
AGAIN_SECONDS = 2.0
#: Seconds in which further complaints of the service count as the same one.
DEAF_SECONDS = 1.0
#: The fewest transfers by which a level is judged: fewer are misled by a busy machine.
JUDGED_BY = 8
#: The cost of a request beside its bytes, in bytes: so that small files and large compare.
REQUEST_BYTES = 1 << 16


class Concurrency:
    """A limit that doubles while that pays, and halves when the service has too much to do.

    The transfers that spent most of their time under it tell what it achieves: with as many at a
    time, and each at the speed that was seen. Thread-safe; times are on `monotonic`.
    """

    def __init__(self, fixed: int | None, monotonic: Callable[[], float]) -> None:
        """`fixed` is a limit that never changes; None is for one that does."""
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._fixed = fixed
        self.limit = fixed or FIRST
        #: the limit from which a trial of more began, and its speed; None between trials
        self._trial: tuple[int, float] | None = None
        self._best = 0.0
        self._again_at = self._deaf_until = 0.0
        self._start_over(self.limit)

    def _start_over(self, limit: int) -> None:
        self.limit = limit
        self._since = self._monotonic()
        #: bytes a second of each transfer
        self._speeds: list[float] = []

    def finished(self, size: int, seconds: float) -> bool:
        """Count a transfer that was made while all were busy; return whether the limit changed."""
        if self._fixed is not None:
            return False
        with self._lock:
            now = self._monotonic()
            if now - seconds / 2 < self._since:
                # It ran beside another number of transfers for most of its time.
                return False
            self._speeds.append((size + REQUEST_BYTES) / max(seconds, 1e-6))
            before = self.limit
            if len(self._speeds) >= max(before, JUDGED_BY):
                self._start_over(self._judge(before * median(self._speeds), now))
            return self.limit != before

    def _judge(self, speed: float, now: float) -> int:
        """Return the limit that follows from the speed at this one."""
        if self._trial is not None:
            before, to_beat = self._trial
            return self._try_more(speed) if speed >= WORTH * to_beat else self._stay(before, now)
        # A best speed that was luck fades with time.
        self._best = max(0.9 * self._best, speed)
        if speed < TOO_SLOW * self._best:
            return self._stay(max(self.limit // 2, FEWEST), now)
        return self._try_more(speed) if now >= self._again_at else self.limit

    def _try_more(self, speed: float) -> int:
        """Begin a trial of twice as many transfers."""
        self._trial = (self.limit, speed) if self.limit < MOST else None
        return min(self.limit * 2, MOST)

    def _stay(self, limit: int, now: float) -> int:
        """End the trial; the next one comes a while later."""
        self._trial, self._best, self._again_at = None, 0.0, now + AGAIN_SECONDS
        return limit

    def overloaded(self) -> None:
        """Halve the limit: the service has just said that it is too much.

        Requests that were under way say the same, and are no reason to halve again.
        """
        if self._fixed is not None:
            return
        with self._lock:
            now = self._monotonic()
            self._again_at = now + AGAIN_SECONDS
            if now >= self._deaf_until:
                self._deaf_until = now + DEAF_SECONDS
                self._start_over(self._stay(max(self.limit // 2, FEWEST), now))
