"""Bounds on the listener's connections, which anybody who reaches the port may open."""

import asyncio
import resource
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

#: The most connections at a time, and the most as a divisor of the process's open files: the
#: daemon's own work needs the rest.
MOST_CONNECTIONS, MOST_PART = 256, 4
#: Seconds in which the headers of a request must arrive, and after which a connection is closed
#: that is idle or whose client does not read.
HEADERS_SECONDS, IDLE_SECONDS = 10.0, 60.0


def most_connections() -> int:
    """Return how many connections the process's limit of open files allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft < 0 else max(1, min(MOST_CONNECTIONS, soft // MOST_PART))


class BoundedConnection(H11Protocol):
    """A connection with time limits; opening one too many closes the one that waits longest."""

    _timer: asyncio.TimerHandle | None = None
    #: on the event loop's clock
    _waits_since = 0.0
    #: whether part of a request has arrived
    _is_reading = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for this connection, and wait for its first request."""
        others = cast("set[BoundedConnection]", self.connections)
        if len(others) >= most_connections():
            min(others, key=lambda other: other._waits_since).end()  # noqa: SLF001 of its own kind
        super().connection_made(transport)
        self._allow(HEADERS_SECONDS)
        self._is_reading = True

    def data_received(self, data: bytes) -> None:
        """Take data; the first byte of a request starts the time limit of its headers."""
        if self._is_idle and not self._is_reading:
            self._allow(HEADERS_SECONDS)
            self._is_reading = True
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle the requests that have arrived in full."""
        super().handle_events()
        if not self._is_idle:
            self._allow(IDLE_SECONDS)

    def on_response_complete(self) -> None:
        """Wait until the client has read the answer and sends its next request."""
        self._allow(IDLE_SECONDS)
        super().on_response_complete()
        # uvicorn's own time limit flushes before it closes, so a client that never reads stays.
        self._unset_keepalive_if_required()

    def resume_writing(self) -> None:
        """Give a client that reads a long answer more time."""
        super().resume_writing()
        self._allow(IDLE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def end(self) -> None:
        """Cut the connection at once, and no longer count it."""
        self._stop_timer()
        self.connections.discard(self)
        self.transport.abort()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _allow(self, seconds: float) -> None:
        """Give the connection `seconds` for whatever comes next."""
        self._stop_timer()
        self._is_reading = False
        self._waits_since = self.loop.time()
        self._timer = self.loop.call_later(seconds, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._is_idle or self.transport.get_write_buffer_size():
            self.end()
        else:
            # The answer takes long to make: the client is not at fault.
            self._allow(IDLE_SECONDS)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
