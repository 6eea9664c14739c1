import http.server
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from syncd.files_api import StopFlag
from syncd.outbound import Call, Command, StoppedError, UndeliveredError

TOKEN = "T0p-s3cret-token"


@pytest.fixture
def stop():
    return StopFlag()


def script(tmp_path, text):
    path = tmp_path / "tell.py"
    path.write_text(f"#!{sys.executable}\nimport os, sys, time\n{text}\n")
    path.chmod(0o755)
    return path


class Receiver(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `answers` say; 204 without any."""

    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        self.server.seen.append((self.command, self.path, self.rfile.read(length)))
        wait, status, headers = self.server.answers.pop(0) if self.server.answers else (0, 204, {})
        self.server.ended.wait(wait)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *args):
        pass


@pytest.fixture
def receiver():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.seen, server.answers, server.ended = [], [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


def deliver(target, stop, document=b"{}", seconds=10.0, **variables):
    target.deliver(document, seconds=seconds, stop=stop, variables=variables)


def test_a_command_gets_the_document_whole_and_no_key(tmp_path, stop, monkeypatch):
    monkeypatch.setenv("AYMARA_AI_API_KEY", TOKEN)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    monkeypatch.setenv("SYNCD_HOOKS", TOKEN)
    seen = tmp_path / "seen"
    tell = script(
        tmp_path,
        f"open({str(seen)!r}, 'wb').write(sys.stdin.buffer.read())\n"
        f"open({str(seen) + '.env'!r}, 'w').write(repr(dict(os.environ)))",
    )
    document = json.dumps({"x": "y" * 300_000}).encode()
    deliver(Command((str(tell),)), stop, document, SYNCD_PATH="a b")
    assert seen.read_bytes() == document
    environment = Path(f"{seen}.env").read_text()
    assert "'SYNCD_PATH': 'a b'" in environment
    assert "'PATH'" in environment
    assert TOKEN not in environment
    assert "CREDENTIALS_DIRECTORY" not in environment


def test_a_command_that_fails_is_named_with_its_last_line_and_without_its_arguments(tmp_path, stop):
    tell = script(tmp_path, "print('x\\n' * 100_000); sys.exit('no: ' + sys.argv[1])")
    with pytest.raises(UndeliveredError) as raised:
        deliver(Command((str(tell), TOKEN)), stop)
    assert str(raised.value) == f"{tell} ended with code 1: no: [secret]"
    with pytest.raises(UndeliveredError, match="cannot be started: No such file"):
        deliver(Command((str(tmp_path / "none"),)), stop)


def is_running(pid_file):
    pid = int(pid_file.read_text())
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_command_that_hangs_is_ended_with_its_children(tmp_path, stop, is_stopped):
    child = tmp_path / "child"
    tell = tmp_path / "tell"
    tell.write_text(f"#!/bin/sh\ntrap '' TERM\nsleep 60 & echo $! > {child}; wait; sleep 60\n")
    tell.chmod(0o755)
    if is_stopped:
        threading.Timer(0.3, stop.set).start()
    began = time.monotonic()
    with pytest.raises(StoppedError if is_stopped else UndeliveredError) as raised:
        deliver(Command((str(tell),)), stop, seconds=20 if is_stopped else 0.3)
    assert time.monotonic() - began < 5
    if not is_stopped:
        assert str(raised.value) == f"{tell} took longer than 0.3 s, and was ended"
    deadline = time.monotonic() + 5
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_that_ignores_sigterm_does_not_outlive_the_time_limit(tmp_path, stop):
    child, tell = tmp_path / "child", tmp_path / "tell"
    tell.write_text(f"#!/bin/sh\n(trap '' TERM; sleep 60) & echo $! > {child}; wait\n")
    tell.chmod(0o755)
    with pytest.raises(UndeliveredError):
        deliver(Command((str(tell),)), stop, seconds=0.3)
    deadline = time.monotonic() + 5
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_command_of_another_user_is_left_when_its_time_is_over(tmp_path, stop, monkeypatch):
    """As with sudo: it may not be signalled."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    tell = script(tmp_path, "time.sleep(4)")
    began = time.monotonic()
    with pytest.raises(UndeliveredError, match=r"than 0.1 s, and cannot be ended: it is another"):
        deliver(Command((str(tell),)), stop, seconds=0.1)
    assert time.monotonic() - began < 3


@pytest.mark.long
def test_a_command_may_print_much(tmp_path, stop):
    tell = script(tmp_path, "sys.stdout.write('x' * 20_000_000)")
    deliver(Command((str(tell),)), stop, seconds=10)


def test_a_url_gets_the_document_and_says_no_in_so_many_words(receiver, stop):
    call = Call(f"{receiver.url}/{TOKEN}?key={TOKEN}")
    deliver(call, stop, b'{"a": 1}')
    assert receiver.seen == [("POST", f"/{TOKEN}?key={TOKEN}", b'{"a": 1}')]
    deliver(Call(receiver.url, method="GET"), stop, b"")
    assert receiver.seen[1:] == [("GET", "/", b"")]
    receiver.answers += [(0, 500, {}), (0, 302, {"location": f"{receiver.url}/else"})]
    for told in ("answers 500", "answers 302; a redirect is not followed, so name the final URL"):
        with pytest.raises(UndeliveredError) as raised:
            deliver(call, stop)
        assert str(raised.value) == f"{receiver.url}/... {told}"
    assert len(receiver.seen) == 4


def test_a_url_that_hangs_is_given_up_in_time_and_at_once_at_the_end(receiver, stop):
    receiver.answers += [(30, 204, {}), (30, 204, {})]
    call = Call(f"{receiver.url}/{TOKEN}")
    began = time.monotonic()
    with pytest.raises(UndeliveredError, match=r"/\.\.\. took longer than 0.3 s"):
        deliver(call, stop, seconds=0.3)
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(StoppedError):
        deliver(call, stop, seconds=30)
    assert time.monotonic() - began < 5


def test_no_failure_shows_the_token_in_a_url(receiver, stop):
    receiver.server_close()
    for url in (
        f"{receiver.url}/{TOKEN}",
        f"http://user:{TOKEN}@127.0.0.1:{receiver.server_port}/?{TOKEN}",
        f"http://no-such-host.invalid/{TOKEN}",
    ):
        with pytest.raises(UndeliveredError) as raised:
            deliver(Call(url), stop)
        assert TOKEN not in str(raised.value)
        assert raised.value.__cause__ is None
        assert "cannot be called" in str(raised.value)


def test_the_proxy_is_for_other_hosts(receiver, stop):
    call = Call(f"http://alerts.invalid/{TOKEN}", proxy=receiver.url)
    deliver(call, stop)
    assert receiver.seen[0][:2] == ("POST", f"http://alerts.invalid/{TOKEN}")
    deliver(Call(f"{receiver.url}/x", proxy="http://127.0.0.1:1"), stop)
    assert receiver.seen[1][1] == "/x"
