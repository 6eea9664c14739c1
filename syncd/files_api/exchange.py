"""One request in flight: until when it may take, whether it should stop, and what has left."""

import threading
import time
from collections.abc import Callable
from math import inf


class StopFlag(threading.Event):
    """Ends calls from another thread: each call in flight raises `Aborted` within a second.

    Calls that come after it is set are refused.
    """


class Interrupted(Exception):  # noqa: N818 - a signal inside this package, never seen outside
    """The exchange is to end now."""


class StopSeen(Interrupted):
    """The stop flag was set."""


class DeadlinePassed(Interrupted):
    """The total time for the exchange is over."""


class Exchange:
    """The state of a request that the client shares with the streams that carry it.

    `final` says that what was last handed to the transport ends the request, `released` that the
    kernel may have taken all that was; None if the transport does not count. `refuses` says why
    an address that a host turned out to have is not to be connected to. Times are on the monotonic
    clock, in seconds.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        deadline_seconds: float | None = None,
        stop: StopFlag | None = None,
        refuses: Callable[[str, str], str | None] = lambda _host, _address: None,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.refuses = refuses
        self.final = False
        self.released: bool | None = False
        #: whether a transport may put small parts of the body together
        self.gathers = True
        self._answering = False
        self._answered_by = inf
        self._stop = stop
        self._deadline = inf if deadline_seconds is None else time.monotonic() + deadline_seconds

    @property
    def may_be_delivered(self) -> bool:
        """Whether the whole request may have left; where not, it certainly was not delivered."""
        return self.final and self.released is not False

    def check(self) -> float:
        """Return the time; raise StopSeen or DeadlinePassed if the exchange is to end."""
        if self._stop is not None and self._stop.is_set():
            raise StopSeen
        now = time.monotonic()
        if now >= min(self._deadline, self._answered_by):
            raise DeadlinePassed
        return now

    def await_answer(self) -> None:
        """From here on a whole answer has `timeout_seconds`, at whatever pace it comes."""
        if not self._answering:
            self._answering = True
            self._answered_by = time.monotonic() + self.timeout_seconds

    def rest(self, seconds: float) -> float:
        """Wait on purpose, as part of no time limit; return for how long. Raise as `check` does."""
        began = self.check()
        if self._stop is None:
            time.sleep(seconds)
        else:
            self._stop.wait(seconds)
        rested = time.monotonic() - began
        self._deadline += rested
        self.check()
        return rested

    def go_on_answering(self) -> None:
        """Give the rest of a long answer as much time again."""
        self._answering = False
