"""A Files API that reads each upload to its end and keeps nothing: the far end of a benchmark.

Run as a process of its own: `python sink.py SECONDS`, where SECONDS is what each answer takes. It
prints its port, and ends with its standard input.
"""

import asyncio
import sys
from uuid import uuid4

_ANSWER = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{}"
_UPLOADED = '{{"file_uuid":"{}","remote_file_path":"x","processing_status":"completed"}}'


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
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
        body = _UPLOADED.format(uuid4()) if self._post else '{"items":[],"count":0}'
        text = _ANSWER.format(len(body), body).encode()
        if self._seconds and self._post:
            asyncio.get_running_loop().call_later(self._seconds, self._transport.write, text)
        else:
            self._transport.write(text)


async def main(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sink(seconds), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main(float(sys.argv[1])))
