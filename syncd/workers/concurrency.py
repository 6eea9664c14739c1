"""How many transfers go at a time: as many as make the whole faster, found out under way."""

import threading
from collections.abc import Callable
from statistics import median

#: Transfers at a time at first, at least, and at most.
FIRST, FEWEST, MOST = 4, 2, 64
#: Twice as many must be faster by this factor to be worth their threads; half as many must reach
#: this share to be enough.
WORTH, ENOUGH = 1.3, 0.85
#: A level at which all is slower than this share of its best is too high by now.
TOO_SLOW = 0.5
#: Seconds after which more are tried again, or fewer, in turn.
AGAIN_SECONDS = 5.0
#: Seconds in which further complaints of the service count as the same.
DEAF_SECONDS = 1.0
#: The fewest transfers by which a level is judged.
JUDGED_BY = 8
#: The cost of a request beside its bytes, in bytes: so that small files and large compare.
REQUEST_BYTES = 1 << 16


class Concurrency:
    """A limit that doubles while that pays, and halves when the service has too much to do.

    The transfers that began since it was set tell what it achieves: with as many at a time, and
    each at the speed that was seen. Thread-safe; times are on `monotonic`.
    """

    def __init__(self, fixed: int | None, monotonic: Callable[[], float]) -> None:
        """`fixed` is a limit that never changes; None is for one that does."""
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._fixed = fixed
        self.limit = fixed or FIRST
        #: the limit that a trial began at, and its speed; None while the limit stays
        self._trial: tuple[int, float] | None = (0, 0.0)
        #: whether more are tried next, or fewer
        self._more = True
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
            if now - seconds < self._since:
                # Others went beside it than go now.
                return False
            self._speeds.append((size + REQUEST_BYTES) / max(seconds, 1e-6))
            before = self.limit
            if len(self._speeds) >= max(before, JUDGED_BY):
                self._start_over(self._judge(before * median(self._speeds), now))
            return self.limit != before

    def _judge(self, speed: float, now: float) -> int:
        """Return the limit that follows from the speed at this one."""
        if self._trial is None:
            self._best = max(self._best, speed)
            if speed < TOO_SLOW * self._best:
                return self._stay(max(self.limit // 2, FEWEST), now + AGAIN_SECONDS)
            return self._try(speed, now, more=self._more) if now >= self._again_at else self.limit
        before, to_beat = self._trial
        is_more = self.limit > before
        if speed >= (WORTH if is_more else ENOUGH) * to_beat:
            return self._try(speed, now, more=is_more)
        # Where more were not worth it, fewer may be enough.
        return self._stay(before, now + (0.0 if is_more else AGAIN_SECONDS))

    def _try(self, speed: float, now: float, *, more: bool) -> int:
        """Begin a trial of twice as many transfers, or of half."""
        self._more = not more
        limit = min(self.limit * 2, MOST) if more else max(self.limit // 2, FEWEST)
        if limit == self.limit:
            return self._stay(limit, now + AGAIN_SECONDS)
        self._trial = self.limit, speed
        return limit

    def _stay(self, limit: int, again_at: float) -> int:
        """End the trial; the next one is at `again_at`."""
        self._trial, self._best, self._again_at = None, 0.0, again_at
        return limit

    def overloaded(self) -> None:
        """Halve the limit: the service has just said that it is too much.

        Requests that were under way say so as well, and are no reason to halve again.
        """
        if self._fixed is not None:
            return
        with self._lock:
            now = self._monotonic()
            self._again_at = now + AGAIN_SECONDS
            if now >= self._deaf_until:
                self._deaf_until = now + DEAF_SECONDS
                self._start_over(self._stay(max(self.limit // 2, FEWEST), self._again_at))
