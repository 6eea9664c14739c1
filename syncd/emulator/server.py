"""Starts and stops the emulator: on a thread beside its caller, or as a process of its own."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from uvicorn.protocols.http.h11_impl import H11Protocol

from syncd.addresses import is_loopback
from syncd.emulator.admission import ORGANIZATION, Admission
from syncd.emulator.app import App
from syncd.emulator.arrivals import Arrivals
from syncd.emulator.contents import Contents, FolderContents
from syncd.emulator.control import EmulatorControl
from syncd.emulator.endpoints import Endpoints
from syncd.emulator.fetching import RemoteFetcher
from syncd.emulator.journal import Journal
from syncd.emulator.personalities import personality as personality_of
from syncd.emulator.presign import Signer
from syncd.emulator.processing import Processing
from syncd.emulator.records import Records
from syncd.emulator.storage import Storage
from syncd.emulator.store import ObjectIndex
from syncd.http_thread import HttpThread, listen

if TYPE_CHECKING:
    from syncd.emulator.s3 import S3Place


class Emulator(AbstractContextManager["Emulator"]):
    """A Files API on a thread of this process.

    `data` is the folder that keeps everything. `port` 0 picks a free port, and keeps it over a
    restart. `api_keys` maps keys to the uuids of their organizations; `api_key` is the only key, of
    one organization. Without either, any key is accepted, but only loopback is listened on.
    `max_body` is the largest upload in bytes, `processing_seconds` the least time that a video
    takes. `private_uris` allows fetching remote files from private addresses. `s3`
    ("s3://bucket/folder") keeps the bytes in a bucket, with the credentials in the AWS variables.
    Presigned URLs begin with `public_url`, or else with the host that a request named.
    `personality` names how the service differs from others, and `traits` override single members of
    `Personality`. `clock` dates objects and presigned URLs.
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
        if not keys and not is_loopback(host):
            reached = f"to listen on {host}, which other machines can reach"
            raise ValueError(f"{reached}, the emulator needs a key: --api-key KEY")
        self.personality = personality_of(*personality, **traits)
        self._admission = Admission(keys, rate_limit, host=host)
        self._max_body = max_body
        self._processing_seconds = processing_seconds
        self._private_uris = private_uris
        self._public_url = public_url and public_url.rstrip("/")
        self._data, self._host, self._port, self._clock = data, host, port, clock
        self._s3: S3Place | None = None
        if s3 is not None:
            from syncd.emulator.s3 import s3_place  # noqa: PLC0415 - an extra

            self._s3 = s3_place(s3, s3_endpoint)
        self._running = ExitStack()
        self.url = ""

    def start(self) -> str:
        """Listen and serve; return the base URL.

        Raise OSError when it cannot listen or cannot use its folder.
        """
        with ExitStack() as running:
            listener = running.enter_context(listen(self._host, self._port))
            self._port = listener.getsockname()[1]
            app, begin = self._build(running)
            server = HttpThread(
                app,
                listener,
                name="emulator",
                protocol=_Protocol,
                drain_seconds=0.0,
                date_header=True,
                begin=begin,
            )
            running.callback(server.stop)
            server.start()
            self._running = running.pop_all()
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{self._port}"
        return self.url

    def stop(self) -> None:
        """Cut every connection and close everything; safe to call twice."""
        self._running.close()

    def _build(self, running: ExitStack) -> tuple[App, Callable[[], None]]:
        """Return the application, and a function to call on its event loop at the start."""
        store = ObjectIndex(self._data, clock=self._clock)
        running.callback(store.close)
        journal = Journal(self._data)
        running.callback(journal.close)
        signer = Signer(self._data, clock=self._clock)
        folder = FolderContents(self._data, signer)
        contents = self._contents(folder)
        contents.sweep(store.taken())
        processing = Processing(store=store, contents=contents, seconds=self._processing_seconds)
        process = processing.submit
        arrivals = Arrivals(store=store, contents=contents, process=process)
        fetching = RemoteFetcher(
            store=store,
            contents=contents,
            max_body=self._max_body,
            process=process,
            private_uris=self._private_uris,
        )
        app = App(
            endpoints=Endpoints(
                store=store,
                contents=contents,
                records=Records(
                    contents=contents, traits=self.personality, public_url=self._public_url
                ),
                arrivals=arrivals,
                max_body=self._max_body,
                traits=self.personality,
                process=process,
                fetch=fetching.submit,
            ),
            storage=Storage(
                store=store,
                folder=folder,
                signer=signer,
                max_body=self._max_body,
                process=process,
            ),
            control=EmulatorControl(store=store, arrivals=arrivals, journal=journal),
            admission=self._admission,
            journal=journal,
            personality=self.personality,
        )
        processing.start()
        running.callback(processing.stop)
        return app, fetching.resume

    def _contents(self, folder: FolderContents) -> Contents:
        if self._s3 is None:
            return folder
        from syncd.emulator.s3 import Bucket  # noqa: PLC0415 - an extra

        return Bucket(self._data, self._s3, clock=self._clock)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Protocol(H11Protocol):
    """Gives each request its connection, so that a fault can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {"transport": transport}


def serve(*, data: Path, host: str, port: int, **chosen: Any) -> None:
    """Serve until SIGTERM or SIGINT, and print the URL on standard output.

    `chosen` are further arguments of `Emulator`. Call it from the main thread.
    """
    ends = {signal.SIGTERM, signal.SIGINT}
    os.umask(0o077)
    # Blocked signals wait for sigwait; the threads started below inherit the mask.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with Emulator(data=data, host=host, port=port, **chosen) as emulator:
            sys.stdout.write(f"listening on {emulator.url}\n")
            sys.stdout.flush()
            signal.sigwait(ends)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
