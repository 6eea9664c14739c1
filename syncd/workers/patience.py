"""When a listing that broke off at the start is read again, and when it never will be."""

import math
from collections.abc import Callable

from syncd.files_api import FilesApiError, RateLimitedError, RefusedError, UnauthorizedError

#: Seconds until a listing that broke off twice is read again; it doubles each time.
AGAIN_SECONDS, LONGEST_SECONDS = 5.0, 3600.0


class Patience:
    """Waits longer each time that a listing broke off after it had shown something.

    But for the first. Where a service shows nothing, the gate's pauses are enough.
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
        # A clock that was set back must not put it off.
        return 0 <= self._clock() - self._failed_at < pause


def may_not_list(error: FilesApiError) -> bool:
    """Say whether the service itself refuses to list, and not only for now."""
    passing = isinstance(error, UnauthorizedError | RateLimitedError)
    return isinstance(error, RefusedError) and error.is_the_services and not passing
