"""The control socket, for the owner of the state directory alone.

`GET /beat` tells when the daemon beat last. `POST /control/COMMAND` carries out a command.

The body holds the command's arguments as a JSON object. The answer is JSON Lines: how far it is,
and at last the result, or `{"error": message, "code": exit code}`. A command that was begun goes
on to its end when whoever asked for it hangs up.
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
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from syncd.commands import COMMANDS, Command, JsonObject
from syncd.disk import short_path
from syncd.exceptions import SyncdError
from syncd.heartbeat import SOCKET_NAME
from syncd.parts import Parts
from syncd.server.http_thread import HttpThread

log = logging.getLogger(__name__)

USAGE, FAILED = 2, 1
#: A million paths fit; more is a mistake.
MOST_BYTES = 256 << 20
#: Lines that wait for a reader who is slow: progress beyond that is left out.
MOST_WAITING = 1000
#: How long commands under way get at the end, in seconds.
STOP_SECONDS = 5.0


class Control:
    """Takes commands while the daemon runs."""

    def __init__(
        self,
        *,
        directory: Path,
        parts: Callable[[], Parts],
        beat_at: Callable[[], float] = time.time,
        commands: Mapping[str, Command] = COMMANDS,
    ) -> None:
        """`parts` returns those that run now: a reload puts others in their place."""
        self._beat_at = beat_at
        #: whether the socket is there
        self.listens = False
        self._directory = directory
        self._parts = parts
        self._commands = commands
        self._running: set[_Running] = set()
        self._open = ExitStack()

    def start(self) -> None:
        """Listen. Where a socket cannot be, the daemon goes on without, and says so."""
        routes = [
            Route("/beat", self._beat),
            Route("/control/{command}", self._command, methods=["POST"]),
        ]
        app = Starlette(routes=routes)
        try:
            with ExitStack() as opened:
                listener = _listen(self._directory)
                opened.callback(self._unlink)
                server = HttpThread(app, listener, name="control")
                opened.callback(server.stop)
                server.start()
                opened.callback(self._end_commands)
                self._open = opened.pop_all()
                self.listens = True
        except OSError as error:
            log.warning(
                "commands cannot reach this daemon: no socket %s: %s; status, ls and why work",
                self._directory / SOCKET_NAME,
                error.strerror or error,
            )

    @property
    def busy(self) -> bool:
        """Whether a command is under way."""
        return bool(self._running)

    def stop(self) -> None:
        """Tell commands under way to end, and take no more; safe to call twice."""
        self._open.close()

    def _unlink(self) -> None:
        with suppress(OSError):
            (self._directory / SOCKET_NAME).unlink()

    def _end_commands(self) -> None:
        running = list(self._running)
        for command in running:
            command.stopped.set()
        for command in running:
            command.join(STOP_SECONDS)

    async def _beat(self, _request: Request) -> Response:
        return JSONResponse({"beat_at": self._beat_at()})

    async def _command(self, request: Request) -> Response:
        name = request.path_params["command"]
        if name not in self._commands:
            return _refusal(404, f"the running daemon does not know {name!r}; restart it")
        try:
            arguments = json.loads(await _body(request))
        except (ValueError, RecursionError):
            arguments = None
        except ClientDisconnect:
            return _refusal(400, "the arguments broke off")
        if not isinstance(arguments, dict):
            return _refusal(400, "the arguments must be a JSON object")
        running = _Running(name, self._commands[name], self._parts(), arguments, self._running)
        running.start()
        return StreamingResponse(running.lines(), media_type="application/x-ndjson")


class _Running(threading.Thread):
    """A command on a thread of its own: it neither waits for its reader nor ends with him."""

    def __init__(
        self,
        name: str,
        command: Command,
        parts: Parts,
        arguments: JsonObject,
        running: "set[_Running]",
    ) -> None:
        super().__init__(name=f"syncd-command-{name}", daemon=True)
        self.stopped = threading.Event()
        self._said_by = command(parts, arguments)
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[JsonObject | None] = asyncio.Queue()
        running.add(self)

    async def lines(self) -> AsyncIterator[str]:
        """Yield what it says, a line each, until it has ended."""
        while (said := await self._said.get()) is not None:
            yield json.dumps(said) + "\n"

    def run(self) -> None:
        try:
            self._carry_out()
        except SyncdError as error:
            self._say({"error": str(error), "code": error.exit_code})
        except Exception as error:
            log.exception("the command %s failed", self.name)
            message = f"internal error: {type(error).__name__}; the daemon's log says more"
            self._say({"error": message, "code": FAILED})
        finally:
            self._running.discard(self)
            self._say(None)

    def _carry_out(self) -> None:
        last: JsonObject = {}
        for said in self._said_by:
            if last and self.stopped.is_set():
                raise SyncdError("the daemon is stopping: the command was not carried out whole")
            if last and self._said.qsize() < MOST_WAITING:
                self._say(last)
            last = said
        self._say(last)

    def _say(self, said: JsonObject | None) -> None:
        # After the end of the loop nobody listens any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._said.put_nowait, said)


def _listen(directory: Path) -> socket.socket:
    """Return a listening socket in the state directory, mode 0600; OSError.

    Reached through the directory's descriptor: a socket's path may have 107 bytes and no more. The
    caller holds the directory's lock, so that a socket that is there is a dead daemon's.
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


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MOST_BYTES:
            raise ValueError("the arguments are too long")
        parts.append(part)
    return b"".join(parts)


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message, "code": USAGE}, status)
