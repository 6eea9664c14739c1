"""A request's body on its way out, chunk by chunk."""

from collections.abc import Iterator

import httpx

from syncd.files_api.exchange import Exchange
from syncd.files_api.framing import Framing
from syncd.files_api.source import UploadSource


class FileBody(httpx.SyncByteStream):
    """A framed file. Its last chunk and what closes the frame leave together, or not at all."""

    def __init__(self, source: UploadSource, framing: Framing, exchange: Exchange) -> None:
        self._source = source
        self._framing = framing
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        head = self._framing.head
        for chunk, is_last in self._source.chunks():
            self._exchange.check()
            self._exchange.final = is_last
            tail = self._framing.tail if is_last else b""
            yield head + chunk + tail if head or tail else chunk
            head = b""


class BytesBody(httpx.SyncByteStream):
    """A body that is at hand."""

    def __init__(self, content: bytes, exchange: Exchange) -> None:
        self._content = content
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        self._exchange.final = True
        if self._content:
            yield self._content
