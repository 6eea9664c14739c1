"""Connections that can be ended at once, and know what has left.

httpx's own time limits are for each socket operation, so that a trickle never ends; nothing can
stop it from outside; and after an error it cannot say whether the request was whole. The streams
here look up every quarter second and keep count.
"""

# The resolver looks this codec up by itself, and Python remembers for good that it could not be
# loaded: with no open file to be had at the first look, no address would ever be resolved again.
import encodings.idna  # noqa: F401
import errno
import os
import re
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, TypeAlias, TypeVar

import httpcore

from syncd.files_api.errors import CERTIFICATE_REMEDY, OURS_REFUSED
from syncd.files_api.exchange import Exchange

T = TypeVar("T")

#: How often a waiting stream looks at the stop flag and the clock.
SLICE_SECONDS = 0.25
#: How long the look-up of a name may take: a resolver waits 5 s for each dead name server.
LOOK_UP_SECONDS = 15.0
#: The beginnings of what is said of a connection that cannot be made.
CERTIFICATE_REFUSED = "the certificate is not trusted"
NO_TLS = "what listens there speaks no TLS"
NO_NAME = "cannot resolve"
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


class Backend(httpcore.NetworkBackend):
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
            if problem := self.exchange.refuses(host, address[0]):
                failure = httpcore.UnsupportedProtocol(problem)
                continue
            try:
                opened = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                # Out of open files, or no such family here: nothing was sent.
                failure = httpcore.ConnectError(str(error))
                continue
            stream = Stream(opened, self)
            try:
                stream.connect(address, limit)
                return stream
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                stream.close()
                # With a proxy, it is not the address that was configured as the service's.
                failure = type(error)(f"{host}:{port}: {error}")
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
        over = self.exchange.check() + max(limit, LOOK_UP_SECONDS)
        while not wait([found], SLICE_SECONDS).done:
            if self.exchange.check() >= over:
                raise httpcore.ConnectTimeout(f"{NO_NAME} {host}: the name servers do not answer")
        try:
            return found.result()
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{NO_NAME} {host}: {error}") from error


class Stream(httpcore.NetworkStream):
    """A connection that gives up its wait as soon as its exchange is to end."""

    def __init__(self, sock: socket.socket, backend: Backend) -> None:
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
        stream = Stream(sock, self._backend)
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
            self._send(gathered, timeout)
        # What asks a proxy for a tunnel is no request yet, and its answer not the answer.
        self._opens_tunnel |= gathered.startswith(b"CONNECT ")
        if last := buffer or gathered:
            self._send(last, timeout)

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

    def _send(self, data: bytes, timeout: float | None) -> None:
        exchange = self._backend.exchange
        view = memoryview(data)
        while view:
            part = view[: self._most]
            # Said before the call that may hand over the last byte: a signal can hit in between.
            exchange.released = True
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
                words = _words(error)
                # TLS 1.3 tells so late; but what was sent before was not looked at.
                kind = httpcore.ConnectError if words.startswith(OURS_REFUSED) else failed
                raise kind(words) from error
            _ready(self._sock, awaited, SLICE_SECONDS)
            now = self._backend.exchange.check()
            if timeout is not None and now - started >= timeout:
                raise too_slow("timed out")


#: The remedies for a certificate that is not trusted, by OpenSSL's codes (X509_V_ERR_...).
_NAME_IT = "name its authority in [api] ca_file"
_REMEDIES = {
    9: "set this machine's clock, or wait until it is valid",
    10: "have the service renew it, or set this machine's clock",
    18: _NAME_IT,
    19: _NAME_IT,
    20: f"{_NAME_IT}, or have the service send its intermediate certificates",
    62: "use a name in base_url that the certificate is for",
    64: "use a name in base_url that the certificate is for",
}
_REMEDIES[21] = _REMEDIES[20]
#: The alerts by which a server refuses what a client shows.
_ALERTS = re.compile(
    "ALERT_((NO|BAD|UNSUPPORTED)_CERTIFICATE|CERTIFICATE_|UNKNOWN_CA|ACCESS_DENIED)"
)


def _words(error: OSError) -> str:
    """Say what failed, and what mends it, without OpenSSL's names for it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = _REMEDIES.get(error.verify_code)
        said = f"{CERTIFICATE_REFUSED}: {error.verify_message}"
        return f"{said}; {remedy}" if remedy else said
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return f"{NO_TLS}: is it http, and not https?"
    if isinstance(error, ssl.SSLError) and (alert := _ALERTS.search(error.reason or "")):
        what = alert.string[alert.start() :].removeprefix("ALERT_").replace("_", " ").lower()
        return f"{OURS_REFUSED} ({what}); {CERTIFICATE_REMEDY}"
    return str(error)


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
