"""Bounds on the connections of the listener: anybody who reaches the port may open them."""

import asyncio
import resource
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

#: Connections at a time, and the part of the process's open files that they may take at most: the
#: rest is left to the daemon's work.
MOST_CONNECTIONS, MOST_PART = 256, 4
#: Connections accepted in one go, before the first of them is counted.
ACCEPTED_AT_ONCE = 8
#: Seconds until the headers of a request must be whole, and until a connection on which nothing
#: comes or a request has been answered for so long is closed.
HEADERS_SECONDS, IDLE_SECONDS = 10.0, 60.0


def most_connections() -> int:
    """Return how many connections there may be under the process's limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft < 0 else max(1, min(MOST_CONNECTIONS, soft // MOST_PART))


class BoundedConnection(H11Protocol):
    """A connection that ends when it is slow; one too many ends the one that waits longest."""

    _timer: asyncio.TimerHandle | None = None
    #: on the loop's clock
    _waits_since = 0.0
    #: whether a request has begun to come and is not whole
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
        """Take what came: a request that trickles in has less time than one that is whole."""
        if self._is_idle and not self._is_reading:
            self._allow(HEADERS_SECONDS)
            self._is_reading = True
        super().data_received(data)

    def handle_events(self) -> None:
        """Take the requests that are whole by now."""
        super().handle_events()
        if not self._is_idle:
            self._allow(IDLE_SECONDS)

    def on_response_complete(self) -> None:
        """Wait until the answer is read and the next request begins."""
        self._allow(IDLE_SECONDS)
        super().on_response_complete()
        # The server's own time limit closes gently, and so never where nobody reads.
        self._unset_keepalive_if_required()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forbid()
        super().connection_lost(exc)

    def end(self) -> None:
        """Close the connection at once, whatever is under way, and no longer count it."""
        self._forbid()
        self.connections.discard(self)
        self.transport.abort()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _allow(self, seconds: float) -> None:
        """Give the connection so many seconds for what comes next."""
        self._forbid()
        self._is_reading = False
        self._waits_since = self.loop.time()
        self._timer = self.loop.call_later(seconds, self.end)

    def _forbid(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
