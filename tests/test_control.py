"""Commands that reach a daemon over its socket, and those that are done without one."""

import fcntl
import json
import os
import socket
import stat
import threading
import time

import pytest

from syncd import commands, liveness
from syncd.cli import control as client
from syncd.cli.options import Options
from syncd.exceptions import ConfigError, StateLockedError, SyncdError
from syncd.server import Control
from syncd.state.database.store import LOCK_NAME


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """The options of a call in whose environment all is configured."""
    (tmp_path / "drop").mkdir()
    (tmp_path / "state").mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AYMARA_AI_API_KEY", "k")
    monkeypatch.setenv("SYNCD_API__BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("SYNCD_WATCH", str(tmp_path / "drop"))
    return Options()


@pytest.fixture
def config(options):
    return options.load(to_sync=True)


@pytest.fixture
def locked(config):
    """The state directory, as a daemon has it."""
    with (config.state.directory / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield config.state.directory


class Commands(dict):
    """Commands of the test's own, and what they saw."""

    def __init__(self):
        named = (self.count, self.fail, self.refuse, self.wait, self.stand)
        super().__init__({command.__name__: command for command in named})
        self.free = threading.Event()
        self.begun, self.ended = threading.Event(), threading.Event()

    def count(self, parts, arguments):
        for number in range(arguments["to"]):
            yield {"step": "counting", "done": number}
        yield {"counted": arguments["to"], "parts": parts}

    def fail(self, _parts, _arguments):
        yield {"step": "counting", "done": 0}
        raise ZeroDivisionError("of the test")

    def refuse(self, _parts, _arguments):
        raise ConfigError("another setting is needed")
        yield {}

    def stand(self, _parts, _arguments):
        yield {"step": "standing"}
        assert self.free.wait(10)
        yield {"ended": True}

    def wait(self, _parts, _arguments):
        self.begun.set()
        for number in range(100_000):
            yield {"step": "counting", "done": number}
            if self.free.wait(0.001):
                break
        self.ended.set()
        yield {"ended": True}


@pytest.fixture
def known():
    return Commands()


@pytest.fixture
def daemon(locked, known):
    control = Control(directory=locked, components=lambda: "the parts", commands=known)
    control.start()
    yield control
    control.stop()


def test_a_command_is_carried_out_by_the_daemon_and_its_progress_is_told(daemon, options):
    seen = []
    result = client.perform(options, "count", {"to": 3}, progress=seen.append)
    assert result == {"counted": 3, "parts": "the parts"}
    assert seen == [{"step": "counting", "done": number} for number in range(3)]


def test_a_step_is_told_as_it_begins(daemon, options, known):
    seen = []

    def look(said):
        seen.append(said)
        known.free.set()

    assert client.perform(options, "stand", {}, progress=look) == {"ended": True}
    assert seen == [{"step": "standing"}]


def test_without_a_daemon_the_command_is_carried_out_here_under_the_lock(
    options, config, monkeypatch
):
    def locked_by(parts, _arguments):
        holder = client.lock_holder(parts.store.directory)
        yield {"holder": holder}

    monkeypatch.setitem(commands.COMMANDS, "locked_by", locked_by)
    assert client.perform(options, "locked_by", {}) == {"holder": os.getpid()}
    assert client.lock_holder(config.state.directory) is None


def test_only_without_a_daemon_must_key_and_folders_be_configured(
    options, locked, known, monkeypatch
):
    for name in ("AYMARA_AI_API_KEY", "SYNCD_WATCH"):
        monkeypatch.delenv(name)
    control = Control(directory=locked, components=lambda: None, commands=known)
    control.start()
    try:
        assert client.perform(options, "count", {"to": 1})["counted"] == 1
    finally:
        control.stop()
    monkeypatch.setattr(client, "lock_holder", lambda _: None)
    with pytest.raises(ConfigError, match="no API key"):
        client.perform(options, "count", {"to": 1})


def test_an_error_of_the_command_comes_back_with_its_message_and_exit_code(daemon, options):
    with pytest.raises(SyncdError, match="another setting is needed") as raised:
        client.perform(options, "refuse", {})
    assert raised.value.exit_code == ConfigError.exit_code == 78


def test_a_command_that_breaks_is_told_of_and_the_next_one_is_served(daemon, options, caplog):
    with pytest.raises(SyncdError, match="internal error: ZeroDivisionError"):
        client.perform(options, "fail", {})
    assert "of the test" in caplog.text
    assert client.perform(options, "count", {"to": 0})["counted"] == 0


def test_a_command_goes_on_to_its_end_when_its_caller_hangs_up(daemon, options, config, known):
    caller = client._daemon(config.state.directory)
    caller.request("POST", "/control/wait", "{}")
    assert known.begun.wait(10)
    caller.close()
    time.sleep(0.05)
    known.free.set()
    assert known.ended.wait(10)
    assert client.perform(options, "count", {"to": 1})["counted"] == 1


@pytest.mark.long
def test_a_caller_that_does_not_read_holds_up_no_command(daemon, options, config, known):
    caller = client._daemon(config.state.directory)
    try:
        caller.request("POST", "/control/count", json.dumps({"to": 200_000}))
        assert client.perform(options, "count", {"to": 1})["counted"] == 1
        until(lambda: not daemon._running)
    finally:
        caller.close()


def test_a_daemon_that_stops_ends_its_commands_and_says_so(daemon, options, config, known):
    errors = []

    def ask():
        try:
            client.perform(options, "wait", {})
        except SyncdError as error:
            errors.append(str(error))

    caller = threading.Thread(target=ask)
    caller.start()
    assert known.begun.wait(10)
    daemon.stop()
    caller.join(10)
    assert errors == ["the daemon is stopping and interrupted the command: run it again"]
    assert not known.ended.is_set()
    assert not (config.state.directory / liveness.SOCKET_NAME).exists()


def test_a_daemon_that_stops_waits_for_a_command_that_is_about_to_begin(
    daemon, options, known, monkeypatch
):
    begin, about = threading.Thread.start, threading.Event()

    def start_late(thread):
        if thread.name == "syncd-command-count":
            about.set()
            time.sleep(0.3)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    answers = []
    caller = threading.Thread(
        target=lambda: answers.append(client.perform(options, "count", {"to": 0}))
    )
    caller.start()
    assert about.wait(10)
    daemon.stop()
    caller.join(10)
    assert answers == [{"counted": 0, "parts": "the parts"}]


def test_a_command_for_which_no_thread_can_be_had_is_refused(daemon, options, monkeypatch):
    begin = threading.Thread.start

    def start(thread):
        if thread.name == "syncd-command-count":
            raise RuntimeError("can't start new thread")
        begin(thread)

    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", start)
        with pytest.raises(SyncdError, match="cannot start a thread"):
            client.perform(options, "count", {"to": 1})
    assert not daemon.busy
    assert client.perform(options, "count", {"to": 1})["counted"] == 1


@pytest.mark.parametrize(
    ("name", "body", "status", "said"),
    [
        ("unknown", "{}", 404, "does not know 'unknown'"),
        ("count", "[]", 400, "must be a JSON object"),
        ("count", "{", 400, "must be a JSON object"),
        ("count", "[" * 100_000, 400, "must be a JSON object"),
    ],
)
def test_what_is_no_command_is_refused(daemon, config, name, body, status, said):
    caller = client._daemon(config.state.directory)
    caller.request("POST", f"/control/{name}", body)
    answer = caller.getresponse()
    told = json.loads(answer.read())
    caller.close()
    assert (answer.status, told["code"]) == (status, 2)
    assert said in told["error"]


@pytest.mark.row(54)
def test_the_socket_is_its_owners_alone_whatever_the_umask(locked, known):
    before = os.umask(0)
    try:
        control = Control(directory=locked, components=lambda: None, commands=known)
        control.start()
    finally:
        os.umask(before)
    try:
        status = (locked / liveness.SOCKET_NAME).lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
    finally:
        control.stop()


def test_a_socket_that_a_killed_daemon_left_is_replaced(locked, known, options):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(locked / liveness.SOCKET_NAME))
    left.close()
    control = Control(directory=locked, components=lambda: None, commands=known)
    control.start()
    try:
        assert client.perform(options, "count", {"to": 1})["counted"] == 1
    finally:
        control.stop()


def test_a_state_directory_with_a_long_path_has_a_socket_too(tmp_path, known):
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    control = Control(directory=directory, components=lambda: None, commands=known)
    control.start()
    try:
        connection = client._Connection(directory)
        connection.connect()
        connection.close()
    finally:
        control.stop()


def test_where_no_socket_can_be_the_daemon_goes_on_and_says_so(locked, known, caplog):
    (locked / liveness.SOCKET_NAME).mkdir()
    control = Control(directory=locked, components=lambda: None, commands=known)
    control.start()
    control.stop()
    assert "commands cannot reach this daemon" in caplog.text


def test_a_process_that_takes_no_commands_is_named(locked, options, monkeypatch):
    monkeypatch.setattr(client, "START_SECONDS", 0.1)
    with pytest.raises(StateLockedError, match=rf"process {os.getpid()}\) uses .* no commands"):
        client.perform(options, "count", {"to": 1})


def test_the_daemon_asks_the_service_with_a_key_of_its_own(daemon, options, known, monkeypatch):
    monkeypatch.delenv("AYMARA_AI_API_KEY")
    known["frames"] = lambda parts, arguments: iter([{"parts": parts, **arguments}])
    told = client.ask(options, "frames", {"file_uuid": "u"})
    assert told == {"parts": "the parts", "file_uuid": "u"}


def test_a_pass_that_takes_no_commands_keeps_nobody_from_asking(locked, options, monkeypatch):
    monkeypatch.setattr(client, "START_SECONDS", 0.1)
    seen = []
    monkeypatch.setitem(
        client.QUESTIONS, "frames", lambda here, _: seen.append(here.base_url) or {"urls": []}
    )
    assert client.ask(options, "frames", {}) == {"urls": []}
    assert seen == ["http://127.0.0.1:9"]
