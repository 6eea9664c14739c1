"""The emulator as an ASGI application: who may ask, what is noted, and what goes wrong."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from syncd.emulator import faults
from syncd.emulator.answers import Refusal, invalid, new_request_id
from syncd.emulator.endpoints import Api
from syncd.emulator.openapi import description
from syncd.emulator.presign import PREFIX
from syncd.emulator.settings import ORGANIZATION, Settings
from syncd.emulator.storage import Storage
from syncd.emulator.store import Store

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: How many requests are remembered.
REMEMBERED = 200_000


class Broken(Exception):  # noqa: N818 - control flow: the connection is to end without an answer
    """The connection is closed without an answer."""


class App:
    """Wraps the endpoints: faults first, then rate, key, and a line for each request."""

    def __init__(self, *, store: Store, api: Api, storage: Storage, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._faults = faults.Faults()
        self._requests: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._allowance, self._refilled_at = settings.rate_limit or 0.0, time.monotonic()
        self._late: set[asyncio.Task[None]] = set()
        self._routes = Starlette(
            routes=[
                Route("/v2/files/-/uploads", api.upload, methods=["POST"]),
                Route("/v2/files", api.create, methods=["POST"]),
                Route("/v2/files", api.list, methods=["GET"]),
                Route("/v2/files/{file_uuid}", api.get, methods=["GET"]),
                Route("/v2/files/{file_uuid}", api.delete, methods=["DELETE"]),
                Route("/v2/files/{file_uuid}/status", api.status, methods=["GET"]),
                Route("/v2/files/{file_uuid}/frames", api.frames, methods=["GET"]),
                Route(PREFIX + "{name:path}", storage.answer, methods=["GET", "PUT"]),
                Route("/_emulator/objects", self._objects, methods=["GET"]),
                Route("/_emulator/requests", self._told, methods=["GET"]),
                Route("/_emulator/faults", self._set_faults, methods=["GET", "PUT"]),
                Route("/_emulator/health", lambda _: PlainTextResponse("ok\n"), methods=["GET"]),
                Route("/openapi.json", lambda _: JSONResponse(description()), methods=["GET"]),
            ],
            exception_handlers={
                Refusal: _refused,
                HTTPException: _not_served,
                Exception: _failed,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            return
        if scope["path"].startswith("/_emulator/"):
            await self._routes(scope, receive, send)
            return
        noted = _Noted(scope, receive, send)
        began = self._store.clock()
        try:
            await self._serve(scope, noted)
        except Broken:
            # Uvicorn's cycle knows its transport: an abort is what a broken network looks like.
            send.__self__.transport.abort()  # type: ignore[attr-defined]
        finally:
            self._requests.append(
                {
                    "time": began,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": noted.status,
                    "bytes": noted.received,
                    "token": scope.get("token"),
                    "request_id": noted.request_id,
                }
            )

    async def _serve(self, scope: Scope, noted: "_Noted") -> None:
        fault = self._faults.strike(scope["method"], scope["path"])
        kind = fault.kind if fault else ""
        if fault and kind == "drop_before":
            raise Broken
        if fault and kind == "status":
            await noted.drain()
            await self._answer(scope, noted, faults.refusal(fault).answer(noted.request_id))
            return
        if fault and kind == "delay":
            await asyncio.sleep(fault.seconds)
        if fault and kind == "commit_late":
            await self._commit_late(scope, noted, fault.seconds)
            return
        try:
            self._admit(scope)
        except Refusal as refusal:
            await noted.drain()
            await self._answer(scope, noted, refusal.answer(noted.request_id))
            return
        if kind in ("", "delay"):
            await self._routes(scope, noted.receive, noted.send)
            return
        held = _Held()
        await self._routes(scope, noted.receive, held.send)
        await held.spoil(kind, noted)

    def _admit(self, scope: Scope) -> None:
        """Refuse what comes too often, or without a key that is known."""
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        scope["organization"] = ORGANIZATION
        if scope["path"].startswith(PREFIX) or scope["path"] == "/openapi.json":
            return
        self._limit()
        key = headers.get(b"x-api-key")
        scheme, _, bearer = headers.get(b"authorization", "").partition(" ")
        if key is None and scheme.lower() == "bearer":
            key = bearer.strip()
        known = self._settings.api_keys
        if not key or (known and key not in known):
            raise Refusal(401, "the API key is missing or not valid", code="auth.invalid_key")
        scope["organization"] = known.get(key, ORGANIZATION)

    def _limit(self) -> None:
        rate = self._settings.rate_limit
        if rate is None:
            return
        now = time.monotonic()
        self._allowance = min(max(rate, 1.0), self._allowance + (now - self._refilled_at) * rate)
        self._refilled_at = now
        if self._allowance < 1.0:
            wait = max((1.0 - self._allowance) / rate, 0.001)
            raise Refusal(
                429,
                f"more than {rate:g} requests a second",
                headers={"retry-after": f"{wait:.3f}"},
            )
        self._allowance -= 1.0

    async def _commit_late(self, scope: Scope, noted: "_Noted", seconds: float) -> None:
        """Answer 504 now; do what was asked when nobody reckons with it any more."""
        body = await noted.drain(keep=True)

        async def later() -> None:
            await asyncio.sleep(seconds)
            self._admit(scope)
            messages = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def receive() -> Message:
                return next(messages, {"type": "http.disconnect"})

            await self._routes(scope, receive, _Held().send)

        task = asyncio.create_task(later())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        await self._answer(scope, noted, Refusal(504, "too late").answer(noted.request_id))

    async def _answer(self, scope: Scope, noted: "_Noted", response: Response) -> None:
        await response(scope, noted.receive, noted.send)

    async def _objects(self, _: Request) -> Response:
        rows = (
            {
                "file_uuid": stored.file_uuid,
                "state": stored.state,
                "sha256": stored.sha256,
                "size": stored.size,
                "content_type": stored.content_type,
                "local_file_path": stored.local_file_path,
                "remote_uri": stored.remote_uri,
                "workspace_uuid": stored.workspace_uuid,
                "created_at": stored.created_at,
                "deleted_at": stored.deleted_at,
            }
            for stored in self._store.everything()
        )
        return _lines(rows)

    async def _told(self, _: Request) -> Response:
        return _lines(list(self._requests))

    async def _set_faults(self, request: Request) -> Response:
        if request.method == "GET":
            return JSONResponse(self._faults.told())
        try:
            document = json.loads(await request.body())
        except ValueError as error:
            raise invalid("body", f"is no JSON: {error}") from error
        return JSONResponse(self._faults.replace(document))


class _Noted:
    """A request's two ends, counted."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.request_id = scope["request_id"] = new_request_id()
        self.received = 0
        self.status: int | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", []),
                (b"x-request-id", self.request_id.encode()),
            ]
        await self._send(message)

    async def drain(self, *, keep: bool = False) -> bytes:
        """Read the body to its end, so that the client can read its answer."""
        body = bytearray()
        while (message := await self.receive())["type"] == "http.request":
            if keep:
                body += message.get("body", b"")
            if not message.get("more_body"):
                break
        return bytes(body)


class _Held:
    """An answer that is held back, to be spoilt."""

    def __init__(self) -> None:
        self.start: Message = {"type": "http.response.start", "status": 500, "headers": []}
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.body += message.get("body", b"")

    async def spoil(self, kind: str, noted: _Noted) -> None:
        if kind == "drop_after":
            raise Broken
        if kind == "garbage":
            self.body = b"<html>it works!</html>"
            self.start = {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/html"),
                    (b"content-length", str(len(self.body)).encode()),
                ],
            }
        await noted.send(self.start)
        if kind == "truncate":
            half = self.body[: len(self.body) // 2]
            await noted.send({"type": "http.response.body", "body": half, "more_body": True})
            # What was written has to leave before the connection breaks.
            await asyncio.sleep(0.05)
            raise Broken
        await noted.send({"type": "http.response.body", "body": self.body, "more_body": False})


def _lines(rows: Any) -> Response:
    return Response("".join(json.dumps(row) + "\n" for row in rows), media_type="application/jsonl")


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    # Half a body left unread would be taken for the next request.
    with suppress(ClientDisconnect, RuntimeError):
        async for _ in request.stream():
            pass
    return error.answer(request.scope.get("request_id", ""))


async def _not_served(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    word = {404: "there is nothing at this path", 405: "this method is not served here"}
    code = {404: "request.not_found"}.get(status)
    refusal = Refusal(status, word.get(status, "refused"), code=code, headers=headers)
    return refusal.answer(request.scope.get("request_id", ""))


async def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientDisconnect):
        # Nobody is there to read it; what had arrived is gone with its part.
        return Response(status_code=499)
    return Refusal(500, "the emulator failed").answer(request.scope.get("request_id", ""))
