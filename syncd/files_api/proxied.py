"""The transport through a proxy: httpx's own machinery, httpcore, over streams of ours."""

import ssl
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import httpcore
import httpx

from syncd.files_api.connection import IDLE_SECONDS
from syncd.files_api.exchange import Exchange
from syncd.files_api.network import Stream
from syncd.files_api.transport import EXCHANGE, Transport
from syncd.trust import TlsFiles

T = TypeVar("T")

#: Small writes are gathered, so that a request with a small body leaves in one piece.
_GATHER_BYTES = 64 * 1024

_AS_HTTPX: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    httpcore.WriteError: httpx.WriteError,
}
_FOREIGN = tuple(_AS_HTTPX)


class ProxiedTransport(Transport):
    """Carries one request at a time through an HTTP proxy."""

    def __init__(self, proxy: httpx.URL, files: TlsFiles | None = None) -> None:
        super().__init__(files)
        auth = (proxy.username, proxy.password) if proxy.userinfo else None
        self._proxy = httpcore.Proxy(str(proxy.copy_with(userinfo=b"")), auth=auth)
        self._backend = _Backend()
        self._pools: dict[str, httpcore.ConnectionPool] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send; raises httpx's errors, or Interrupted from the exchange."""
        exchange: Exchange = request.extensions[EXCHANGE]
        exchange.released = False
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
        context = self._tls_context() if url.scheme == "https" else None
        pool = self._pools.get(url.scheme) or self._new_pool(url.scheme, context)
        response = _translated(lambda: pool.handle_request(raw))
        body = _ProxiedBody(cast("Iterable[bytes]", response.stream))
        return httpx.Response(response.status, headers=response.headers, stream=body)

    def close(self) -> None:
        """Close every connection."""
        while self._pools:
            self._pools.popitem()[1].close()

    def _new_pool(self, scheme: str, context: ssl.SSLContext | None) -> httpcore.ConnectionPool:
        self._pools[scheme] = httpcore.ConnectionPool(
            ssl_context=context,
            proxy=self._proxy,
            max_connections=2,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=self._backend,
        )
        return self._pools[scheme]


class _Backend(httpcore.NetworkBackend):
    """Opens connections; holds the exchange that all its streams serve just now."""

    exchange: Exchange

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        limit = self.exchange.timeout_seconds if timeout is None else timeout
        try:
            return _Stream(Stream.open(host, port, self.exchange, limit), self)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise type(error)(f"the proxy cannot be reached: {error}") from error


class _Stream(httpcore.NetworkStream):
    """A stream of ours as httpcore wants one; errors of httpx pass through httpcore."""

    def __init__(self, stream: Stream, backend: _Backend) -> None:
        self._stream = stream
        self._backend = backend
        self._gathered = b""
        self._opens_tunnel = False

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        limit = self._current().exchange.timeout_seconds if timeout is None else timeout
        self._stream.start_tls(ssl_context, server_hostname or "", limit)
        return _Stream(self._stream, self._backend)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send; an empty buffer, httpcore's end of a request, sends what was gathered."""
        is_small = len(self._gathered) + len(buffer) < _GATHER_BYTES
        if buffer and is_small and self._backend.exchange.gathers:
            self._gathered += buffer
            return
        gathered, self._gathered = self._gathered, b""
        # A CONNECT to a proxy is not the request yet, and its answer not the answer.
        self._opens_tunnel |= gathered.startswith(b"CONNECT ")
        stream = self._current()
        limit = stream.exchange.timeout_seconds if timeout is None else timeout
        try:
            for part in filter(None, (gathered, buffer)):
                stream.send(part, limit)
        except httpx.WriteError as error:
            # The one error that httpcore must know: it then looks for an answer.
            raise httpcore.WriteError(str(error)) from error

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - likewise
        """Receive something, or b"" at the end."""
        stream = self._current()
        if not self._opens_tunnel:
            stream.exchange.await_answer()
        return stream.receive()

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        """Answer httpcore: whether an idle connection has something to read (its end)."""
        if info == "is_readable":
            return self._stream.is_readable
        return self._stream.tls if info == "ssl_object" else None

    def _current(self) -> Stream:
        self._stream.exchange = self._backend.exchange
        return self._stream


class _ProxiedBody(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream
        self._parts = iter(stream)

    def __iter__(self) -> Iterator[bytes]:
        while part := _translated(lambda: next(self._parts, b"")):
            yield part

    def close(self) -> None:
        self._stream.close()  # type: ignore[attr-defined]


def _translated(act: Callable[[], T]) -> T:
    try:
        return act()
    except _FOREIGN as error:
        raise _AS_HTTPX[type(error)](str(error)) from error
