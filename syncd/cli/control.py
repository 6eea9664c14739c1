"""How a command that changes something is carried out: by the daemon, or here under its lock."""

import http.client
import json
import os
import pwd
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from syncd.cli.options import Options
from syncd.clients import make_client
from syncd.commands import COMMANDS
from syncd.components import opened
from syncd.config.loading import Config
from syncd.disk import short_path
from syncd.exceptions import (
    ConfigError,
    ForeignStateError,
    NoStateError,
    StateLockedError,
    SyncdError,
)
from syncd.files_api import StopFlag
from syncd.liveness import SOCKET_NAME
from syncd.questions import QUESTIONS
from syncd.state import views
from syncd.state.binding import bound_to
from syncd.state.database.owner import refuse_to_read
from syncd.state.database.store import lock_holder

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


class BrokenOffError(CommandError):
    """The daemon ended, or hung up, before it gave a result."""


def perform(
    options: Options,
    command: str,
    arguments: JsonObject,
    *,
    progress: Callable[[JsonObject], None] = lambda _: None,
    alone: Callable[[Config, JsonObject], Iterator[JsonObject]] | None = None,
) -> JsonObject:
    """Carry out `command` and return its result; `progress` is told each step, as it begins.

    A daemon that runs has key, folders and settings: only without one must the configuration be
    right and name them. `alone` then carries the command out, if that takes less than every part.
    SyncdError as the command raises it, here or in the daemon; StateLockedError where another
    process has the state and takes no commands.
    """
    result: JsonObject = {}
    arguments = arguments | {"by": _operator(options.words)}
    for said in _carried_out(options, command, arguments, alone):
        if "step" in said:
            progress(said)
        result = said
    return result


def _operator(words: Sequence[str]) -> str:
    """Return who gives a command, where and how: `alice (as root) on pts/3: syncd retry`."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"user {os.getuid()}"
    if (sudoer := os.environ.get("SUDO_USER")) and sudoer != user:
        user = f"{sudoer} (as {user})"
    place = "without a terminal"
    for number in (0, 1, 2):
        # A container's terminal may have no name in it.
        with suppress(OSError):
            place = f"on {os.ttyname(number).removeprefix('/dev/')}"
            break
    return f"{user} {place}: {shlex.join(['syncd', *words])}"


def ask(options: Options, question: str, arguments: JsonObject) -> JsonObject:
    """Have the daemon ask the service; where none takes commands, ask it here, without the lock.

    SyncdError as the question raises it; ForeignStateError if the configuration names another
    service than the state's.
    """
    directory = options.look().state.directory
    # A pass of `syncd once` has the state, and takes no commands.
    with suppress(StateLockedError):
        if (connection := _daemon(directory)) is not None:
            with closing(connection):
                *_, answer = _asked(connection, question, arguments)
                return answer
    config = load_without_folders(options)
    if (known := base_url(directory)) not in (None, config.api.base_url):
        raise ForeignStateError(
            f"the state in {directory} belongs to {known}, and the configuration names "
            f"{config.api.base_url}: give the same configuration as to the daemon"
        )
    with make_client(config, StopFlag()) as client:
        return QUESTIONS[question](client, arguments)


def load_without_folders(options: Options) -> Config:
    """Return the configuration with its key; no folder has to be in it."""
    problems: list[str] = []
    config = options.load(to_sync=True, problems=problems)
    if wrong := [text for text in problems if not text.startswith("no folder to watch")]:
        raise ConfigError("\n".join(wrong))
    return config


def base_url(directory: Path) -> str | None:
    """Return the service that the state belongs to; None while it belongs to none."""
    with suppress(NoStateError):
        return views.read(directory, bound_to)
    return None


def _carried_out(
    options: Options,
    command: str,
    arguments: JsonObject,
    alone: Callable[[Config, JsonObject], Iterator[JsonObject]] | None,
) -> Iterator[JsonObject]:
    directory = options.look().state.directory
    with suppress(OSError):
        refuse_to_read(directory)
    if (connection := _daemon(directory)) is not None:
        try:
            yield from _asked(connection, command, arguments)
        finally:
            connection.close()
        return
    if alone is not None:
        yield from alone(options.load(to_sync=False), arguments)
        return
    with opened(options.load(to_sync=True), applies=False) as components:
        yield from COMMANDS[command](components, arguments)


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
                    "end if it is a `syncd once` or another command, else stop it"
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
                    kind = BrokenOffError if said.get("stopping") else CommandError
                    raise kind(said["error"], said["code"])
                yield said
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BrokenOffError(
            "the daemon broke off; its log may say why: ask again", SyncdError.exit_code
        ) from error
    # A stream that is cut short ends like any other.
    if not said or "step" in said:
        raise BrokenOffError(
            "the daemon broke off before a result; ask again", SyncdError.exit_code
        )


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
