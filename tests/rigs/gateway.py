"""A gateway between syncd and the service: passes all on, or answers, cuts and stalls itself."""

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Self

#: An answer that does not come: longer than any rig lasts.
_FOR_EVER = 3_600.0


class Gateway:
    """A TCP proxy on this machine. `mode` is how it treats each connection from now on.

    `pass`; `html STATUS` (a page of its own, whatever was asked); `hang` (reads, never answers);
    `reset`; `trickle` (the page, a byte a second).
    """

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition("/")[2].rpartition(":")
        self._upstream = (host, int(port))
        self._mode = "pass"
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.struck = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.set("pass")

    def set(self, mode: str) -> None:
        """Take up another mode; connections of the one before end."""
        with self._lock:
            self._mode, cut = mode, list(self._open)
        for connection in cut:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            mode = self._mode
            self._open.add(client)
        self.struck += mode != "pass"
        try:
            with suppress(OSError):
                self._treat(client, mode)
        finally:
            with self._lock:
                self._open.discard(client)
            client.close()

    def _treat(self, client: socket.socket, mode: str) -> None:
        kind, _, status = mode.partition(" ")
        if kind == "pass":
            self._pass_on(client)
        elif kind == "reset":
            client.recv(1024)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif kind == "hang":
            while client.recv(65536):
                pass
        else:
            _read_request(client)
            page = b"<html><body>the gateway says no</body></html>"
            head = f"HTTP/1.1 {status or 200} of a gateway\r\ncontent-type: text/html\r\n"
            head += "location: http://127.0.0.1:9/login\r\nconnection: close\r\n"
            answer = f"{head}content-length: {len(page)}\r\n\r\n".encode() + page
            if kind == "trickle":
                began = time.monotonic()
                for byte in answer:
                    client.sendall(bytes([byte]))
                    if time.monotonic() - began > _FOR_EVER:
                        return
                    time.sleep(1.0)
            client.sendall(answer)

    def _pass_on(self, client: socket.socket) -> None:
        with socket.create_connection(self._upstream) as server:
            with self._lock:
                self._open.add(server)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()
            with self._lock:
                self._open.discard(server)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _read_request(client: socket.socket) -> None:
    """Read a request to the end of its body."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        block = client.recv(65536)
        if not block:
            return
        seen += block
    head, _, body = seen.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    client.settimeout(5.0)
    while len(body) < length and (block := client.recv(65536)):
        body += block
