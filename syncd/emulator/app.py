"""The emulator as an ASGI application: it admits, answers and records each request.

Faults (see `faults`) are applied here, around the endpoints, which do not know about them.
"""

import asyncio
import logging
import tempfile
import time
from contextlib import suppress
from typing import Any, BinaryIO, Literal, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from syncd.emulator.admission import Admission
from syncd.emulator.answers import Refusal, StorageRefusal
from syncd.emulator.control import PREFIX as CONTROL, EmulatorControl
from syncd.emulator.endpoints import Endpoints
from syncd.emulator.faults import FaultAction
from syncd.emulator.journal import Journal
from syncd.emulator.openapi import HEALTH, description
from syncd.emulator.personalities import Personality
from syncd.emulator.presign import PREFIX as STORAGE
from syncd.emulator.records import iso_time
from syncd.emulator.served_request import Message, Receive, Scope, Send, ServedRequest, replay
from syncd.emulator.storage import Storage

log = logging.getLogger(__name__)

OPENAPI = "/openapi.json"
#: The end of an exchange: the connection stays open, closes after what was written, or is cut.
_Ending = Literal["open", "closed", "cut"]


class App:
    """Everything that the emulator serves."""

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        storage: Storage,
        control: EmulatorControl,
        admission: Admission,
        journal: Journal,
        personality: Personality,
    ) -> None:
        self._personality = personality
        self._faults = control.faults
        self._admission = admission
        self._journal = journal
        self._late: set[asyncio.Task[None]] = set()
        self._routes = Starlette(
            routes=[
                *endpoints.routes(),
                *storage.routes(),
                Route(OPENAPI, self._openapi, methods=["GET"]),
                Route(HEALTH, _health, methods=["GET"]),
                *control.routes(),
            ],
            exception_handlers={
                Refusal: _refused,
                ClientDisconnect: _disconnected,
                HTTPException: self._unrouted,
                Exception: _failed,
            },
        )
        # A redirect would make clients send the body and the key twice: answer 404 instead.
        self._routes.router.redirect_slashes = False
        if not personality.answers_head:
            for route in self._routes.routes:
                cast("set[str]", cast("Route", route).methods).discard("HEAD")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = ServedRequest(scope, receive, send)
        if scope["path"].startswith(CONTROL):
            await self._serve_control(exchange)
            return
        began = time.time()
        fault = self._faults.strike(scope["method"], scope["path"])
        try:
            ending = await self._serve(exchange, fault)
        except asyncio.CancelledError:
            # The emulator is stopping and has cut every connection: nobody awaits this answer.
            if not scope["state"]["transport"].is_closing():
                raise
            return
        # Record the request before its connection ends: a client may then look for this line.
        self._journal.note(
            {
                "time": iso_time(began),
                "method": scope["method"],
                "path": scope["path"],
                "status": exchange.status,
                "bytes": exchange.received,
                "token": exchange.token(),
                "request_id": exchange.request_id,
            }
        )
        if ending != "open":
            await exchange.hang_up(flush=ending == "closed")

    async def _serve_control(self, exchange: ServedRequest) -> None:
        try:
            self._admission.admit_control(exchange.scope)
        except Refusal as refusal:
            await exchange.refuse(refusal)
        else:
            await self._route(exchange.scope, exchange.receive, exchange.send)

    async def _serve(self, exchange: ServedRequest, fault: FaultAction | None) -> _Ending:
        scope, kind = exchange.scope, fault.kind if fault else None
        if kind in ("drop_before", "lie", "status"):
            # Read the whole body first: the client cannot know whether it was stored.
            await exchange.drain()
        if kind == "drop_before":
            return "cut"
        if kind == "lie":
            await exchange.answer(Response(headers={"etag": '"of nothing"'}))
            return "open"
        if fault and kind == "delay":
            await asyncio.sleep(fault.seconds)
        try:
            if fault and kind == "status":
                raise _requested(fault, scope)
            if not scope["path"].startswith((STORAGE, OPENAPI, HEALTH)):
                self._admission.admit(scope)
        except Refusal as refusal:
            await exchange.refuse(refusal)
            return "open"
        if fault and kind == "commit_late":
            await self._commit_late(exchange, fault.seconds)
            return "open"
        if kind in (None, "delay"):
            await self._route(scope, exchange.receive, exchange.send)
            return "open"
        held: list[Message] = []
        await self._route(scope, exchange.receive, _appending(held))
        return "cut" if kind == "drop_after" else await _spoil(kind, held, exchange)

    async def _commit_late(self, exchange: ServedRequest, seconds: float) -> None:
        """Answer 504 now, and process the request later."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it outlives this call
        if await exchange.drain(file):
            task = asyncio.create_task(self._later(exchange.scope, file, seconds))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        else:
            file.close()
        await exchange.refuse(Refusal(504, "a requested fault: this takes effect later"))

    async def _later(self, scope: Scope, file: BinaryIO, seconds: float) -> None:
        with file:
            await asyncio.sleep(seconds)
            await self._route(scope, replay(file), _appending([]))

    async def _openapi(self, _request: Request) -> Response:
        return JSONResponse(description(self._personality.page_limit))

    async def _unrouted(self, request: Request, _error: Exception) -> Response:
        """Return the 405 for a method, or the 404 for a path, that no route has."""
        methods = {
            method
            for route in self._routes.routes
            if isinstance(route, Route) and route.path_regex.match(request.url.path)
            for method in route.methods or ()
        }
        if methods:
            allow = {"allow": ", ".join(sorted(methods))}
            message = "this path does not take this method"
            refusal = _kind(request.scope)(405, message, headers=allow)
        else:
            refusal = Refusal(404, "there is nothing at this path", code="request.not_found")
        return await _refused(request, refusal)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette raises again what `_failed` has logged and answered.
        with suppress(Exception):
            await self._routes(scope, receive, send)


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _requested(fault: FaultAction, scope: Scope) -> Refusal:
    headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
    return _kind(scope)(fault.status, "a requested fault", headers=headers)


def _kind(scope: Scope) -> type[Refusal]:
    """Return the refusal of the API, or of the storage host."""
    return StorageRefusal if scope["path"].startswith(STORAGE) else Refusal


def _appending(messages: list[Message]) -> Send:
    async def send(message: Message) -> None:
        messages.append(message)

    return send


async def _spoil(kind: str | None, held: list[Message], exchange: ServedRequest) -> _Ending:
    """Send HTML in place of the answer, or only the first half of the answer."""
    if kind == "garbage":
        await exchange.answer(Response("<html>it works!</html>", media_type="text/html"))
        return "open"
    start, *rest = held
    await exchange.send(start)
    body = b"".join(message.get("body", b"") for message in rest)
    half = body[: len(body) // 2]
    await exchange.send({"type": "http.response.body", "body": half, "more_body": True})
    return "closed"


async def _refused(request: Request, error: Any) -> Response:
    response: Response = error.answer(request.scope["request_id"])
    return response


async def _disconnected(_request: Request, _error: Exception) -> Response:
    """Return an answer that nobody reads, with nginx's status, for the journal."""
    return Response(status_code=499)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return await _refused(request, _kind(request.scope)(500, "the emulator failed"))
