"""An HTTP application on a thread of its own, on a socket that is bound already."""

import asyncio
import logging
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from syncd.server.connections import ACCEPTED_AT_ONCE, BoundedConnection

log = logging.getLogger(__name__)

#: How long a start may take, and answers under way at the end, in seconds.
START_SECONDS, STOP_SECONDS = 20.0, 1.0
#: Connections that the kernel lets wait to be accepted.
WAITING = 128
#: Requests at a time on a socket that only its owner reaches; what comes beyond is answered 503.
MOST_REQUESTS = 64


class HttpThread:
    """Serves `app` on `listener`, which it closes in the end.

    `bounded` is for a socket that anybody may reach: its connections are few, and none is slow.
    """

    def __init__(
        self, app: ASGIApp, listener: socket.socket, *, name: str, bounded: bool = False
    ) -> None:
        self._server = _Uvicorn(app, bounded=bounded)
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name=f"syncd-{name}", daemon=True)

    def start(self) -> None:
        """Serve; OSError where that cannot be."""
        self._thread.start()
        if not self._server.up.wait(START_SECONDS) or not self._server.started:
            self.stop()
            raise OSError("the HTTP server did not start")

    def stop(self) -> None:
        """Take no more requests, give those under way a second, and end; safe to call twice."""
        self._server.end()
        self._thread.join(START_SECONDS)
        self._listener.close()

    def _run(self) -> None:
        try:
            self._server.run([self._listener])
        except Exception:
            log.exception("the HTTP server ended")
        finally:
            self._server.up.set()


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its ten wake-ups a second: it sleeps until a request comes, or the end."""

    def __init__(self, app: ASGIApp, *, bounded: bool) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedConnection if bounded else "h11",
                ws="none",
                lifespan="off",
                log_config=None,
                # A request that makes no sense is its sender's business, and no line in our log.
                log_level="error",
                access_log=False,
                server_header=False,
                date_header=False,
                limit_concurrency=None if bounded else MOST_REQUESTS,
                backlog=ACCEPTED_AT_ONCE,
            )
        )
        #: set when it serves, and when it will not
        self.up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Have it end; from any thread."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ending.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            # asyncio accepts as many at a time as it lets wait; the kernel may let more wait.
            listener.listen(WAITING)
        self._loop = asyncio.get_running_loop()
        self.up.set()

    async def main_loop(self) -> None:
        if not self.should_exit:
            await self._ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
        # What was accepted a moment ago becomes a connection now: asyncio leaks what it accepted
        # and could not attach because its server was closed meanwhile.
        await asyncio.sleep(0.01)
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if tasks := self.server_state.tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)
        # Who does not read to the end is not waited for.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)
