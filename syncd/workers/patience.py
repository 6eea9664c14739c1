"""Pauses between tries: for a listing that broke off, and for a request that was refused."""

import math
from collections.abc import Callable

from syncd.files_api import FilesApiError, RateLimitedError, RefusedError, UnauthorizedError

#: Seconds until a listing that broke off twice is read again; it doubles each time.
AGAIN_SECONDS, LONGEST_SECONDS = 5.0, 3600.0


class Patience:
    """Waits longer each time that a listing breaks off after it has shown something.

    The first time does not count. When a service shows nothing, the gate's rests are enough.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._failed_at = -math.inf

    def failed(self) -> None:
        """Count a failure."""
        self._failures += 1
        self._failed_at = self._clock()

    @property
    def is_resting(self) -> bool:
        """Whether it is too early for the next try."""
        if self._failures < 2:
            return False
        pause = min(AGAIN_SECONDS * 2.0 ** min(self._failures - 2, 10), LONGEST_SECONDS)
        # A clock that was set back must not prolong the pause.
        return 0 <= self._clock() - self._failed_at < pause


def may_not_list(error: FilesApiError) -> bool:
    """Return whether the service itself refuses to list for good."""
    passing = isinstance(error, UnauthorizedError | RateLimitedError)
    return isinstance(error, RefusedError) and error.is_the_services and not passing


class Throttle:
    """Limits how often each thing is asked for.

    Without it, a refusal would repeat at once: it places a hold, and that commit wakes the step.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked_at: dict[str, float] = {}

    def may(self, what: str, seconds: float) -> bool:
        """Return whether `what` may be asked for again, `seconds` after the last time."""
        now = self._clock()
        # A clock that was set back must not prolong the wait.
        if abs(now - self._asked_at.get(what, -math.inf)) < seconds:
            return False
        self._asked_at[what] = now
        return True
