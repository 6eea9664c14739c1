"""The wire: an httpx transport that can be ended at once, and knows what has left.

httpx's own time limits are for each socket operation, so that a trickle never ends; nothing can
stop it from outside; and after an error it cannot say whether the request was whole. The streams
here look up every quarter second and count. Everything else of HTTP is httpcore's.
"""

import errno
import logging
import os
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import httpcore
import httpx

from syncd.exceptions import ConfigError
from syncd.files_api.exchange import Exchange

T = TypeVar("T")

#: The request extension under which the client hands in its Exchange.
EXCHANGE = "syncd.exchange"
#: How often a waiting stream looks at the stop flag and the clock.
SLICE_SECONDS = 0.25
#: Many servers drop an idle connection after five seconds, just as a request is sent on it.
_KEEPALIVE_SECONDS = 4.0
#: Small writes are gathered, so that a request with a small body leaves in one piece.
_GATHER_BYTES = 64 * 1024

_TLS_RECORD_BYTES = 16 * 1024

_Kinds: TypeAlias = tuple[type[Exception], type[Exception]]
_CONNECT: _Kinds = (httpcore.ConnectError, httpcore.ConnectTimeout)
_READ: _Kinds = (httpcore.ReadError, httpcore.ReadTimeout)
_WRITE: _Kinds = (httpcore.WriteError, httpcore.WriteTimeout)
_AWAITED: dict[type[OSError], int] = {
    ssl.SSLWantReadError: select.POLLIN,
    ssl.SSLWantWriteError: select.POLLOUT,
}

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

    def __init__(self, *, proxy: httpx.URL | None = None, ca_file: Path | None = None) -> None:
        # At INFO httpx prints whole URLs, presigned ones too; at DEBUG httpcore prints headers.
        for name in ("httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._proxy = proxy
        self._ca_file = ca_file
        self._backend = _Backend()
        self._pools: dict[str, httpcore.ConnectionPool] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send; raises httpx's errors, or Interrupted from the exchange."""
        exchange: Exchange = request.extensions[EXCHANGE]
        exchange.released = False
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
        if scheme not in self._pools:
            self._pools[scheme] = httpcore.ConnectionPool(
                ssl_context=_trust(self._ca_file) if scheme == "https" else None,
                proxy=_proxy(self._proxy) if self._proxy else None,
                max_connections=2,
                keepalive_expiry=_KEEPALIVE_SECONDS,
                network_backend=self._backend,
            )
        return self._pools[scheme]


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream
        self._parts = iter(stream)

    def __iter__(self) -> Iterator[bytes]:
        while part := _translated(lambda: next(self._parts, b"")):
            yield part

    def close(self) -> None:
        self._stream.close()  # type: ignore[attr-defined]


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
        """Connect to the first address that answers, each within `timeout` seconds."""
        limit = self.exchange.timeout_seconds if timeout is None else timeout
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for family, address in self._resolve(host, port, limit):
            stream = _Stream(socket.socket(family, socket.SOCK_STREAM), self)
            try:
                stream.connect(address, limit)
                return stream
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                stream.close()
                failure = error
            except BaseException:
                stream.close()
                raise
        raise failure

    def _resolve(self, host: str, port: int, limit: float) -> list[tuple[int, Any]]:
        found: Future[list[tuple[int, Any]]] = Future()
        look_up = partial(_look_up, host, port, found)
        if _is_address(host):
            look_up()
        else:
            # The resolver cannot be interrupted, so it gets a thread that may be left behind.
            threading.Thread(target=look_up, name="syncd-resolve", daemon=True).start()
        over = self.exchange.check() + limit
        while not wait([found], SLICE_SECONDS).done:
            if self.exchange.check() >= over:
                raise httpcore.ConnectTimeout(f"no answer for the name {host}")
        try:
            return found.result()
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"cannot resolve {host}: {error}") from error


class _Stream(httpcore.NetworkStream):
    """A connection that gives up its wait as soon as its exchange is to end."""

    def __init__(self, sock: socket.socket, backend: _Backend) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._backend = backend
        self._gathered = b""
        self._opens_tunnel = False
        # One TLS record at a time, so that a slow line still shows progress.
        self._most = _TLS_RECORD_BYTES if isinstance(sock, ssl.SSLSocket) else None

    def connect(self, address: Any, limit: float) -> None:
        """Connect the socket within `limit` seconds."""
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def finish() -> None:
            code = self._sock.connect_ex(address)
            if code in {errno.EINPROGRESS, errno.EALREADY}:
                raise BlockingIOError
            if code not in {0, errno.EISCONN}:
                raise OSError(code, os.strerror(code))

        self._until(finish, select.POLLOUT, limit, _CONNECT)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Shake hands; the certificate and its name are always verified."""
        try:
            sock = ssl_context.wrap_socket(
                self._sock, server_hostname=server_hostname, do_handshake_on_connect=False
            )
        except OSError as error:
            self.close()
            raise httpcore.ConnectError(str(error)) from error
        stream = _Stream(sock, self._backend)
        try:
            stream._until(sock.do_handshake, select.POLLIN, timeout, _CONNECT)
        except BaseException:
            stream.close()
            raise
        return stream

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send; an empty buffer, httpcore's end of a request, sends what was gathered."""
        if buffer and len(self._gathered) + len(buffer) < _GATHER_BYTES:
            self._gathered += buffer
            return
        gathered, self._gathered = self._gathered, b""
        if gathered and buffer:
            self._send(gathered, timeout, ends=False)
        self._opens_tunnel = gathered.startswith(b"CONNECT ")
        if last := buffer or gathered:
            ends = self._backend.exchange.final and not self._opens_tunnel
            self._send(last, timeout, ends=ends)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive something, or b"" at the end."""
        if not self._opens_tunnel:
            self._backend.exchange.await_answer()
        return self._until(partial(self._sock.recv, max_bytes), select.POLLIN, timeout, _READ)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks: whether an idle connection has something to read (its end)."""
        if info == "is_readable":
            return self._sock.fileno() < 0 or _ready(self._sock, select.POLLIN, 0)
        if info == "ssl_object" and isinstance(self._sock, ssl.SSLSocket):
            return self._sock
        return None

    def _send(self, data: bytes, timeout: float | None, *, ends: bool) -> None:
        exchange = self._backend.exchange
        view = memoryview(data)
        while view:
            part = view[: self._most]
            # Set before the call that may hand over the last byte: a signal can hit in between.
            exchange.released = ends and len(part) == len(view)
            try:
                sent = self._until(partial(self._sock.send, part), select.POLLOUT, timeout, _WRITE)
            except Exception:
                exchange.released = False
                raise
            view = view[sent:]

    def _until(self, act: Callable[[], T], event: int, timeout: float | None, kinds: _Kinds) -> T:
        """Do what would block, once it does not; look at stop flag and clock while waiting."""
        started = self._backend.exchange.check()
        failed, too_slow = kinds
        while True:
            try:
                return act()
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError) as blocked:
                awaited = _AWAITED.get(type(blocked), event)
            except OSError as error:
                raise failed(str(error)) from error
            _ready(self._sock, awaited, SLICE_SECONDS)
            now = self._backend.exchange.check()
            if timeout is not None and now - started >= timeout:
                raise too_slow("timed out")


def _look_up(host: str, port: int, found: "Future[list[tuple[int, Any]]]") -> None:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found.set_result([(answer[0], answer[4]) for answer in answers])
    except Exception as error:
        found.set_exception(error)


def _is_address(host: str) -> bool:
    return host.replace(".", "").isdigit() or ":" in host


def _ready(sock: socket.socket, event: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(seconds * 1000))


def _proxy(url: httpx.URL) -> httpcore.Proxy:
    auth = (url.username, url.password) if url.userinfo else None
    return httpcore.Proxy(str(url.copy_with(userinfo=b"")), auth=auth)


def _translated(act: Callable[[], T]) -> T:
    try:
        return act()
    except _FOREIGN as error:
        raise _AS_HTTPX[type(error)](str(error)) from error


@lru_cache(maxsize=4)
def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """The public authorities and `ca_file`'s; no environment variable has a say."""
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"ca_file {ca_file} cannot be used: {error}") from error
    return context
