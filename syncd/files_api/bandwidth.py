"""The bandwidth that all uploads share: a token bucket that pays for bytes before they leave."""

import threading
import time
from collections.abc import Callable

#: Seconds of the rate that are saved up at most while nothing is sent.
BURST_SECONDS = 0.3
#: Bytes that leave at once: as many as the rate brings in so many seconds, within bounds.
PIECE_SECONDS = 0.05
FEWEST_BYTES, MOST_BYTES = 1024, 256 * 1024


class Bandwidth:
    """A limit on the bytes of request bodies a second, over all clients that have it. Thread-safe.

    Bytes are served in the order in which they were booked. A new rate holds at once, also for
    what was booked before.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        #: bytes a second; None while nothing is limited
        self.rate: int | None = None
        #: bytes that were booked, and those that the time has paid for
        self._booked = self._paid = 0.0
        self._paid_at = monotonic()

    def limit(self, rate: int | None) -> None:
        """Let `rate` bytes leave a second from now on, or as many as can with None."""
        with self._lock:
            self._pay()
            if self.rate is None:
                self._paid = self._booked
            self.rate = rate

    @property
    def piece_bytes(self) -> int:
        """How many bytes should be booked at a time."""
        rate = self.rate
        wanted = MOST_BYTES if rate is None else int(rate * PIECE_SECONDS)
        return min(max(wanted, FEWEST_BYTES), MOST_BYTES)

    def book(self, size: int) -> float:
        """Book bytes; return their place in the order."""
        with self._lock:
            self._pay()
            self._booked += size
            return self._booked

    def seconds_until(self, place: float) -> float:
        """Return the seconds until what was booked may leave, at the rate of now."""
        with self._lock:
            if self.rate is None:
                return 0.0
            self._pay()
            return max(place - self._paid, 0.0) / self.rate

    def _pay(self) -> None:
        now = self._monotonic()
        if self.rate is not None:
            earned = self._paid + self.rate * (now - self._paid_at)
            self._paid = min(earned, self._booked + self.rate * BURST_SECONDS)
        self._paid_at = now
