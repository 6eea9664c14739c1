"""A server below HTTP: it records the bytes that reach it and does to the connection as told."""

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

Behaviour = Callable[["Connection"], None]

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER_UUID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
KEY = "canary-key-5d41402abc4b2a76"


@dataclass
class Received:
    """A request as far as it came."""

    head: bytes = b""
    body: bytes = b""
    whole: bool = False

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}


@dataclass
class Connection:
    """One accepted connection, for a behaviour to use."""

    sock: socket.socket
    requests: list[Received] = field(default_factory=list)
    received: Received = field(default_factory=Received)
    over: threading.Event = field(default_factory=threading.Event)
    _rest: bytes = b""

    def read_head(self) -> bool:
        self.received = Received()
        while b"\r\n\r\n" not in self._rest:
            data = self.sock.recv(65536)
            if not data:
                return False
            self._rest += data
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        self.received.head = head
        self.requests.append(self.received)
        return True

    def read_request(self) -> bool:
        """Read one request to its end; whether it was whole."""
        if not self.read_head():
            return False
        length = int(self.received.headers.get("content-length", 0))
        body = bytearray(self._rest)
        while len(body) < length:
            data = self.sock.recv(1 << 20)
            if not data:
                break
            body += data
        self._rest = bytes(body[length:])
        self.received.body = bytes(body[:length])
        self.received.whole = len(body) >= length
        return self.received.whole

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class RawServer:
    """Accepts connections and gives each one to `behaviour` on a thread of its own."""

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        tls: ssl.SSLContext | None = None,
        small_window: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        self.behaviour = behaviour
        self.requests: list[Received] = []
        self.connections = 0
        self._tls = tls
        self._listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        if small_window:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind((host, 0))
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if tls else 'http'}://{shown}:{self.port}"
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._socks: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in self._socks:
            sock.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._socks.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._socks.append(sock)
            self.behaviour(Connection(sock, requests=self.requests, over=self._over))
        with contextlib.suppress(OSError):
            sock.close()


def http(status: int, body: bytes = b"", *headers: str) -> bytes:
    """The bytes of an answer."""
    lines = [f"HTTP/1.1 {status} Whatever", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def document(value: object, status: int = 200, *headers: str) -> bytes:
    """The bytes of a JSON answer."""
    return http(status, json.dumps(value).encode(), "content-type: application/json", *headers)


def envelope(status: int, code: str = "some.code", *headers: str, **details: object) -> bytes:
    """The bytes of a refusal in the API's own envelope."""
    error = {"code": code, "message": "what went wrong", "details": details}
    return document({"error": error, "request_id": "req-77"}, status, *headers)


def answering(*answers: bytes) -> Behaviour:
    """Read requests to their end and give these answers in turn; the last one again and again."""
    left = list(answers)

    def behave(connection: Connection) -> None:
        while connection.read_request():
            connection.sock.sendall(left.pop(0) if len(left) > 1 else left[0])

    return behave


DETAIL = {
    "file_uuid": UUID,
    "organization_uuid": OTHER_UUID,
    "content_type": "text/plain",
    "file_type": "text",
    "remote_file_path": "/a/b.txt",
    "created_at": "2026-01-02T03:04:05Z",
    "updated_at": "2026-01-02T03:04:05Z",
}
