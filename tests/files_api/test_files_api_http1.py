"""Answers as bytes: whatever the pieces they come in, they say the same or are refused.

A million by SYNCD_FUZZ_EXAMPLES=1000000.
"""

import os

import h11
import httpx
import pytest
from hypothesis import given, settings, strategies as st

from syncd.files_api.http1 import AnswerReader, request_head

EXAMPLES = int(os.environ.get("SYNCD_FUZZ_EXAMPLES", "150"))
CANARY = b"canary-5d41402abc"

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

#: answers, and the status and the body that each stands for
TAKEN = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello": (200, b"hello"),
    b"HTTP/1.1 200\r\ncontent-length:5\r\n\r\nhello": (200, b"hello"),
    OK + b"Content-Length: 0\r\nServer: \t caf\xe9 \r\nX:\r\n\r\n": (200, b""),
    OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok": (200, b"ok"),
    OK + b"Content-Length: 2, 2\r\n\r\nok": (200, b"ok"),
    OK + b"\r\nto the end": (200, b"to the end"),
    b"HTTP/1.0 503 Busy\r\n\r\nwait": (503, b"wait"),
    b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n": (204, b""),
    b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n": (304, b""),
    CHUNKED + b"5\r\nhello\r\n0\r\n\r\n": (200, b"hello"),
    CHUNKED + b"A;x=y\r\n0123456789\r\n00b \r\nhello world\r\n000\r\nEtag: 1\r\n\r\n": (
        200,
        b"0123456789hello world",
    ),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n"
    b"HTTP/1.1 413 Large\r\nContent-Length: 3\r\n\r\nbig": (413, b"big"),
}

REFUSED = [
    *(b"", b"garbage", b"\r\n" + OK + b"\r\n", b" " + OK, b"http/1.1 200 OK\r\n\r\n"),
    *(b"HTTP/2 200 OK\r\n\r\n", b"HTTP/1.1  200 OK\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n"),
    *(b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1 099 OK\r\n\r\n", b"HTTP/1.1 200 \0\r\n\r\n"),
    b"HTTP/1.1 101 Switching\r\n\r\n" + OK + b"\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 200 + OK + b"Content-Length: 0\r\n\r\n",
    *(OK, OK[:-1] + b"\n", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", OK + b"A: b\n\r\n"),
    *(OK + b"A: b\rc\r\n\r\n", OK + b"A: b\0c\r\n\r\n", OK + b"A : b\r\n\r\n", OK + b"A\r\n\r\n"),
    *(OK + b": b\r\n\r\n", OK + b"A: b\r\n c\r\n\r\n", OK + b"A: b\r\n\tc\r\n\r\n"),
    *(OK + b" A: b\r\n\r\n", OK + b"A\xe9: b\r\n\r\n"),
    *(OK + b"Content-Length: %b\r\n\r\nhello" % n for n in (b"", b"-5", b"+5", b"5_0", b"0x5")),
    *(OK + b"Content-Length: %b\r\n\r\nhello" % n for n in (b"5,6", b"5,", b"5 5", b"5" * 30)),
    OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    OK + b"Content-Length: 6\r\n\r\nhello",
    OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    *(OK + b"Transfer-Encoding: %b\r\n\r\n" % n for n in (b"gzip", b"identity", b"")),
    OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    *(CHUNKED + b"%b\r\nhello\r\n0\r\n\r\n" % n for n in (b"", b"-5", b"+5", b"0x5", b"5_", b" 5")),
    *(CHUNKED + b"%b\r\nhello\r\n0\r\n\r\n" % n for n in (b"4", b"6", b"f" * 16, b"5 5")),
    *(CHUNKED + b"5\r\nhello", CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"5\r\nhello\r\n0\r\n"),
    *(
        CHUNKED + b"5\nhello\n0\n\n",
        CHUNKED + b"5\r\nhello0\r\n\r\n",
        CHUNKED + b"0\r\nA b\r\n\r\n",
    ),
    # The limits: a header's length, their number, the head, a chunk's line, trailers.
    OK + b"A: " + b"b" * 17_000 + b"\r\n\r\n",
    OK + b"A: b\r\n" * 300 + b"\r\n",
    *(OK + (b"A: " + b"b" * 10_000 + b"\r\n") * 7 + b"\r\n", b"HTTP/1.1 200 " + b"b" * 70_000),
    CHUNKED + b"0;" + b"b" * 17_000 + b"\r\n\r\n",
    CHUNKED + b"0\r\n" + b"A: b\r\n" * 300 + b"\r\n",
]


def read(pieces, method="GET"):
    """Return status, body and whether the connection may be used again."""
    left = [*filter(None, pieces)]
    incoming = AnswerReader(lambda: left.pop(0) if left else b"")
    head = incoming.head(method)
    body = b"".join(incoming.body(head))
    return head.status, body, head.persists and not incoming.rest and not left


@pytest.mark.row(35)
@pytest.mark.parametrize(("answer", "expected"), TAKEN.items())
def test_an_answer_says_the_same_wherever_it_is_split(answer, expected):
    assert read([answer])[:2] == expected
    assert read([bytes([byte]) for byte in answer])[:2] == expected
    for cut in range(1, len(answer)):
        assert read([answer[:cut], answer[cut:]])[:2] == expected


@pytest.mark.row(35)
@pytest.mark.parametrize("answer", REFUSED, ids=lambda answer: repr(answer[:60]))
def test_an_answer_that_could_be_read_in_two_ways_is_refused(answer):
    with pytest.raises(httpx.RemoteProtocolError):
        read([answer])
    if len(answer) < 1000:
        for cut in range(1, len(answer)):
            with pytest.raises(httpx.RemoteProtocolError):
                read([answer[:cut], answer[cut:]])


@pytest.mark.row(35)
def test_an_answer_to_head_has_no_body_and_leaves_the_connection_usable():
    for framing in (b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: y"):
        assert read([OK + framing + b"\r\n\r\n"], "HEAD") == (200, b"", True)


@pytest.mark.parametrize(
    ("answer", "persists"),
    [
        (OK + b"Content-Length: 0\r\n\r\n", True),
        (CHUNKED + b"0\r\n\r\n", True),
        (OK + b"Content-Length: 0\r\n\r\nmore", False),
        (CHUNKED + b"0\r\n\r\nmore", False),
        (OK + b"Content-Length: 0\r\nConnection: Foo, CLOSE\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (OK + b"\r\n", False),
    ],
)
def test_a_connection_is_used_again_only_where_both_sides_mean_it(answer, persists):
    assert read([answer])[2] is persists


def test_garbage_is_told_before_the_head_could_end():
    # A second attempt to receive would raise StopIteration.
    receive = iter([b"220 smtp.example ESMTP ready\r\n"]).__next__
    with pytest.raises(httpx.RemoteProtocolError, match=r"not HTTP/1\.1"):
        AnswerReader(receive).head("GET")


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\nb", b"a\rb", b"a\0b"])
def test_a_request_cannot_be_made_to_hold_another(value):
    for fields in ([(b"host", b"x"), (b"a", value)], [(value, b"a")]):
        with pytest.raises(httpx.LocalProtocolError):
            request_head("GET", b"/", fields)
    with pytest.raises(httpx.LocalProtocolError):
        request_head("GET", b"/" + value, [])


def read_by_h11(answer, method):
    """Return status and body as h11 reads them; None where it refuses."""
    theirs = h11.Connection(h11.CLIENT)
    theirs.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    theirs.send(h11.EndOfMessage())
    theirs.receive_data(answer)
    theirs.receive_data(b"")
    body = b""
    try:
        while True:
            event = theirs.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError:
        return None


LINES = [
    *(b"Content-Length: 5", b"content-length:5", b"Content-Length: 0", b"Content-Length: 5, 5"),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding:  CHUNKED ", b"Transfer-Encoding: gzip"),
    *(b"Connection: close", b"A: b", b"A:", b" folded", b"\tfolded", b"A : b", b"", CANARY),
]
STARTS = [b"HTTP/1.1 %b x" % status for status in (b"200", b"204", b"304", b"404", b"100", CANARY)]
BODIES = [
    *(b"", b"hello", b"hell", b"hello!", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", CANARY),
    *(b"A\r\n0123456789\r\n0;x=y\r\nA: b\r\n\r\n", b"5\r\nhello!\r\n0\r\n\r\n", b"\n"),
]
tokens = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"\0", b"0", b"5", b"a", b"\xe9", CANARY]
)
built = st.builds(
    lambda start, lines, bodies: b"\r\n".join([start, *lines, b"", b"".join(bodies)]),
    st.sampled_from([*STARTS[:1] * 5, *STARTS, b"HTTP/1.0 200 OK"]),
    st.lists(st.sampled_from([*LINES[:6] * 3, *LINES]), max_size=3),
    st.lists(st.sampled_from(BODIES), min_size=1, max_size=2),
)
answers = st.one_of(
    st.binary(max_size=60),
    built,
    # One place of a good answer is changed.
    st.builds(
        lambda good, at, token, gone: good[:at] + token + good[at + gone :],
        st.sampled_from([*TAKEN]) | built,
        st.integers(0, 90),
        tokens,
        st.integers(0, 3),
    ),
)


@pytest.mark.row(35)
@settings(max_examples=EXAMPLES, deadline=None)
@given(
    answer=answers,
    cuts=st.lists(st.integers(0, 100), max_size=5).map(sorted),
    method=st.sampled_from(["GET", "HEAD", "POST"]),
)
def test_any_answer_is_read_as_another_reader_reads_it_or_refused_without_being_quoted(
    answer, cuts, method
):
    outcomes, errors = [], []
    for pieces in ([answer], [answer[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]):
        try:
            outcomes.append(read(pieces, method)[:2])
        except httpx.RemoteProtocolError as error:
            errors.append(str(error))
            outcomes.append(None)
    assert CANARY.decode() not in "".join(errors)
    assert outcomes[0] == outcomes[1]
    if outcomes[0] is not None:
        assert outcomes[0] == read_by_h11(answer, method)
