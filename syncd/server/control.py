"""The control socket, which only the owner of the state directory can open.

`GET /beat` returns the time of the daemon's last heartbeat. `POST /control/COMMAND` runs a command:
the body is a JSON object with its arguments, the answer is JSON Lines with its progress and, last,
its result or `{"error": message, "code": exit code}`, with `"stopping": true` if only the daemon's
end kept it from going on. A command that has begun runs to its end even
when its client hangs up.
"""

import asyncio
import json
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from syncd.commands import COMMANDS, Command, JsonObject
from syncd.components import Components
from syncd.disk import short_path
from syncd.exceptions import SyncdError
from syncd.http_thread import HttpThread
from syncd.liveness import SOCKET_NAME

log = logging.getLogger(__name__)

USAGE, FAILED = 2, 1
#: Lines queued for a slow reader; progress beyond that is dropped.
MOST_WAITING = 1000
#: Seconds that running commands get to end when the daemon stops.
STOP_SECONDS = 5.0
#: Requests at a time, beyond which 503 is answered.
MOST_REQUESTS = 64


@dataclass(kw_only=True, eq=False)
class Control:
    """Runs commands inside the daemon."""

    directory: Path
    #: returns the current components, which a reload replaces
    components: Callable[[], Components]
    beat_at: Callable[[], float] = time.time
    commands: Mapping[str, Command] = field(default_factory=lambda: COMMANDS)

    def __post_init__(self) -> None:
        #: whether the socket exists
        self.listens = False
        self._running: set[_Running] = set()
        self._open = ExitStack()

    def start(self) -> None:
        """Listen; when the socket cannot be made, log a warning and go on without."""
        routes = [
            Route("/beat", self._beat),
            Route("/control/{command}", self._command, methods=["POST"]),
        ]
        app = Starlette(routes=routes)
        try:
            with ExitStack() as opened:
                listener = _listen(self.directory)
                opened.callback(self._unlink)
                server = HttpThread(
                    app, listener, name="syncd-control", most_requests=MOST_REQUESTS
                )
                opened.callback(server.stop)
                server.start()
                opened.callback(self._end_commands)
                self._open = opened.pop_all()
                self.listens = True
        except OSError as error:
            log.warning(
                "commands cannot reach this daemon: no socket %s: %s; status, ls and why work",
                self.directory / SOCKET_NAME,
                error.strerror or error,
            )

    @property
    def busy(self) -> bool:
        """Whether a command is running."""
        return bool(self._running)

    def stop(self) -> None:
        """Tell running commands to end, and take no more; safe to call twice."""
        self._open.close()

    def _unlink(self) -> None:
        with suppress(OSError):
            (self.directory / SOCKET_NAME).unlink()

    def _end_commands(self) -> None:
        running = list(self._running)
        for command in running:
            command.stopped.set()
        for command in running:
            command.ended.wait(STOP_SECONDS)

    async def _beat(self, _request: Request) -> Response:
        return JSONResponse({"beat_at": self.beat_at()})

    async def _command(self, request: Request) -> Response:
        name = request.path_params["command"]
        if name not in self.commands:
            return _refusal(404, f"the running daemon does not know {name!r}: restart it")
        try:
            arguments = await request.json()
        except (ValueError, RecursionError):
            arguments = None
        except ClientDisconnect:
            return _refusal(400, "the connection ended in the middle of the arguments")
        if not isinstance(arguments, dict):
            return _refusal(400, "the arguments must be a JSON object")
        running = _Running(name, self.commands[name], self.components(), arguments, self._running)
        try:
            running.start()
        except RuntimeError as error:
            running.end()
            return _refusal(503, f"the running daemon cannot start a thread: {error}; try again")
        return StreamingResponse(running.lines(), media_type="application/x-ndjson")


class _Running(threading.Thread):
    """A command on a thread of its own, which neither waits for its client nor ends with it."""

    def __init__(
        self,
        name: str,
        command: Command,
        components: Components,
        arguments: JsonObject,
        running: "set[_Running]",
    ) -> None:
        super().__init__(name=f"syncd-command-{name}", daemon=True)
        self.stopped, self.ended = threading.Event(), threading.Event()
        self._messages = command(components, arguments)
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._outbox: asyncio.Queue[JsonObject | None] = asyncio.Queue()
        running.add(self)

    async def lines(self) -> AsyncIterator[str]:
        """Yield the command's messages as lines, until it ends."""
        while (message := await self._outbox.get()) is not None:
            yield json.dumps(message) + "\n"

    def run(self) -> None:
        try:
            self._perform()
        except SyncdError as error:
            self._send({"error": str(error), "code": error.exit_code})
        except Exception as error:
            log.exception("the command %s failed", self.name)
            message = f"internal error: {type(error).__name__}; see the daemon's log"
            self._send({"error": message, "code": FAILED})
        finally:
            self.end()

    def end(self) -> None:
        """Note that nothing more comes."""
        self._running.discard(self)
        self._send(None)
        self.ended.set()

    def _perform(self) -> None:
        for message in self._messages:
            is_progress = "step" in message
            if is_progress and self.stopped.is_set():
                error = "the daemon is stopping and interrupted the command: run it again"
                self._send({"error": error, "code": FAILED, "stopping": True})
                return
            if not is_progress or self._outbox.qsize() < MOST_WAITING:
                self._send(message)

    def _send(self, message: JsonObject | None) -> None:
        # Once the event loop is closed, nobody is listening.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._outbox.put_nowait, message)


def _listen(directory: Path) -> socket.socket:
    """Return a listening socket of mode 0600 in the state directory.

    It is bound through the directory's descriptor because a socket's path has at most 107 bytes.
    The caller holds the directory's lock, so an existing socket is a dead daemon's.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(directory, SOCKET_NAME) as path:
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108 - a path through a descriptor
            listener.bind(path)
            os.chmod(path, 0o600)  # noqa: PTH101
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message, "code": USAGE}, status)
