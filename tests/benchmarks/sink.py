"""A Files API that reads each upload to its end and keeps nothing: the far end of a benchmark.

Run as a process of its own: `python sink.py SECONDS [LIMIT]`, where SECONDS is what each answer
takes, and LIMIT the uploads that it takes in a second: further ones get 429 and `Retry-After: 1`.
It prints its port, and ends with its standard input.
"""

import asyncio
import sys
import time
from math import inf
from uuid import uuid4

_ANSWER = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}"
_LIMITED = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
_UPLOADED = '{{"file_uuid":"{}","remote_file_path":"x","processing_status":"completed"}}'


class Limit:
    """So many tokens a second, and no more than those of one second at once."""

    def __init__(self, rate: float) -> None:
        self._rate = self._left = rate
        self._at = time.monotonic()

    def takes(self) -> bool:
        if self._rate == inf:
            return True
        now = time.monotonic()
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self, seconds: float, limit: Limit) -> None:
        self._seconds, self._limit = seconds, limit
        self._head = b""
        self._left = 0
        self._post = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
                if not self._left:
                    self._answer()
                continue
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            self._post = head.startswith(b"POST")
            for line in head.split(b"\r\n")[1:]:
                if line[:15].lower() == b"content-length:":
                    self._left = int(line[15:])
            if not self._left:
                self._answer()

    def _answer(self) -> None:
        if self._post and not self._limit.takes():
            self._transport.write(_LIMITED.encode())
            return
        body = _UPLOADED.format(uuid4()) if self._post else '{"items":[],"count":0}'
        text = _ANSWER.format(len(body), body).encode()
        if self._seconds and self._post:
            asyncio.get_running_loop().call_later(self._seconds, self._transport.write, text)
        else:
            self._transport.write(text)


async def main(seconds: float, rate: float) -> None:
    loop, limit = asyncio.get_running_loop(), Limit(rate)
    server = await loop.create_server(lambda: Sink(seconds, limit), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main(float(sys.argv[1]), float((*sys.argv, "inf")[2])))
