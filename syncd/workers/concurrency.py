"""How many transfers go at a time: as many as make the whole faster, found out under way."""

import threading
from collections.abc import Callable

#: Transfers at a time at first, at least where more make nothing faster, and at most.
FIRST, FEWEST, MOST = 4, 2, 64
#: By what factor twice as many transfers must be faster to be worth their threads.
WORTH = 1.3
#: A level at which all is slower than this share of its best is too high by now.
TOO_SLOW = 0.5
#: Seconds after which more are tried again.
AGAIN_SECONDS = 15.0
#: Seconds in which further complaints of the service count as the same.
DEAF_SECONDS = 1.0
#: The fewest transfers by which a level is judged.
JUDGED_BY = 8
#: What a request costs beside its bytes, in bytes: so that small files and large compare.
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
        #: the speed before the last doubling; None while the limit stays
        self._to_beat: float | None = 0.0
        self._best = 0.0
        self._again_at = self._deaf_until = 0.0
        self._start_over(self.limit)

    def _start_over(self, limit: int) -> None:
        self.limit = limit
        self._since = self._monotonic()
        self._count = self._work = 0
        self._seconds = 0.0

    def finished(self, size: int, seconds: float) -> bool:
        """Count a transfer that was made while all were busy; return whether the limit changed."""
        if self._fixed is not None:
            return False
        with self._lock:
            now = self._monotonic()
            if now - seconds < self._since:
                # Others went beside it than go now.
                return False
            self._count += 1
            self._work += size + REQUEST_BYTES
            self._seconds += seconds
            if self._count < max(self.limit, JUDGED_BY):
                return False
            before = self.limit
            self._judge(before * self._work / max(self._seconds, 1e-6), now)
            return self.limit != before

    def _judge(self, speed: float, now: float) -> None:
        """Draw what follows from the speed of this level, and begin to measure anew."""
        limit = self.limit
        if self._to_beat is not None and speed < WORTH * self._to_beat:
            # The doubling was not worth it.
            self._to_beat, self._best = None, 0.0
            self._again_at = now + AGAIN_SECONDS
            limit //= 2
        elif self._to_beat is None and speed < TOO_SLOW * self._best:
            self._best = 0.0
            self._again_at = now + AGAIN_SECONDS
            limit = max(limit // 2, FEWEST)
        elif limit < MOST and (self._to_beat is not None or now >= self._again_at):
            self._to_beat = speed
            limit = min(limit * 2, MOST)
        else:
            self._to_beat = None
            self._best = max(self._best, speed)
        self._start_over(limit)

    def overloaded(self) -> None:
        """Halve the limit: the service has just said that it is too much.

        What was under way says so as well, and is no reason to halve again.
        """
        if self._fixed is not None:
            return
        with self._lock:
            now = self._monotonic()
            self._again_at = now + AGAIN_SECONDS
            if now < self._deaf_until:
                return
            self._deaf_until = now + DEAF_SECONDS
            self._to_beat, self._best = None, 0.0
            self._start_over(max(self.limit // 2, FEWEST))
