"""The client's transport: httpx's requests over connections of our own, and what they trust."""

import logging
import ssl
from typing import cast

import httpx

from syncd.exceptions import ConfigError
from syncd.files_api.connection import Connection, Origin
from syncd.files_api.exchange import Exchange
from syncd.files_api.network import Stream
from syncd.trust import TlsFiles, tls_context

#: The request extension under which the client hands in its Exchange.
EXCHANGE = "syncd.exchange"
#: Idle connections that are kept: one to the service, and one to its storage.
_MOST_IDLE = 2
_PORTS = {"http": 80, "https": 443}
_TALKATIVE = ("httpx", "httpcore", "httpcore.connection", "httpcore.http11", "httpcore.proxy")


class Transport(httpx.BaseTransport):
    """Carries one request at a time; HTTP/1.1, over TLS that always verifies."""

    def __init__(self, files: TlsFiles | None = None) -> None:
        # At INFO httpx prints whole URLs, presigned ones too; at DEBUG httpcore prints headers.
        for logger in map(logging.getLogger, _TALKATIVE):
            # Setting a level drops what every logger remembers.
            if logger.level != logging.WARNING:
                logger.setLevel(logging.WARNING)
        self._files = files or TlsFiles()
        self._context: ssl.SSLContext | None = None
        self._idle: list[Connection] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send; raises httpx's errors, or Interrupted from the exchange."""
        exchange: Exchange = request.extensions[EXCHANGE]
        exchange.released = False
        url = request.url
        origin = (url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])
        # Looked at for each request: a renewed certificate is taken up at once.
        context = self._tls_context() if url.scheme == "https" else None
        limit: float = request.extensions["timeout"]["connect"]
        connection = self._take(origin) or self._open(origin, context, exchange, limit)
        try:
            body = iter(cast("httpx.SyncByteStream", request.stream))
            first = next(body, b"")
        except BaseException:
            connection.close()
            raise
        # The first bytes may be long in coming, and the peer may have hung up meanwhile.
        if connection.is_stale:
            connection.close()
            connection = self._open(origin, context, exchange, limit)
        return connection.carry(request, exchange, first, body)

    def close(self) -> None:
        """Close every connection."""
        while self._idle:
            self._idle.pop().close()

    def _take(self, origin: Origin) -> Connection | None:
        """Return the connection to `origin` that was used last, if one is idle."""
        for connection in reversed(self._idle):
            if connection.origin == origin:
                self._idle.remove(connection)
                return connection
        return None

    def _open(
        self, origin: Origin, context: ssl.SSLContext | None, exchange: Exchange, limit: float
    ) -> Connection:
        _, host, port = origin
        stream = Stream.open(host, port, exchange, limit)
        if context is not None:
            stream.start_tls(context, host, limit)
        return Connection(origin, stream, self._keep)

    def _keep(self, connection: Connection) -> None:
        self._idle.append(connection)
        if len(self._idle) > _MOST_IDLE:
            self._idle.pop(0).close()

    def _tls_context(self) -> ssl.SSLContext:
        """Return the context for the files as they are now; end what an older one made."""
        try:
            context = tls_context(self._files)
        except ConfigError:
            # A renewed certificate may be there before its key is.
            if self._context is None:
                raise
            return self._context
        if context is not self._context:
            self.close()
            self._context = context
        return context
