"""Starts and stops the emulator: in a thread beside a caller, or as a process of its own."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from syncd.emulator.admission import Admission
from syncd.emulator.app import App
from syncd.emulator.arrivals import Arrivals
from syncd.emulator.contents import Contents, Folder
from syncd.emulator.control import Control
from syncd.emulator.endpoints import Endpoints
from syncd.emulator.fetching import Fetching
from syncd.emulator.hosts import is_loopback
from syncd.emulator.journal import Journal
from syncd.emulator.personalities import personality as personality_of
from syncd.emulator.presign import Signer
from syncd.emulator.processing import Processing
from syncd.emulator.settings import ORGANIZATION, Settings
from syncd.emulator.storage import Storage
from syncd.emulator.store import Store

if TYPE_CHECKING:
    from syncd.emulator.s3 import S3Place

#: How long a start may take; and, after every connection was cut, what is under way.
START_SECONDS, STOP_SECONDS = 20.0, 0.2


class Emulator:
    """A Files API on a thread of this process.

    `data` is the folder that keeps everything. `port` 0 picks a free one, and keeps it over a
    restart. `api_keys` maps keys to their organizations' uuids; `api_key` is the only key, of one
    organization; with neither, any key is accepted, and it listens on loopback alone. Remote files
    are fetched from private addresses only with `private_uris`. `s3` ("s3://bucket/folder") keeps
    the bytes in a bucket, with the credentials of the AWS variables. Presigned URLs begin with
    `public_url`, or with the address that a request came to. `personality` names how the service
    differs from others, and `traits` are single members of `Personality`. `clock` dates objects and
    presigned URLs.
    """

    def __init__(
        self,
        *,
        data: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        api_keys: Mapping[str, str] | None = None,
        max_body: int | None = None,
        rate_limit: float | None = None,
        processing_seconds: float = 0.0,
        private_uris: bool = False,
        s3: str | None = None,
        s3_endpoint: str | None = None,
        public_url: str | None = None,
        personality: Sequence[str] = (),
        clock: Callable[[], float] = time.time,
        **traits: Any,
    ) -> None:
        keys = dict(api_keys or {}) | ({api_key: ORGANIZATION} if api_key else {})
        self.personality = personality_of(*personality, **traits)
        self._settings = Settings(
            api_keys=keys,
            max_body=max_body,
            rate_limit=rate_limit,
            processing_seconds=processing_seconds,
            private_uris=private_uris,
            public_url=public_url and public_url.rstrip("/"),
            personality=self.personality,
        )
        if not keys and not is_loopback(host):
            reached = f"to listen on {host}, which other machines can reach"
            raise ValueError(f"{reached}, it needs a key: --api-key KEY")
        self._data, self._host, self._port, self._clock = data, host, port, clock
        self._s3: S3Place | None = None
        if s3 is not None:
            from syncd.emulator.s3 import s3_place  # noqa: PLC0415 - an extra

            self._s3 = s3_place(s3, s3_endpoint)
        self._running = ExitStack()
        self.url = ""

    def start(self) -> str:
        """Listen and serve; return the base URL once it answers.

        OSError where it cannot listen, or cannot use its folder.
        """
        with ExitStack() as running:
            listener = running.enter_context(_listen(self._host, self._port))
            self._port = listener.getsockname()[1]
            app, begin = self._build(running)
            server = _Server(app, begin)
            thread = threading.Thread(target=server.run, args=([listener],), name="emulator")
            thread.start()
            running.callback(thread.join)
            running.callback(server.end)
            if not server.ready.wait(START_SECONDS) or not server.started:
                raise OSError(f"the emulator did not start on port {self._port}")
            self._running = running.pop_all()
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{self._port}"
        return self.url

    def stop(self) -> None:
        """Cut every connection and close everything; safe to call twice."""
        self._running.close()

    def _build(self, running: ExitStack) -> tuple[App, Callable[[], None]]:
        """Return the application, and what is to run when its event loop does."""
        settings = self._settings
        store = Store(self._data, clock=self._clock)
        running.callback(store.close)
        journal = Journal(self._data)
        running.callback(journal.close)
        signer = Signer(self._data, clock=self._clock, seconds=settings.url_seconds)
        folder = Folder(self._data, signer)
        contents: Contents = folder
        if self._s3 is not None:
            contents = self._s3.bucket(self._data, clock=self._clock, seconds=settings.url_seconds)
        contents.sweep(store.taken())
        processing = Processing(store=store, contents=contents, seconds=settings.processing_seconds)
        process = processing.submit
        arrivals = Arrivals(store=store, contents=contents, process=process)
        fetching = Fetching(
            store=store,
            contents=contents,
            max_body=settings.max_body,
            process=process,
            private_uris=settings.private_uris,
        )
        app = App(
            endpoints=Endpoints(
                store=store,
                contents=contents,
                arrivals=arrivals,
                settings=settings,
                process=process,
                fetch=fetching.submit,
            ),
            storage=Storage(
                store=store,
                folder=folder,
                signer=signer,
                max_body=settings.max_body,
                process=process,
            ),
            control=Control(store=store, arrivals=arrivals, journal=journal),
            admission=Admission(settings, monotonic=time.monotonic),
            journal=journal,
            host=self._host,
            personality=settings.personality,
        )
        processing.start()
        running.callback(processing.stop)
        return app, fetching.resume

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class _Protocol(H11Protocol):
    """Hands each request its connection, so that a fault can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {"transport": transport}


class _Server(uvicorn.Server):
    """Uvicorn, told of its start and ended at once, where it would poll and wait for clients."""

    def __init__(self, app: App, begin: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_keep_alive=60,
            )
        )
        self.ready = threading.Event()
        self._begin = begin
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets)
        finally:
            self.ready.set()

    def end(self) -> None:
        """Have the server end; from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ending.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._begin()
        self.ready.set()

    async def main_loop(self) -> None:
        ending = asyncio.ensure_future(self._ending.wait())
        counter = 0
        while not ending.done():
            await self.on_tick(counter)
            counter += 10  # uvicorn counts tenths of seconds
            await asyncio.wait([ending], timeout=1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if tasks := self.server_state.tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Its protocol is named, because asyncio sets TCP_NODELAY only where it is; without, each answer
    waits 40 ms for a delayed acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def serve(*, data: Path, host: str, port: int, **chosen: Any) -> None:
    """Serve until SIGTERM or SIGINT; print on standard output where.

    `chosen` is what `Emulator` takes besides. To be called from the main thread.
    """
    ends = {signal.SIGTERM, signal.SIGINT}
    os.umask(0o077)
    # Blocked, a signal waits for sigwait; the threads that start below inherit the mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with Emulator(data=data, host=host, port=port, **chosen) as emulator:
            sys.stdout.write(f"listening on {emulator.url}\n")
            sys.stdout.flush()
            signal.sigwait(ends)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
