"""An HTTP application on a thread of its own: how the daemon and the emulator serve. A leaf."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)

#: Seconds that a start may take, and that requests may take to end once their connection is cut.
START_SECONDS, CUT_SECONDS = 20.0, 0.2
#: Connections that the kernel queues until they are accepted.
BACKLOG = 1024
#: Connections accepted in one go, before the first of them is counted.
ACCEPTED_AT_ONCE = 8


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket; `port` 0 picks a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # create_server appends the address, which the caller names anyway.
        reason = str(error.strerror).partition(" (while")[0]
        raise OSError(error.errno, reason) from error
    # Inherited by each connection: without it, an answer may wait 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class HttpThread:
    """Serves `app` on `listener`, and closes the listener at the end.

    `protocol` handles each connection. More than `most_requests` at a time are answered 503.
    Requests in flight get `drain_seconds` at the end. `begin` runs on the event loop before the
    first request. `date_header` costs a wake-up a second.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        name: str,
        protocol: type[H11Protocol] = H11Protocol,
        most_requests: int | None = None,
        drain_seconds: float = 1.0,
        date_header: bool = False,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._server = _Uvicorn(
            drain_seconds,
            begin,
            app=app,
            http=protocol,
            limit_concurrency=most_requests,
            date_header=date_header,
        )
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Serve; raise OSError when the server does not start."""
        self._thread.start()
        if not self._server.up.wait(START_SECONDS) or not self._server.started:
            self.stop()
            raise OSError("the HTTP server did not start")

    def stop(self) -> None:
        """Stop accepting requests, drain those in flight, and end; safe to call twice."""
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
    """Uvicorn without its ten wake-ups a second: it sleeps until a request or the end comes."""

    def __init__(self, drain_seconds: float, begin: Callable[[], None], **chosen: Any) -> None:
        super().__init__(
            uvicorn.Config(
                ws="none",
                lifespan="off",
                log_config=None,
                # A malformed request is its sender's mistake and does not belong in our log.
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_keep_alive=60,
                backlog=ACCEPTED_AT_ONCE,
                **chosen,
            )
        )
        #: set once it serves, and when it fails to
        self.up = threading.Event()
        self._drain_seconds = drain_seconds
        self._begin = begin
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Tell the server to end; safe to call from any thread."""
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ending.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            # asyncio passes the number it accepts at once to the kernel as the backlog.
            listener.listen(BACKLOG)
        self._loop = asyncio.get_running_loop()
        self._begin()
        self.up.set()

    async def main_loop(self) -> None:
        ending = asyncio.ensure_future(self._ending.wait())
        while not self.should_exit:
            await self.on_tick(0)
            await asyncio.wait([ending], timeout=1.0 if self.config.date_header else None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        for server in self.servers:
            for listener in server.sockets:
                loop.remove_reader(listener.fileno())
        # Let connections that were just accepted attach: asyncio leaks those whose server closes
        # before they do.
        await asyncio.sleep(0.01)
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._wait(self._drain_seconds)
        # A client that does not read its answer is not waited for.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await self._wait(CUT_SECONDS)

    async def _wait(self, seconds: float) -> None:
        """Wait for requests in flight."""
        await asyncio.sleep(0)
        if seconds and (tasks := self.server_state.tasks):
            await asyncio.wait(tasks, timeout=seconds)
