"""Starts and stops the emulator: in a thread beside a caller, or as a process of its own."""

import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType

import uvicorn

from syncd.emulator.app import App
from syncd.emulator.endpoints import Api
from syncd.emulator.presign import Signer
from syncd.emulator.processing import Processing
from syncd.emulator.settings import ORGANIZATION, Echo, Settings
from syncd.emulator.storage import Storage
from syncd.emulator.store import Store

START_SECONDS = 20.0


class Emulator:
    """A Files API on a thread of this process.

    `port` 0 picks a free one; `api_key` None accepts any key. `data` keeps everything.
    """

    def __init__(
        self,
        *,
        data: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        chosen = settings or Settings()
        keys = dict(chosen.api_keys) | ({api_key: ORGANIZATION} if api_key else {})
        self._settings = replace(chosen, api_keys=keys)
        self._data, self._host, self._port, self._clock = data, host, port, clock
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._store: Store | None = None
        self._processing: Processing | None = None
        self.url = ""

    def start(self) -> str:
        """Listen and serve; return the base URL once it answers. OSError where it cannot listen."""
        listener = _listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        self.url = f"http://{self._host}:{self._port}"
        self._data.mkdir(parents=True, exist_ok=True)
        store = self._store = Store(self._data, clock=self._clock)
        signer = Signer(self._data, clock=self._clock, seconds=self._settings.url_seconds)
        processing = self._processing = Processing(
            store=store, seconds=self._settings.processing_seconds
        )
        submit = processing.submit
        app = App(
            store=store,
            api=Api(store=store, signer=signer, submit=submit, settings=self._settings),
            storage=Storage(
                store=store, signer=signer, submit=submit, max_body=self._settings.max_body
            ),
            settings=self._settings,
        )
        server = self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
                timeout_keep_alive=60,
                server_header=False,
            )
        )
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="emulator", daemon=True
        )
        processing.start()
        self._thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise OSError(f"the emulator did not start on {self.url}")
            time.sleep(0.005)
        return self.url

    def stop(self) -> None:
        """Answer no more and close everything; safe to call twice."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = None
        if self._processing is not None:
            self._processing.stop()
            self._processing = None
        if self._store is not None:
            self._store.close()
            self._store = None

    def __enter__(self) -> "Emulator":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


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


def serve(
    *,
    data: Path,
    host: str,
    port: int,
    api_key: str | None = None,
    echo: Echo = "name",
    rate_limit: float | None = None,
    max_body: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; tell on standard output where."""
    stop = threading.Event()

    def received(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, received)
    settings = Settings(echo=echo, rate_limit=rate_limit, max_body=max_body)
    with Emulator(data=data, host=host, port=port, api_key=api_key, settings=settings) as emulator:
        sys.stdout.write(f"listening on {emulator.url}\n")
        sys.stdout.flush()
        stop.wait()
