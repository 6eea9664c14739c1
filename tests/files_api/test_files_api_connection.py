"""Connections: what is sent when, what is heard meanwhile, and when one is used again."""

import socket
import threading
import time

import pytest
from files_api_server import DETAIL, UUID, answering, document, envelope, http

from syncd.files_api import BadAnswerError, NotSentError, TooLargeError, UnauthorizedError
from syncd.files_api.network import Stream

MIB = 1 << 20
STORED = document({"file_uuid": UUID})
ANSWER = document(DETAIL)


def upload(client, source, **per_call):
    return client.upload(source, name="a.txt", content_type="text/plain", **per_call)


def test_a_small_request_leaves_in_one_piece(serve, client_of, source_of, monkeypatch):
    sent = []

    class Counting(socket.socket):
        def send(self, data, *flags):
            sent.append(len(data))
            return super().send(data, *flags)

    server = serve(answering(ANSWER, STORED))
    client = client_of(server)
    monkeypatch.setattr(socket, "socket", Counting)
    client.get(UUID)
    upload(client, source_of(b"content" * 500))
    assert len(sent) == 2
    assert server.requests[1].whole


@pytest.mark.row(33)
@pytest.mark.parametrize("then", ["resets", "stops reading", "reads on"])
def test_a_refusal_during_the_body_is_heard_and_ends_it(serve, client_of, source_of, then):
    taken = []

    def behave(connection):
        connection.read_head()
        if then == "stops reading":
            connection.over.wait(0.3)  # by then the line takes no more
        connection.sock.sendall(envelope(413, "file.too_large"))
        if then == "resets":
            connection.over.wait(0.05)
            connection.reset()
        while then == "reads on" and (data := connection.sock.recv(MIB)):
            taken.append(len(data))
        connection.over.wait()

    client = client_of(serve(behave, small_window=then != "reads on"), timeout_seconds=5)
    began = time.monotonic()
    # The line is faster than the source, so that it never is what is waited for.
    slowly = {"progress": lambda _sent: time.sleep(0.005)} if then == "reads on" else {}
    with pytest.raises(TooLargeError) as caught:
        upload(client, source_of(64 * MIB, **slowly))
    assert caught.value.code == "file.too_large"
    assert time.monotonic() - began < 4
    assert sum(taken) < 32 * MIB


@pytest.mark.row(33)
def test_a_refusal_is_heard_though_sending_fails_first(serve, client_of, source_of, monkeypatch):
    def behave(connection):
        connection.read_head()
        connection.sock.sendall(envelope(413, "file.too_large"))
        connection.reset()

    monkeypatch.setattr(Stream, "is_readable", False)
    monkeypatch.setattr(Stream, "receive_now", lambda _self: None)
    with pytest.raises(TooLargeError):
        upload(client_of(serve(behave, small_window=True)), source_of(24 * MIB))


@pytest.mark.row(33)
def test_a_server_that_hangs_up_within_the_body_is_noticed_while_it_takes_no_more(
    serve, client_of, source_of
):
    def behave(connection):
        connection.read_head()
        connection.sock.shutdown(socket.SHUT_WR)
        connection.over.wait()

    client = client_of(serve(behave, small_window=True), timeout_seconds=30)
    began = time.monotonic()
    with pytest.raises(NotSentError, match="disconnected"):
        upload(client, source_of(24 * MIB))
    assert time.monotonic() - began < 5


def test_interim_answers_during_the_body_do_not_end_it(serve, client_of, source_of):
    def behave(connection):
        connection.read_head()
        connection.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n")
        time.sleep(0.05)
        connection.sock.sendall(b"\r\n")
        left = int(connection.received.headers["content-length"]) - len(connection._rest)
        while left and (data := connection.sock.recv(min(left, MIB))):
            left -= len(data)
        connection.sock.sendall(STORED)

    client = client_of(serve(behave, small_window=True))
    assert upload(client, source_of(3 * MIB)).file_uuid == UUID


@pytest.mark.parametrize("reads_on", [True, False])
def test_an_early_success_is_believed_only_when_the_whole_body_left(
    serve, client_of, source_of, reads_on
):
    def behave(connection):
        connection.read_head()
        connection.sock.sendall(STORED)
        left = int(connection.received.headers["content-length"]) - len(connection._rest)
        while reads_on and left and (data := connection.sock.recv(min(left, MIB))):
            left -= len(data)
        connection.over.wait(0.2)

    client = client_of(serve(behave, small_window=True))
    if reads_on:
        assert upload(client, source_of(3 * MIB)).file_uuid == UUID
    else:
        with pytest.raises((BadAnswerError, NotSentError)):
            upload(client, source_of(24 * MIB), timeout_seconds=1)


@pytest.mark.parametrize(
    ("answer", "connections"),
    [
        (ANSWER, 1),
        (http(200, ANSWER.partition(b"\r\n\r\n")[2], "connection: close"), 3),
        (ANSWER.replace(b"HTTP/1.1", b"HTTP/1.0"), 3),
        (ANSWER + b"HTTP/1.1 200 OK\r\n\r\n", 3),
    ],
)
def test_a_connection_carries_another_request_where_the_answer_allows_it(
    serve, client_of, answer, connections
):
    server = serve(answering(answer))
    client = client_of(server)
    for _ in range(3):
        assert client.get(UUID).file_uuid == UUID
    assert server.connections == connections


def test_a_short_body_that_nobody_reads_does_not_cost_the_connection(serve, client_of):
    server = serve(answering(http(206, b"x", "content-range: bytes 0-0/7")))
    client = client_of(server)
    for _ in range(3):
        assert client.length(f"{server.url}/o") == 7
    assert server.connections == 1


def test_a_server_that_hangs_up_while_the_first_bytes_are_awaited_is_called_anew(
    serve, client_of, source_of
):
    hung_up = threading.Event()

    def behave(connection):
        connection.read_request()
        connection.sock.sendall(STORED)
        if server.connections == 1:
            connection.sock.close()
            hung_up.set()
        else:
            answering(STORED)(connection)

    server = serve(behave)
    client = client_of(server)
    upload(client, source_of(b"first"))
    source = source_of(b"second", before_last=lambda _digest: hung_up.wait(5))
    assert upload(client, source).file_uuid == UUID
    assert [request.whole for request in server.requests] == [True, True]


def test_what_an_idle_server_says_is_no_answer_to_the_next_request(serve, client_of):
    said = threading.Event()

    def behave(connection):
        connection.read_request()
        connection.sock.sendall(ANSWER)
        if server.connections == 1:
            time.sleep(0.05)
            connection.sock.sendall(http(401))
            said.set()
        connection.read_request()
        connection.sock.sendall(ANSWER)

    server = serve(behave)
    client = client_of(server)
    client.get(UUID)
    assert said.wait(5)
    assert client.get(UUID).file_uuid == UUID
    assert server.connections == 2


def test_a_source_that_fails_leaves_no_connection_behind(serve, client_of, source_of):
    ended = threading.Event()

    def behave(connection):
        if not connection.read_request():
            ended.set()

    def fail(_digest):
        raise KeyError("not today")

    client = client_of(serve(behave))
    with pytest.raises(KeyError):
        upload(client, source_of(b"x", before_last=fail))
    assert ended.wait(5)


@pytest.mark.row(31)
def test_a_dead_address_among_live_ones_does_not_matter(serve, client_of, monkeypatch):
    server = serve(answering(ANSWER))
    tcp = (socket.SOCK_STREAM, 6, "")
    found = [
        (socket.AF_INET6, *tcp, ("::1", server.port, 0, 0)),
        (socket.AF_INET, *tcp, ("127.0.0.2", server.port)),
        (socket.AF_INET, *tcp, ("127.0.0.1", server.port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert client_of(f"http://files.test:{server.port}").get(UUID).file_uuid == UUID


def test_ipv6_is_spoken(serve, client_of):
    try:
        server = serve(answering(ANSWER), host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert client_of(server).get(UUID).file_uuid == UUID
    assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


def test_an_early_refusal_is_heard_over_tls(serve, client_of, source_of, tls, certificate):
    def behave(connection):
        connection.read_head()
        connection.sock.sendall(envelope(401, "auth.invalid_key"))
        connection.over.wait()

    server = serve(behave, tls=tls, small_window=True)
    client = client_of(server, ca_file=certificate[0])
    with pytest.raises(UnauthorizedError):
        upload(client, source_of(24 * MIB))
