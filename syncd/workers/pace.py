"""How fast to send to a service that answers 429, but not at which rate it would not."""

import threading
from collections import deque
from collections.abc import Callable
from math import inf

#: Seconds after a 429 until the rate is the one that was too high again; it stays near it.
REGAINED_SECONDS = 15.0
#: How far to drop below a rate that was too high: after it held for a while, and if it did not.
CUT, DEEP_CUT = 0.08, 0.3
#: A rate that held for so many seconds was nearly right.
HELD_SECONDS = 5.0
#: Requests a second: the lowest pace, and the one above which none is needed.
SLOWEST, FASTEST = 0.5, 1000.0
#: The most successes, and their age in seconds, that tell the rate at the first 429.
_COUNTED, LATELY = 10, 5.0


class Pace:
    """Gives each request its turn, at a rate that is learned from the service's refusals.

    Before the first refusal there is no limit. Later the rate grows with the cube of the time:
    slowly around the rate that was too high, and then so fast that a passing trouble is forgotten
    within minutes. Thread-safe.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._successes: deque[float] = deque(maxlen=_COUNTED)
        #: the rate that was too high, and when to go on below it
        self._too_much = inf
        self._cut = CUT
        self._since = 0.0
        self._next_turn = 0.0

    def succeeded(self) -> None:
        """Count a request that was served."""
        self._successes.append(self._monotonic())

    def refused(self, rest: float) -> None:
        """Go slower from the end of `rest` seconds on: a request of now was one too many."""
        with self._lock:
            now = self._monotonic()
            lately = [at for at in self._successes.copy() if at > max(now - LATELY, self._since)]
            if lately:
                is_new = self._too_much == inf
                served = len(lately) / max(now - lately[0], 1.0 / FASTEST)
                self._cut = DEEP_CUT if now - self._since < HELD_SECONDS else CUT
                self._too_much = max(served if is_new else self._rate(now), SLOWEST)
            # A service that refuses everything reveals no rate.
            self._since = self._next_turn = now + rest

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
