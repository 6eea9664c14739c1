"""The one maker of connections for HTTP: an httpx transport over httpcore, and what it trusts."""

import logging
import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

import httpcore
import httpx

from syncd.exceptions import ConfigError
from syncd.files_api.exchange import Exchange
from syncd.files_api.network import Backend
from syncd.trust import TlsFiles, tls_context

T = TypeVar("T")

#: The request extension under which the client hands in its Exchange.
EXCHANGE = "syncd.exchange"
#: Many servers drop an idle connection after five seconds, just as a request is sent on it.
_KEEPALIVE_SECONDS = 4.0
_TALKATIVE = ("httpx", "httpcore", "httpcore.connection", "httpcore.http11", "httpcore.proxy")

_AS_HTTPX: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadError: httpx.ReadError,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteError: httpx.WriteError,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
}
_FOREIGN = tuple(_AS_HTTPX)


class Transport(httpx.BaseTransport):
    """Carries one request at a time; HTTP/1.1, over TLS that always verifies."""

    def __init__(self, *, proxy: httpx.URL | None = None, files: TlsFiles | None = None) -> None:
        # At INFO httpx prints whole URLs, presigned ones too; at DEBUG httpcore prints headers.
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        self._proxy = proxy
        self._files = files or TlsFiles()
        self._context: ssl.SSLContext | None = None
        self._backend = Backend()
        self._pools: dict[str, httpcore.ConnectionPool] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send; raises httpx's errors, or Interrupted from the exchange."""
        exchange: Exchange = request.extensions[EXCHANGE]
        exchange.released = False
        if self._proxy is not None:
            # The proxy connects, not we: its address is no business of the presigned URL.
            exchange.refuses = lambda _host, _address: None
        self._backend.exchange = exchange
        url = request.url
        raw = httpcore.Request(
            method=request.method.encode(),
            url=httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        response = _translated(lambda: self._pool(url.scheme).handle_request(raw))
        body = _Body(cast("Iterable[bytes]", response.stream))
        return httpx.Response(response.status, headers=response.headers, stream=body)

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()

    def _pool(self, scheme: str) -> httpcore.ConnectionPool:
        # A trust store costs milliseconds to load; a client that speaks plain HTTP has none.
        if scheme == "https" and (context := self._trusted()) is not self._context:
            self._context = context
            if old := self._pools.pop(scheme, None):
                old.close()
        if scheme not in self._pools:
            self._pools[scheme] = httpcore.ConnectionPool(
                ssl_context=self._context if scheme == "https" else None,
                proxy=_proxy(self._proxy) if self._proxy else None,
                max_connections=2,
                keepalive_expiry=_KEEPALIVE_SECONDS,
                network_backend=self._backend,
            )
        return self._pools[scheme]

    def _trusted(self) -> ssl.SSLContext:
        try:
            return tls_context(self._files)
        except ConfigError:
            # A renewed certificate may be there before its key is.
            if self._context is None:
                raise
            return self._context


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream
        self._parts = iter(stream)

    def __iter__(self) -> Iterator[bytes]:
        while part := _translated(lambda: next(self._parts, b"")):
            yield part

    def close(self) -> None:
        self._stream.close()  # type: ignore[attr-defined]


def _proxy(url: httpx.URL) -> httpcore.Proxy:
    auth = (url.username, url.password) if url.userinfo else None
    return httpcore.Proxy(str(url.copy_with(userinfo=b"")), auth=auth)


def _translated(act: Callable[[], T]) -> T:
    try:
        return act()
    except _FOREIGN as error:
        raise _AS_HTTPX[type(error)](str(error)) from error
