"""How fast to send to a service that answered 429: it does not say what rate it bears."""

import threading
from collections import deque
from collections.abc import Callable
from math import inf

#: Seconds after a 429 in which the rate is again what was too much; it lingers around there.
REGAINED_SECONDS = 15.0
#: By how much to go slower than a rate that was too much, where it held for a while, and where not.
CUT, DEEP_CUT = 0.08, 0.3
#: Seconds for which a rate has to hold, to be nearly right.
HELD_SECONDS = 5.0
#: Requests a second: fewer are never taken for too much, and more need no pace.
SLOWEST, FASTEST = 0.5, 1000.0
#: The successes, and for how many seconds, that tell the rate at the first 429.
_COUNTED, LATELY = 10, 5.0


class Pace:
    """Gives each request its turn, at a rate that is learned from the service's refusals.

    There is none before the first of them. Later it grows by the cube of the time: slowly around
    the rate that was too much, and so fast after it that a passing trouble is forgotten within some
    minutes. Thread-safe.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._successes: deque[float] = deque(maxlen=_COUNTED)
        #: the rate that was too much, and when to go on beneath it
        self._too_much = inf
        self._cut = CUT
        self._since = 0.0
        self._next_turn = 0.0

    def succeeded(self) -> None:
        """Count a request that was served."""
        self._successes.append(self._monotonic())

    def refused(self, pause: float) -> None:
        """Go slower from the end of `pause` seconds on: a request of now was one too many."""
        with self._lock:
            now = self._monotonic()
            lately = [at for at in self._successes.copy() if at > max(now - LATELY, self._since)]
            if lately:
                is_new = self._too_much == inf
                served = len(lately) / max(now - lately[0], 1.0 / FASTEST)
                self._cut = DEEP_CUT if now - self._since < HELD_SECONDS else CUT
                self._too_much = max(served if is_new else self._rate(now), SLOWEST)
            # A service that refuses everything tells of no rate.
            self._since = self._next_turn = now + pause

    def seconds_until_turn(self) -> float:
        """Take the next turn, and return the seconds until then."""
        with self._lock:
            if self._too_much == inf:
                return 0.0
            now = self._monotonic()
            rate = self._rate(now)
            if rate > FASTEST:
                self._too_much = inf
                return 0.0
            turn = max(self._next_turn, now)
            self._next_turn = turn + 1.0 / rate
            return turn - now

    def _rate(self, now: float) -> float:
        age = max(now - self._since, 0.0) / REGAINED_SECONDS - 1.0
        return self._too_much * (1.0 + self._cut * age**3)
