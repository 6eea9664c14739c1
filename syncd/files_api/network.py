"""Connections that can be ended at once, and know what has left.

A stream looks at the stop flag and the deadline of the request it carries every quarter second,
and after a failure it knows whether the kernel took the last bytes.
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
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, Self, TypeVar

import httpx

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
_RECEIVE_BYTES = 64 * 1024
_TLS_RECORD_BYTES = 16 * 1024

_BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Stream:
    """A connection that gives up its wait as soon as its exchange is to end."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        sock.setblocking(False)
        #: the exchange that the stream serves now
        self.exchange = exchange
        self._sock = sock
        #: the socket, once it speaks TLS
        self.tls: ssl.SSLSocket | None = None

    @classmethod
    def open(cls, host: str, port: int, exchange: Exchange, limit: float) -> Self:
        """Connect to the first address that answers, each within `limit` seconds."""
        failure: Exception = httpx.ConnectError(f"{host} has no address")
        for family, address in _resolve(host, port, exchange, limit):
            if problem := exchange.refuses(host, address[0]):
                failure = httpx.UnsupportedProtocol(problem)
                continue
            try:
                opened = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                # Out of open files, or no such family here: nothing was sent.
                failure = httpx.ConnectError(str(error))
                continue
            stream = cls(opened, exchange)
            try:
                stream._connect(address, limit)
                return stream
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                stream.close()
                # With a proxy, it is not the address that was configured as the service's.
                failure = type(error)(f"{host}:{port}: {error}")
            except BaseException:
                stream.close()
                raise
        raise failure

    def start_tls(self, context: ssl.SSLContext, host: str, limit: float) -> None:
        """Shake hands within `limit` seconds; the certificate and its name are always verified."""
        try:
            self._sock = self.tls = context.wrap_socket(
                self._sock, server_hostname=host, do_handshake_on_connect=False
            )
            self._until_connected(self.tls.do_handshake, select.POLLIN, limit)
        except OSError as error:
            self.close()
            raise httpx.ConnectError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def send(
        self, data: bytes, limit: float, has_refused: Callable[[], bool] | None = None
    ) -> bool:
        """Send all of `data`, waiting for `limit` seconds at most until the line takes more.

        `has_refused` is asked when the peer speaks meanwhile: once it is true, no more is sent,
        and False is returned.
        """
        exchange = self.exchange
        exchange.released = False
        since = exchange.check()
        heard = select.POLLIN if has_refused is not None else 0
        # One TLS record at a time, so that a slow line still shows progress.
        most = None if self.tls is None else _TLS_RECORD_BYTES
        view = memoryview(data)
        while view:
            # Set before the call that may hand over the last byte: a signal can hit in between.
            exchange.released = True
            try:
                sent = self._sock.send(view[:most])
            except _BLOCKED as blocked:
                exchange.released = False
                seen = _poll(self._sock, _awaited(blocked, select.POLLOUT) | heard, SLICE_SECONDS)
                if has_refused is not None and seen & ~select.POLLOUT and has_refused():
                    return False
                if exchange.check() - since >= limit:
                    raise httpx.WriteTimeout("timed out") from None
            except OSError as error:
                exchange.released = False
                raise _said(error, httpx.WriteError) from error
            else:
                view = view[sent:]
                since = time.monotonic()
        return True

    def receive(self) -> bytes:
        """Receive something, or b"" at the end; the exchange limits the wait."""
        if not self._has_pending:
            # An answer is never there at once: this spares a vain attempt to read it.
            _poll(self._sock, select.POLLIN, SLICE_SECONDS)
        while True:
            self.exchange.check()
            try:
                return self._sock.recv(_RECEIVE_BYTES)
            except _BLOCKED as blocked:
                _poll(self._sock, _awaited(blocked, select.POLLIN), SLICE_SECONDS)
            except OSError as error:
                raise _said(error, httpx.ReadError) from error

    def receive_now(self) -> bytes | None:
        """Receive what is here, b"" at the end, or None."""
        try:
            return self._sock.recv(_RECEIVE_BYTES)
        except _BLOCKED:
            return None
        except OSError as error:
            raise _said(error, httpx.ReadError) from error

    @property
    def is_readable(self) -> bool:
        """Whether the peer has sent something, or has closed the connection."""
        if self._sock.fileno() < 0 or self._has_pending:
            return True
        return bool(_poll(self._sock, select.POLLIN, 0))

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    @property
    def _has_pending(self) -> bool:
        return self.tls is not None and self.tls.pending() > 0

    def _connect(self, address: Any, limit: float) -> None:
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def finish() -> None:
            code = self._sock.connect_ex(address)
            if code in {errno.EINPROGRESS, errno.EALREADY}:
                raise BlockingIOError
            if code not in {0, errno.EISCONN}:
                raise OSError(code, os.strerror(code))

        self._until_connected(finish, select.POLLOUT, limit)

    def _until_connected(self, act: Callable[[], None], event: int, limit: float) -> None:
        """Do what would block, once it does not, within `limit` seconds."""
        started = self.exchange.check()
        while True:
            try:
                return act()
            except _BLOCKED as blocked:
                _poll(self._sock, _awaited(blocked, event), SLICE_SECONDS)
            except OSError as error:
                raise _said(error, httpx.ConnectError) from error
            if self.exchange.check() - started >= limit:
                raise httpx.ConnectTimeout("timed out")


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
    # Before TLS 1.3, a certificate that is demanded and not shown is a failure of the handshake.
    "ALERT_((NO|BAD|UNSUPPORTED)_CERTIFICATE|CERTIFICATE_|UNKNOWN_CA|ACCESS_DENIED|HANDSHAKE_F)"
)


def _said(error: OSError, kind: type[httpx.TransportError]) -> httpx.TransportError:
    """Return an error of httpx in our words: of `kind`, unless no request can have been heard."""
    words = _words(error)
    # TLS 1.3 tells so late; but what was sent before was not looked at.
    return (httpx.ConnectError if words.startswith(OURS_REFUSED) else kind)(words)


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


def _resolve(host: str, port: int, exchange: Exchange, limit: float) -> list[tuple[int, Any]]:
    """Return the families and addresses of a host."""
    found: Future[list[tuple[int, Any]]] = Future()
    look_up = partial(_look_up, host, port, found)
    if _is_address(host):
        look_up()
    else:
        # The resolver cannot be interrupted, so it gets a thread that may be left behind.
        threading.Thread(target=look_up, name="syncd-resolve", daemon=True).start()
    over = exchange.check() + max(limit, LOOK_UP_SECONDS)
    while not wait([found], SLICE_SECONDS).done:
        if exchange.check() >= over:
            raise httpx.ConnectTimeout(f"{NO_NAME} {host}: the name servers do not answer")
    try:
        return found.result()
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"{NO_NAME} {host}: {error}") from error


def _look_up(host: str, port: int, found: "Future[list[tuple[int, Any]]]") -> None:
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found.set_result([(answer[0], answer[4]) for answer in answers])
    except Exception as error:
        found.set_exception(error)


def _is_address(host: str) -> bool:
    return host.replace(".", "").isdigit() or ":" in host


def _awaited(blocked: Exception, event: int) -> int:
    """Return the event that what is blocked waits for: TLS may read to write, and write to read."""
    if isinstance(blocked, ssl.SSLWantReadError):
        return select.POLLIN
    return select.POLLOUT if isinstance(blocked, ssl.SSLWantWriteError) else event


def _poll(sock: socket.socket, event: int, seconds: float) -> int:
    """Wait for an event on a socket; return the events there are, 0 for none."""
    poll = select.poll()
    poll.register(sock, event)
    return next((seen for _, seen in poll.poll(seconds * 1000)), 0)
