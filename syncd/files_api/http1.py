"""HTTP/1.1 as bytes, after RFC 9112: the head of a request, and an answer as it arrives.

Answers are read strictly. Where two readers could disagree about what an answer says or where it
ends, it is refused; and no error quotes what arrived, which may hold a secret.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import httpx

#: The limits of an answer beside its body; servers' own defaults are well below.
_HEAD_BYTES = 64 * 1024
_LINE_BYTES = 16 * 1024
_MOST_FIELDS = 256
_MOST_INTERIM = 100

_START = b"HTTP/1."
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_TEXT = rb"[^\x00-\x08\x0a-\x1f\x7f]*+"
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: %b)?" % _TEXT)
_FIELD = re.compile(rb"(%b):(%b)" % (_TOKEN, _TEXT))
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;%b)?" % _TEXT)
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")

Fields = Sequence[tuple[bytes, bytes]]


class Head(NamedTuple):
    """The part of an answer before its body.

    `length` is that of the body; None if the body is chunked, or else ends with the connection.
    `persists` says that the connection may carry another request afterwards.
    """

    status: int
    fields: list[tuple[bytes, bytes]]
    length: int | None
    is_chunked: bool
    persists: bool


def request_head(method: str, target: bytes, fields: Fields) -> bytes:
    """Return the head of a request. Raise LocalProtocolError if a line break is in a field."""
    lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target)]
    lines += [b"%b: %b" % field for field in fields]
    head = b"\r\n".join(lines)
    breaks = len(fields)
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise httpx.LocalProtocolError("a header holds a line break")
    return head + b"\r\n\r\n"


class AnswerReader:
    """Reads answers, one after another, from what `receive` returns (b"" at the end)."""

    def __init__(self, receive: Callable[[], bytes]) -> None:
        self._receive = receive
        self._buffer = bytearray()
        self._interim = 0

    @property
    def rest(self) -> int:
        """How many bytes arrived that nothing has read."""
        return len(self._buffer)

    def add(self, data: bytes) -> None:
        """Take what arrived before it was asked for; raise RemoteProtocolError at the end."""
        if not data:
            raise httpx.RemoteProtocolError(
                "the answer ends within its head"
                if self._buffer
                else "Server disconnected without sending a response."
            )
        self._buffer += data

    def head(self, method: str) -> Head:
        """Receive the head of the answer to a request by `method`."""
        while (head := self.head_so_far(method)) is None:
            self.add(self._receive())
        return head

    def head_so_far(self, method: str) -> Head | None:
        """Return the head if it is here; None while it is not. Interim answers are passed over."""
        if not self._buffer:
            return None
        while (end := self._buffer.find(b"\r\n\r\n", 0, _HEAD_BYTES)) >= 0:
            text = bytes(self._buffer[:end])
            head = _head(text, method)
            if head.status >= 200:
                self._interim = 0
                del self._buffer[: end + 4]
                return head
            self._interim += 1
            if head.status == 101 or self._interim > _MOST_INTERIM:
                raise httpx.RemoteProtocolError("the answer is none to what was asked")
            del self._buffer[: end + 4]
        if len(self._buffer) >= _HEAD_BYTES:
            raise httpx.RemoteProtocolError("the answer's head is too long")
        if not self._buffer.startswith(_START[: len(self._buffer)]):
            raise httpx.RemoteProtocolError("the answer is not HTTP/1.1")
        if _BARE_LINE_FEED.search(self._buffer):
            raise httpx.RemoteProtocolError("the answer's head has a malformed line")
        return None

    def body(self, head: Head) -> Iterator[bytes]:
        """Yield the body in parts as they arrive; raise RemoteProtocolError if it is cut off."""
        if head.is_chunked:
            yield from self._chunks()
        elif head.length is not None:
            yield from self._exactly(head.length)
        else:
            yield from self._to_the_end()

    def _to_the_end(self) -> Iterator[bytes]:
        while part := self._take(len(self._buffer)) or self._receive():
            yield part

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            if self._buffer:
                part = self._take(length)
            else:
                part = self._receive()
                if len(part) > length:
                    self._buffer += part[length:]
                    part = part[:length]
            if not part:
                raise httpx.RemoteProtocolError("the answer's body is cut off")
            length -= len(part)
            yield part

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line = _CHUNK_LINE.fullmatch(self._line())
            if line is None:
                raise httpx.RemoteProtocolError("the answer's body has a malformed chunk")
            length = int(line[1], 16)
            if not length:
                break
            yield from self._exactly(length)
            if self._line():
                raise httpx.RemoteProtocolError("a chunk of the answer's body is too long")
        for _ in range(_MOST_FIELDS):
            trailer = self._line()
            if not trailer:
                return
            _field(trailer)
        raise httpx.RemoteProtocolError("the answer has too many trailers")

    def _line(self) -> bytes:
        """Receive one line, and return it without its end."""
        while (end := self._buffer.find(b"\r\n", 0, _LINE_BYTES)) < 0:
            if len(self._buffer) >= _LINE_BYTES:
                raise httpx.RemoteProtocolError("a line of the answer's body is too long")
            data = self._receive()
            if not data:
                raise httpx.RemoteProtocolError("the answer's body is cut off")
            self._buffer += data
        line = self._take(end)
        del self._buffer[:2]
        return line

    def _take(self, length: int) -> bytes:
        """Return at most `length` bytes of what is here."""
        part = bytes(self._buffer[:length])
        del self._buffer[:length]
        return part


def _head(text: bytes, method: str) -> Head:
    """Parse a head, without the empty line after it."""
    first, *lines = text.split(b"\r\n")
    start = _STATUS_LINE.fullmatch(first)
    if start is None:
        raise httpx.RemoteProtocolError("the answer has a malformed status line")
    if len(lines) > _MOST_FIELDS:
        raise httpx.RemoteProtocolError("the answer has too many headers")
    fields = [_field(line) for line in lines]
    framing: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        key = name.lower()
        if key in {b"content-length", b"transfer-encoding", b"connection"}:
            framing.setdefault(key, []).extend(part.strip() for part in value.lower().split(b","))
    status = int(start[2])
    length, is_chunked = _framing(framing)
    if status < 200 or status in {204, 304} or method == "HEAD":
        length, is_chunked = 0, False
    if is_chunked and start[1] == b"0":
        raise httpx.RemoteProtocolError("the answer has a chunked body in HTTP/1.0")
    persists = start[1] == b"1" and b"close" not in framing.get(b"connection", ())
    return Head(status, fields, length, is_chunked, persists and (is_chunked or length is not None))


def _field(line: bytes) -> tuple[bytes, bytes]:
    parsed = _FIELD.fullmatch(line)
    if parsed is None or len(line) > _LINE_BYTES:
        raise httpx.RemoteProtocolError("the answer has a malformed header")
    name, value = parsed.groups()
    return name, value.strip(b" \t")


def _framing(framing: dict[bytes, list[bytes]]) -> tuple[int | None, bool]:
    """Return the length of the body, None if none is given, and whether it is chunked."""
    lengths = set(framing.get(b"content-length", ()))
    codings = framing.get(b"transfer-encoding", [])
    if codings:
        if codings != [b"chunked"] or lengths:
            raise httpx.RemoteProtocolError("the answer's Transfer-Encoding is ambiguous")
        return None, True
    if not lengths:
        return None, False
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise httpx.RemoteProtocolError("the answer's Content-Length is ambiguous")
    return int(length), False
