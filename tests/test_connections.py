"""The listener keeps answering whatever connects, and leaves the daemon its open files."""

import logging
import resource
import socket
import time
from contextlib import ExitStack, suppress

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from syncd.emulator import Emulator
from syncd.http_thread import HttpThread
from syncd.server import connections
from syncd.server.connections import MOST_CONNECTIONS, BoundedConnection, most_connections

ASKED = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"


LARGE = 40 << 20


async def answered(_request):
    return PlainTextResponse("answered")


async def large(_request):
    return PlainTextResponse("." * LARGE)


async def slow(_request):
    def parts():
        for part in ("ans", "we", "red"):
            time.sleep(0.4)
            yield part

    return StreamingResponse(parts(), headers={"content-length": "8"})


@pytest.fixture
def server():
    listener = socket.create_server(("127.0.0.1", 0))
    routes = [Route("/x", answered), Route("/large", large), Route("/slow", slow)]
    running = HttpThread(Starlette(routes=routes), listener, name="t", protocol=BoundedConnection)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def connect(server):
    with ExitStack() as opened:

        def connect(sent=b""):
            made = socket.create_connection(server._listener.getsockname(), timeout=10)
            opened.enter_context(made)
            if sent:
                made.sendall(sent)
            return made

        yield connect


def is_answered(connection):
    """Return whether the whole answer arrives."""
    got = b""
    while not got.endswith(b"answered"):
        if not (piece := connection.recv(2000)):
            return False
        got += piece
    return True


def is_closed(connection):
    """Return whether the other side closes within the connection's timeout."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def counted(server):
    return len(server._server.server_state.connections)


@pytest.mark.long
@pytest.mark.row(82)
def test_a_connection_beyond_the_limit_closes_the_longest_idle_one(server, connect):
    idle = [connect() for _ in range(MOST_CONNECTIONS + 100)]
    for _ in range(3):
        assert is_answered(connect(ASKED))
        assert counted(server) <= MOST_CONNECTIONS
    assert all(map(is_closed, idle[:100]))


@pytest.mark.row(82)
def test_connections_use_only_a_part_of_the_open_files(server, connect, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    assert most_connections() == 16
    for _ in range(60):
        connect()
    assert is_answered(connect(ASKED))
    assert counted(server) <= 16


@pytest.mark.row(82)
@pytest.mark.parametrize("sent", [b"", b"GET /x HT", b"GET /x HTTP/1.1\r\nHost: x\r\n"])
def test_late_headers_close_the_connection(connect, monkeypatch, sent):
    monkeypatch.setattr(connections, "HEADERS_SECONDS", 0.2)
    assert is_closed(connect(sent))


@pytest.mark.long
@pytest.mark.row(82)
def test_trickling_headers_get_no_extra_time(connect, monkeypatch):
    monkeypatch.setattr(connections, "HEADERS_SECONDS", 0.4)
    slow = connect()
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        for byte in ASKED * 10:
            slow.sendall(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - began < 10


@pytest.mark.long
@pytest.mark.row(82)
def test_a_second_request_has_its_own_time_limit(connect, monkeypatch):
    monkeypatch.setattr(connections, "HEADERS_SECONDS", 0.3)
    kept = connect(ASKED)
    assert is_answered(kept)
    time.sleep(0.6)
    kept.sendall(ASKED)
    assert is_answered(kept)
    kept.sendall(ASKED[:9])
    assert is_closed(kept)


@pytest.mark.long
@pytest.mark.row(82)
def test_an_unread_answer_closes_the_connection(server, connect, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)
    unread = connect(ASKED.replace(b"/x", b"/large"))
    # The kernel connects before the server knows of it.
    for expected in (1, 0):
        until = time.monotonic() + 10
        while counted(server) != expected and time.monotonic() < until:
            time.sleep(0.01)
    got = 0
    with suppress(ConnectionError):
        while piece := unread.recv(1 << 20):
            got += len(piece)
    assert got < LARGE


@pytest.mark.long
@pytest.mark.row(82)
def test_an_answer_that_takes_long_to_make_is_not_cut(connect, monkeypatch):
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.3)
    assert is_answered(connect(ASKED.replace(b"/x", b"/slow")))


@pytest.mark.row(82)
def test_malformed_requests_are_not_logged(tmp_path, connect, caplog):
    # The demo runs both servers in one process, where the logging of one could affect the other.
    with Emulator(data=tmp_path), caplog.at_level(logging.INFO):
        for _ in range(20):
            assert connect(b"\0\r\n\r\n").recv(2000).startswith(b"HTTP/1.1 400")
    assert caplog.text == ""
