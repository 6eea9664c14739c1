"""One request and its answer on the wire: counted, drained, or cut off."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, BinaryIO

from starlette.responses import Response

from syncd.emulator.answers import Refusal, new_request_id
from syncd.emulator.journal import token_in

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: The part of a POST's body that is searched for the file's name.
_HEAD_BYTES = 16_384


class ServedRequest:
    """One request: what was received, what was sent, and the connection under it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.request_id = scope["request_id"] = new_request_id()
        self.received = 0
        self.status: int | None = None
        self._receive, self._send = receive, send
        self._head = b""

    async def receive(self) -> Message:
        """Receive as ASGI does, and count."""
        message = await self._receive()
        body = message.get("body", b"")
        if self.scope["method"] == "POST" and self.received < _HEAD_BYTES:
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

    async def refuse(self, refusal: Refusal) -> None:
        """Send a refusal."""
        await self.answer(refusal.answer(self.request_id))

    async def drain(self, into: BinaryIO | None = None) -> bool:
        """Read the body to its end, into a file if given; return whether all of it arrived."""
        while (message := await self.receive())["type"] == "http.request":
            if into is not None:
                into.write(message.get("body", b""))
            if not message.get("more_body"):
                return True
        return False

    async def hang_up(self, *, flush: bool) -> None:
        """Close the connection, at once or after what was sent has left."""
        transport = self.scope["state"]["transport"]
        if flush:
            transport.close()
        else:
            transport.abort()
        # Until uvicorn knows of the disconnect, it would answer in our place.
        while (await self.receive())["type"] != "http.disconnect":
            pass

    def token(self) -> str | None:
        """Return the token in the name that was sent, or in that of the requested object."""
        if "token" in self.scope:
            known: str | None = self.scope["token"]
            return known
        # Search the first part's headers but not its content: a file may contain tokens, too.
        is_json = self._head.lstrip()[:1] in (b"{", b"[")
        head = self._head if is_json else self._head.partition(b"\r\n\r\n")[0]
        return token_in(head.decode("latin-1"))


def replay(file: BinaryIO) -> Receive:
    """Return a `receive` that delivers the body kept in `file`."""
    file.seek(0)
    more = True

    async def receive() -> Message:
        nonlocal more
        if not more:
            return {"type": "http.disconnect"}
        await asyncio.sleep(0)
        body = file.read(1 << 16)
        more = bool(body)
        return {"type": "http.request", "body": body, "more_body": more}

    return receive
