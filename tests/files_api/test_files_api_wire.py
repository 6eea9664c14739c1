"""Troubles of the network, and the error that a call then raises."""

import socket
import threading
import time

import pytest
from files_api_server import DETAIL, UUID, answering, document, envelope, http

from syncd.files_api import (
    CHUNK_BYTES,
    Aborted,
    AbortedInDoubt,
    AbortedUnsent,
    BadAnswerError,
    InDoubtError,
    NotSentError,
    StopFlag,
    TooLargeError,
    UnauthorizedError,
)

MIB = 1 << 20
STORED = document({"file_uuid": UUID, "processing_status": "completed"})


def upload(client, source, **per_call):
    return client.upload(source, name="a.txt", content_type="text/plain", **per_call)


def cut_at(answer, length, *, reset):
    def behave(connection):
        if connection.read_request():
            connection.sock.sendall(answer[:length])
            connection.reset() if reset else connection.sock.close()

    return behave


@pytest.mark.long
@pytest.mark.row(33)
@pytest.mark.parametrize("reset", [True, False])
def test_an_answer_cut_at_any_byte_leaves_the_upload_in_doubt(serve, client_of, source_of, reset):
    server = serve(answering(STORED))
    client = client_of(server)
    source = source_of(b"content")
    for length in range(len(STORED)):
        server.behaviour = cut_at(STORED, length, reset=reset)
        with pytest.raises(InDoubtError):
            upload(client, source)
    server.behaviour = cut_at(STORED, len(STORED), reset=False)
    assert upload(client, source).file_uuid == UUID


@pytest.mark.row(33)
def test_a_refusal_counts_as_soon_as_its_head_is_there(serve, client_of, source_of):
    refusal = envelope(401, "auth.invalid_key")
    head = refusal.index(b"\r\n\r\n") + 4
    server = serve(answering(refusal))
    client = client_of(server)
    source = source_of(b"content")
    for length in range(0, len(refusal) + 1, 3):
        server.behaviour = cut_at(refusal, length, reset=False)
        with pytest.raises(UnauthorizedError if length >= head else InDoubtError):
            upload(client, source)


@pytest.mark.row(33)
@pytest.mark.parametrize("taken", [0, 1, 100, 300_000, MIB])
@pytest.mark.parametrize("reset", [True, False])
def test_a_connection_lost_within_the_body_was_not_sent(serve, client_of, source_of, taken, reset):
    def behave(connection):
        left = taken
        while left and (data := connection.sock.recv(min(left, 65536))):
            left -= len(data)
        connection.reset() if reset else connection.sock.close()

    client = client_of(serve(behave, small_window=True))
    with pytest.raises(NotSentError):
        upload(client, source_of(24 * MIB))


@pytest.mark.row(33)
def test_a_connection_lost_after_the_body_leaves_it_in_doubt(serve, client_of, source_of):
    def behave(connection):
        connection.read_request()
        connection.reset()

    server = serve(behave)
    with pytest.raises(InDoubtError):
        upload(client_of(server), source_of(3 * MIB))
    assert server.requests[0].whole


@pytest.mark.long
@pytest.mark.row(33)
@pytest.mark.parametrize("reset", [True, False])
def test_a_last_chunk_that_does_not_get_out_was_not_sent(
    serve, client_of, source_of, monkeypatch, reset
):
    class Narrow(socket.socket):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    monkeypatch.setattr(socket, "socket", Narrow)
    handed = []

    def behave(connection):
        left = 600_000
        while left and (data := connection.sock.recv(min(left, 65536))):
            left -= len(data)
        if reset:
            connection.reset()
        else:
            connection.over.wait()

    client = client_of(serve(behave, small_window=True), timeout_seconds=0.3)
    source = source_of(3 * CHUNK_BYTES, before_last=handed.append)
    with pytest.raises(NotSentError):
        upload(client, source)
    assert handed


@pytest.mark.long
@pytest.mark.row(33)
def test_a_body_that_stalls_was_not_sent(serve, client_of, source_of):
    client = client_of(serve(lambda c: c.over.wait(), small_window=True), timeout_seconds=0.3)
    with pytest.raises(NotSentError) as caught:
        upload(client, source_of(24 * MIB))
    assert caught.value.code == "local.timeout"


@pytest.mark.long
def test_a_stalled_answer_leaves_it_in_doubt(serve, client_of, source_of):
    def behave(connection):
        connection.read_request()
        connection.over.wait()

    client = client_of(serve(behave), timeout_seconds=0.3)
    with pytest.raises(InDoubtError) as caught:
        upload(client, source_of(b"content"))
    assert caught.value.code in {"local.timeout", "local.deadline"}


@pytest.mark.long
@pytest.mark.row(34)
@pytest.mark.parametrize("per_call", [{"timeout_seconds": 0.5}, {"deadline_seconds": 0.5}])
def test_a_trickling_answer_ends_at_its_total_time(serve, client_of, source_of, per_call):
    def behave(connection):
        connection.read_request()
        for byte in STORED * 9:
            connection.sock.sendall(bytes([byte]))
            if connection.over.wait(0.05):
                return

    started = time.monotonic()
    with pytest.raises(InDoubtError) as caught:
        upload(client_of(serve(behave)), source_of(b"content"), **per_call)
    assert caught.value.code == "local.deadline"
    assert time.monotonic() - started < 1.2


@pytest.mark.long
def test_a_deadline_within_the_body_was_not_sent(serve, client_of, source_of):
    def behave(connection):
        while connection.sock.recv(2048) and not connection.over.wait(0.01):
            pass

    client = client_of(serve(behave, small_window=True))
    with pytest.raises(NotSentError) as caught:
        upload(client, source_of(24 * MIB), deadline_seconds=0.4)
    assert caught.value.code == "local.deadline"


def test_a_success_before_the_whole_body_is_not_believed(serve, client_of, source_of):
    def behave(connection):
        connection.read_head()
        connection.sock.sendall(STORED)
        connection.over.wait(0.1)
        connection.reset()

    client = client_of(serve(behave, small_window=True))
    with pytest.raises((BadAnswerError, NotSentError)):
        upload(client, source_of(24 * MIB))


def test_an_early_refusal_is_heard_when_the_server_stops_reading(serve, client_of, source_of):
    def behave(connection):
        connection.read_head()
        connection.sock.sendall(envelope(413, "file.too_large"))
        connection.over.wait(0.1)
        connection.reset()

    client = client_of(serve(behave, small_window=True))
    with pytest.raises((TooLargeError, NotSentError)):
        upload(client, source_of(24 * MIB))


@pytest.mark.long
@pytest.mark.parametrize("size", [3 * MIB, 24 * MIB])
def test_the_stop_flag_ends_a_stalled_transfer_within_a_second(serve, client_of, source_of, size):
    def behave(connection):
        if size < 4 * MIB:
            connection.read_request()
        connection.over.wait()

    stop = StopFlag()
    client = client_of(serve(behave, small_window=size > 4 * MIB), stop=stop)
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(AbortedUnsent if size > 4 * MIB else AbortedInDoubt) as caught:
        upload(client, source_of(size))
    assert time.monotonic() - started < 1.3
    assert isinstance(caught.value, Aborted)
    timer.join()


def test_nothing_is_sent_once_the_stop_flag_is_set(serve, client_of, source_of):
    stop = StopFlag()
    stop.set()
    server = serve(answering(STORED))
    with pytest.raises(AbortedUnsent):
        client_of(server, stop=stop).delete(UUID)
    assert server.connections == 0


@pytest.mark.row(31)
@pytest.mark.parametrize(
    ("url", "code"),
    [("http://127.0.0.1:1", "local.connect"), ("http://no-such-host.invalid", "local.dns")],
)
def test_what_cannot_connect_was_not_sent(client_of, source_of, url, code):
    with pytest.raises(NotSentError) as caught:
        upload(client_of(url), source_of(b"content"))
    assert caught.value.code == code
    assert not caught.value.is_lasting


@pytest.mark.long
@pytest.mark.row(31)
def test_a_slow_resolver_is_given_up_and_stopped(client_of, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [over.wait(5)][1:])
    monkeypatch.setattr("syncd.files_api.network.LOOK_UP_SECONDS", 0.2)
    stop = StopFlag()
    client = client_of("http://slow.test", connect_seconds=0.2, stop=stop)
    with pytest.raises(NotSentError):
        client.delete(UUID)
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(AbortedUnsent):
        client.delete(UUID, timeout_seconds=9)
    over.set()


def test_a_delete_without_an_answer_is_in_doubt(serve, client_of):
    def behave(connection):
        connection.read_request()
        connection.reset()

    with pytest.raises(InDoubtError):
        client_of(serve(behave)).delete(UUID)


def test_a_connection_that_the_server_dropped_is_not_used_again(serve, client_of):
    server = serve(cut_at(document(DETAIL), 9999, reset=False))
    client = client_of(server)
    for _ in range(3):
        assert client.get(UUID).file_uuid == UUID
        time.sleep(0.02)
    assert server.connections == 3


def test_a_connection_is_kept_alive(serve, client_of):
    server = serve(answering(document(DETAIL)))
    client = client_of(server)
    for _ in range(3):
        client.get(UUID)
    assert server.connections == 1


@pytest.mark.row(41)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(serve, client_of, source_of, status):
    other = serve(answering(STORED))
    server = serve(answering(http(status, b"", f"location: {other.url}/elsewhere")))
    with pytest.raises(InDoubtError) as caught:
        upload(client_of(server), source_of(b"content"))
    assert caught.value.status == status
    assert other.connections == 0


def test_a_hundred_continues_do_not_hold_the_call(serve, client_of):
    def behave(connection):
        connection.read_request()
        while not connection.over.wait(0.01):
            connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with pytest.raises(InDoubtError):
        client_of(serve(behave)).get(UUID, timeout_seconds=0.3)
