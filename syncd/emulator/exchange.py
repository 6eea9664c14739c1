"""One request and its answer on the wire: counted, held back, or broken off."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, BinaryIO

from starlette.responses import Response

from syncd.emulator.answers import new_request_id
from syncd.emulator.journal import token_in

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: How much of a POST is searched for the sent name.
_HEAD_BYTES = 16_384


class Exchange:
    """One request: what went in, what came out, and the connection under it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.request_id = scope["request_id"] = new_request_id()
        self.received = 0
        self.status: int | None = None
        self._receive, self._send = receive, send
        self._head = bytearray() if scope["method"] == "POST" else None

    async def receive(self) -> Message:
        """Receive as ASGI does, and count."""
        message = await self._receive()
        body = message.get("body", b"")
        if self._head is not None and self.received < _HEAD_BYTES:
            self._head += body[:_HEAD_BYTES]
        self.received += len(body)
        return message

    async def send(self, message: Message) -> None:
        """Send as ASGI does, with the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            request_id = (b"x-request-id", self.request_id.encode())
            message["headers"] = [*message.get("headers", []), request_id]
        await self._send(message)

    async def answer(self, response: Response) -> None:
        """Send a response."""
        await response(self.scope, self.receive, self.send)

    async def drain(self, into: BinaryIO | None = None) -> bool:
        """Read the body to its end, to nowhere or into a file; say whether all of it came."""
        while (message := await self.receive())["type"] == "http.request":
            if into is not None:
                into.write(message.get("body", b""))
            if not message.get("more_body"):
                return True
        return False

    async def hang_up(self, *, flush: bool) -> None:
        """Close the connection, after what was sent has left or at once."""
        transport = self.scope["state"]["transport"]
        if flush:
            transport.close()
        else:
            transport.abort()
        # Until the server knows that nobody listens, it would answer for us.
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def token(self) -> str | None:
        """Return the token of the name that was sent, or of the object that was named."""
        if "token" in self.scope:
            known: str | None = self.scope["token"]
            return known
        # The headers of the first part, and not the content: a file may speak of tokens, too.
        head = bytes(self._head or b"")
        is_json = head.lstrip()[:1] in (b"{", b"[")
        return token_in((head if is_json else head.partition(b"\r\n\r\n")[0]).decode("latin-1"))


class Held:
    """An answer that is held back, to be spoilt."""

    def __init__(self) -> None:
        self.start: Message = {}
        self.body = bytearray()

    async def send(self, message: Message) -> None:
        """Keep what is sent."""
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.body += message.get("body", b"")


class Replay:
    """A body that was kept in a file, received once more."""

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self._file = file
        self._more = True

    async def receive(self) -> Message:
        """Receive as ASGI does."""
        if not self._more:
            return {"type": "http.disconnect"}
        await asyncio.sleep(0)
        body = self._file.read(1 << 16)
        self._more = bool(body)
        return {"type": "http.request", "body": body, "more_body": self._more}
