"""How a command that changes something is carried out: by the daemon, or here under its lock."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from syncd.cli.options import Options
from syncd.commands import COMMANDS
from syncd.disk import short_path
from syncd.exceptions import StateLockedError, SyncdError
from syncd.heartbeat import SOCKET_NAME
from syncd.parts import opened
from syncd.state.owner import refuse_to_read
from syncd.state.store import lock_holder

JsonObject = dict[str, Any]
#: Seconds for which a daemon that is just starting, or just ending, is waited for.
START_SECONDS = 5.0
#: Seconds within which a daemon that works begins to answer.
ANSWER_SECONDS = 15.0
#: Seconds between two tries.
_PAUSE_SECONDS = 0.1


class CommandError(SyncdError):
    """The daemon could not carry out a command; `exit_code` is as if it had been done here."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def perform(
    options: Options,
    command: str,
    arguments: JsonObject,
    *,
    progress: Callable[[JsonObject], None] = lambda _: None,
) -> JsonObject:
    """Carry out `command` and return its result; `progress` is told each object before it.

    A daemon that runs has key and folders: only without one must the configuration name them.
    SyncdError as the command raises it, here or in the daemon; StateLockedError where another
    process has the state and takes no commands.
    """
    result: JsonObject = {}
    for said in _carried_out(options, command, arguments):
        if result:
            progress(result)
        result = said
    return result


def _carried_out(options: Options, command: str, arguments: JsonObject) -> Iterator[JsonObject]:
    directory = options.load(to_sync=False).state.directory
    with suppress(OSError):
        refuse_to_read(directory)
    if (connection := _daemon(directory)) is not None:
        try:
            yield from _asked(connection, command, arguments)
        finally:
            connection.close()
        return
    with opened(options.load(to_sync=True)) as parts:
        yield from COMMANDS[command](parts, arguments)


def _daemon(directory: Path) -> "_Connection | None":
    """Return a connection to the daemon that has the state; None where none has it."""
    deadline = time.monotonic() + START_SECONDS
    while (pid := lock_holder(directory)) is not None:
        connection = _Connection(directory)
        try:
            connection.connect()
        except OSError as error:
            if time.monotonic() > deadline:
                raise StateLockedError(
                    f"syncd (process {pid}) uses {directory} and takes no commands: wait for its "
                    "end if it is a `syncd once`, else stop it"
                ) from error
            time.sleep(_PAUSE_SECONDS)
        else:
            return connection
    return None


def _asked(connection: "_Connection", command: str, arguments: JsonObject) -> Iterator[JsonObject]:
    """Have the daemon carry out `command`; yield what it says."""
    said: JsonObject = {}
    try:
        with _answer(connection, command, arguments) as answer:
            for line in answer:
                said = json.loads(line)
                if "error" in said:
                    raise CommandError(said["error"], said["code"])
                yield said
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CommandError(
            "the daemon broke off; its log may say why: ask again", SyncdError.exit_code
        ) from error
    if not said:
        raise CommandError("the daemon said nothing; ask again", SyncdError.exit_code)


def _answer(
    connection: "_Connection", command: str, arguments: JsonObject
) -> http.client.HTTPResponse:
    """Return the beginning of the daemon's answer; CommandError where it does not come in time."""
    connection.sock.settimeout(ANSWER_SECONDS)
    try:
        connection.request(
            "POST",
            f"/control/{command}",
            json.dumps(arguments),
            {"content-type": "application/json"},
        )
        answer = connection.getresponse()
    except TimeoutError as error:
        pid = lock_holder(connection.directory)
        raise CommandError(
            f"the daemon (process {pid}) does not answer for {ANSWER_SECONDS:g} s: it is stopped, "
            f"or hangs; let it go on (kill -CONT {pid}), or restart it",
            SyncdError.exit_code,
        ) from error
    # It works; and a command may take hours.
    connection.sock.settimeout(None)
    return answer


class _Connection(http.client.HTTPConnection):
    """HTTP over the daemon's socket."""

    def __init__(self, directory: Path) -> None:
        super().__init__("syncd")
        self.directory = directory

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(self.directory, SOCKET_NAME) as path:
                self.sock.connect(path)
        except BaseException:
            self.sock.close()
            raise
