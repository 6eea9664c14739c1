"""A request's body on its way out, chunk by chunk."""

from collections.abc import Iterator

import httpx

from syncd.files_api.bandwidth import Bandwidth
from syncd.files_api.exchange import Exchange
from syncd.files_api.framing import Framing
from syncd.files_api.source import UploadSource

#: Seconds between two looks whether a body that waits for its bandwidth is still wanted.
SLICE_SECONDS = 0.2


class FileBody(httpx.SyncByteStream):
    """A framed file. Its last chunk and the end of the frame leave together, or not at all."""

    def __init__(
        self,
        source: UploadSource,
        framing: Framing,
        exchange: Exchange,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._source = source
        self._framing = framing
        self._exchange = exchange
        self._bandwidth = bandwidth

    def __iter__(self) -> Iterator[bytes]:
        head, offset = self._framing.head, 0
        for chunk, is_last in self._source.chunks():
            self._exchange.check()
            tail = self._framing.tail if is_last else b""
            part = head + chunk + tail if head or tail else chunk
            if self._bandwidth is None or self._bandwidth.rate is None:
                self._exchange.final = is_last
                yield part
            else:
                yield from self._paced(part, offset, self._bandwidth, is_last=is_last)
            head, offset = b"", offset + len(chunk)

    def _paced(
        self, part: bytes, offset: int, bandwidth: Bandwidth, *, is_last: bool
    ) -> Iterator[bytes]:
        """Yield a part in pieces, each once the bandwidth allows it."""
        self._exchange.gathers = False
        start = 0
        while start < len(part):
            piece = part[start : start + bandwidth.piece_bytes]
            place = bandwidth.book(len(piece))
            while (seconds := bandwidth.seconds_until(place)) > 0:
                self._source.rested(self._exchange.rest(min(seconds, SLICE_SECONDS)))
            start += len(piece)
            self._exchange.final = is_last and start == len(part)
            yield piece
            if start < len(part):
                self._source.tell(max(min(offset + start, self._source.size - 1), 0))


class BytesBody(httpx.SyncByteStream):
    """A body that is at hand."""

    def __init__(self, content: bytes, exchange: Exchange) -> None:
        self._content = content
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        self._exchange.final = True
        if self._content:
            yield self._content
