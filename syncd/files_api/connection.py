"""A connection to the service or its storage: it carries requests, one after another."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import httpx

from syncd.files_api.exchange import Exchange
from syncd.files_api.http1 import AnswerReader, Head, request_head
from syncd.files_api.network import Stream

#: scheme, host and port
Origin: TypeAlias = tuple[str, str, int]

#: Many servers drop an idle connection after five seconds, just as a request is sent on it.
IDLE_SECONDS = 4.0
#: A small body leaves together with its head, in one call to the kernel.
_JOINED_BYTES = 64 * 1024
#: How much of an answer is kept that comes while the request is still being sent.
_EARLY_BYTES = 1 << 20


class Connection:
    """Carries one request at a time; `release` is told when it is free for another one."""

    def __init__(
        self, origin: Origin, stream: Stream, release: Callable[["Connection"], None]
    ) -> None:
        self.origin = origin
        self._stream = stream
        self._release = release
        self._incoming = AnswerReader(self._receive)
        self._early: Head | None = None
        #: when the last answer was read to its end; None before the first one
        self._idle_since: float | None = None

    @property
    def is_stale(self) -> bool:
        """Whether it has been idle for too long, or the peer has closed it."""
        if self._idle_since is None:
            return False
        return time.monotonic() - self._idle_since > IDLE_SECONDS or self._stream.is_readable

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def carry(
        self, request: httpx.Request, exchange: Exchange, first: bytes, rest: Iterator[bytes]
    ) -> httpx.Response:
        """Send a request, whose body is `first` and `rest`, and return its answer.

        The body of the answer is read as it is asked for.
        """
        self._stream.exchange = exchange
        self._early = None
        try:
            is_whole = self._send(request, first, rest)
            head = self._early or self._incoming.head(request.method)
        except BaseException:
            self.close()
            raise
        body = _Body(self._incoming, head, partial(self._end, is_whole and head.persists))
        return httpx.Response(head.status, headers=head.fields, stream=body)

    def _end(self, persists: bool, is_read: bool) -> None:
        """End the exchange: release the connection, or close it."""
        if persists and is_read and not self._incoming.rest:
            self._idle_since = time.monotonic()
            self._release(self)
        else:
            self.close()

    def _send(self, request: httpx.Request, first: bytes, rest: Iterator[bytes]) -> bool:
        """Send a request; return whether all of it has left.

        A server may refuse a body before it is whole, and may then close the connection.
        """
        limit: float = request.extensions["timeout"]["write"]
        fields = request.headers.raw
        left = next((int(value) for name, value in fields if name == b"content-length"), 0)
        head = request_head(request.method, request.url.raw_path, fields)

        def has_refused() -> bool:
            return self._has_refused(request.method)

        chunk = first
        try:
            while True:
                left -= len(chunk)
                if left < 0:
                    raise httpx.LocalProtocolError("the body is longer than announced")
                if head and len(chunk) >= _JOINED_BYTES:
                    self._stream.send(head, limit)
                elif head:
                    chunk = head + chunk
                head = b""
                if not self._stream.send(chunk, limit, has_refused):
                    return False
                if left and self._stream.is_readable and has_refused():
                    return False
                try:
                    chunk = next(rest)
                except StopIteration:
                    break
        except httpx.WriteError:
            # The peer may have said why before it closed the connection.
            return False
        if left:
            raise httpx.LocalProtocolError("the body is shorter than announced")
        return True

    def _has_refused(self, method: str) -> bool:
        """Hear what the peer says while it is sent to; return whether to stop sending."""
        data = self._stream.receive_now()
        if data is None:
            return False
        if self._early is not None and not data:
            return True
        self._incoming.add(data)
        if self._early is None:
            self._early = self._incoming.head_so_far(method)
        elif self._incoming.rest > _EARLY_BYTES:
            raise httpx.RemoteProtocolError("the answer comes before the request is sent")
        return self._early is not None and self._early.status >= 300

    def _receive(self) -> bytes:
        # A long answer may be given more time while it is read.
        self._stream.exchange.await_answer()
        return self._stream.receive()


class _Body(httpx.SyncByteStream):
    """The body of an answer; `end` is told once whether it was read to its end."""

    def __init__(self, incoming: AnswerReader, head: Head, end: Callable[[bool], None]) -> None:
        self._incoming = incoming
        self._head = head
        self._end: Callable[[bool], None] | None = end
        self._is_begun = False

    def __iter__(self) -> Iterator[bytes]:
        self._is_begun = True
        try:
            yield from self._incoming.body(self._head)
            self._close(is_read=True)
        finally:
            self.close()

    def close(self) -> None:
        # A short body that nobody reads does not cost the connection if it is here already.
        length = self._head.length
        is_here = not self._is_begun and length is not None and length <= self._incoming.rest
        if is_here:
            deque(self._incoming.body(self._head), maxlen=0)
        self._close(is_read=is_here)

    def _close(self, *, is_read: bool) -> None:
        end, self._end = self._end, None
        if end is not None:
            end(is_read)
