"""Downloads are handed on as they come: never kept whole, and never taken for whole if cut off."""

import time

import pytest
from files_api_server import KEY, http

from syncd.files_api import InDoubtError, NotFoundError

PIECE = 1 << 20


def answering_in_pieces(pieces, *, length=None, pause=0.0):
    """Return a behaviour that sends `pieces` one after another, and then ends."""

    def behave(connection):
        connection.read_request()
        size = sum(map(len, pieces)) if length is None else length
        connection.sock.sendall(f"HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n".encode())
        for piece in pieces:
            connection.sock.sendall(piece)
            if connection.over.wait(pause):
                return

    return behave


@pytest.fixture
def download(serve, client_of):
    def download(behaviour, **settings):
        server = serve(behaviour)
        taken = []
        client_of(server, **settings).download(f"{server.url}/object?signature=s", taken.append)
        return server, taken

    return download


def test_an_object_is_handed_on_in_pieces_and_no_key_goes_along(download):
    server, taken = download(answering_in_pieces([b"a" * PIECE, b"b" * PIECE]))
    assert b"".join(taken) == b"a" * PIECE + b"b" * PIECE
    assert max(map(len, taken)) < PIECE
    assert KEY.encode() not in server.requests[0].head


@pytest.mark.row(35)
def test_an_object_that_breaks_off_is_not_taken_for_whole(download):
    with pytest.raises(InDoubtError):
        download(answering_in_pieces([b"half"], length=8))


def test_a_refusal_hands_nothing_on(download):
    taken = []
    with pytest.raises(NotFoundError):
        taken += download(lambda c: c.read_request() and c.sock.sendall(http(404, b"nothing")))[1]
    assert taken == []


@pytest.mark.row(35)
def test_what_is_encoded_unasked_is_refused(download):
    def behave(connection):
        connection.read_request()
        connection.sock.sendall(http(200, b"\x1f\x8b", "content-encoding: gzip"))

    with pytest.raises(InDoubtError, match="encoded"):
        download(behave)


@pytest.mark.long
def test_a_long_download_may_take_longer_than_a_short_answer(download):
    pieces = [b"a" * PIECE] * 4
    _, taken = download(answering_in_pieces(pieces, pause=1.0), timeout_seconds=3)
    assert sum(map(len, taken)) == 4 * PIECE


@pytest.mark.long
@pytest.mark.row(34)
def test_a_download_that_trickles_is_given_up(download):
    began = time.monotonic()
    with pytest.raises(InDoubtError):
        download(answering_in_pieces([b"a"] * 100, pause=0.2), timeout_seconds=2)
    assert time.monotonic() - began < 15
