"""The emulator as an ASGI application: each request is admitted, answered and noted.

What goes wrong on demand (see `faults`) goes wrong here, around the endpoints: they know nothing
of it.
"""

import asyncio
import logging
import tempfile
import time
from contextlib import suppress
from typing import Any, BinaryIO, Literal, cast

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from syncd.emulator.admission import Admission
from syncd.emulator.answers import Refusal, StorageRefusal
from syncd.emulator.control import ALIVE, PREFIX as CONTROL, Control
from syncd.emulator.endpoints import Endpoints
from syncd.emulator.exchange import Exchange, Held, Receive, Replay, Scope, Send
from syncd.emulator.faults import Action
from syncd.emulator.hosts import is_called_rightly, is_loopback
from syncd.emulator.journal import Journal
from syncd.emulator.openapi import HEALTH, description
from syncd.emulator.personalities import Personality
from syncd.emulator.presign import PREFIX as STORAGE
from syncd.emulator.records import spelled
from syncd.emulator.storage import Storage

log = logging.getLogger(__name__)

OPENAPI = "/openapi.json"
#: How a connection is left: to its owner, closed after what was written, or cut at once.
_Ending = Literal["open", "closed", "cut"]


class App:
    """Everything that the emulator serves."""

    def __init__(
        self,
        *,
        endpoints: Endpoints,
        storage: Storage,
        control: Control,
        admission: Admission,
        journal: Journal,
        host: str,
        personality: Personality,
    ) -> None:
        self._is_local = is_loopback(host)
        self._personality = personality
        self._control = control
        self._admission = admission
        self._journal = journal
        self._late: set[asyncio.Task[None]] = set()
        self._routes = Starlette(
            routes=[
                Route("/v2/files/-/uploads", endpoints.upload, methods=["POST"]),
                Route("/v2/files", endpoints.create, methods=["POST"]),
                Route("/v2/files", endpoints.list, methods=["GET"]),
                Route("/v2/files/{file_uuid}", endpoints.get, methods=["GET"]),
                Route("/v2/files/{file_uuid}", endpoints.delete, methods=["DELETE"]),
                Route("/v2/files/{file_uuid}/status", endpoints.status, methods=["GET"]),
                Route("/v2/files/{file_uuid}/frames", endpoints.frames, methods=["GET"]),
                *storage.routes(),
                Route(OPENAPI, self._openapi, methods=["GET"]),
                Route(HEALTH, _healthy, methods=["GET"]),
                *control.routes(),
            ],
            exception_handlers={
                Refusal: _refused,
                ClientDisconnect: _left,
                HTTPException: self._not_served,
                Exception: _failed,
            },
        )
        # A redirect would ask for a body and a key twice; what is not served is a 404.
        self._routes.router.redirect_slashes = False
        if not personality.answers_head:
            for route in self._routes.routes:
                cast("set[str]", cast("Route", route).methods).discard("HEAD")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = Exchange(scope, receive, send)
        if scope["path"].startswith(CONTROL):
            if (refusal := self._forbids(scope)) is not None:
                await exchange.answer(refusal.answer(exchange.request_id))
            else:
                await self._route(scope, exchange.receive, exchange.send)
            return
        began = time.time()
        fault = self._control.faults.strike(scope["method"], scope["path"])
        try:
            ending = await self._serve(exchange, fault)
        except asyncio.CancelledError:
            # The emulator stops, and cut every connection: nobody waits for this answer.
            if not scope["state"]["transport"].is_closing():
                raise
            return
        # Before the connection ends: who sees its end may ask at once for this line.
        self._journal.note(
            {
                "time": spelled(began),
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

    def _forbids(self, scope: Scope) -> Refusal | None:
        """Return the refusal of a control request that may not be made; None where it may."""
        if scope["path"] == ALIVE or self._admission.knows(scope):
            return None
        if not self._is_local:
            return Refusal(401, "other machines can reach the emulator: show its key")
        if not is_called_rightly(Headers(scope=scope)):
            return Refusal(403, "call the emulator by its address, or show its key")
        return None

    async def _serve(self, exchange: Exchange, fault: Action | None) -> _Ending:
        scope, kind = exchange.scope, fault.kind if fault else None
        if kind == "drop_before":
            # To the last byte: the client cannot know what became of it.
            await exchange.drain()
            return "cut"
        if kind == "lie":
            await exchange.drain()
            await exchange.answer(Response(headers={"etag": '"of nothing"'}))
            return "open"
        if fault and kind == "delay":
            await asyncio.sleep(fault.seconds)
        try:
            if fault and kind == "status":
                await exchange.drain()
                raise _asked_for(fault, scope)
            if not scope["path"].startswith((STORAGE, OPENAPI, HEALTH)):
                self._admission.admit(scope)
        except Refusal as refusal:
            await exchange.answer(refusal.answer(exchange.request_id))
            return "open"
        if fault and kind == "commit_late":
            await self._commit_late(exchange, fault.seconds)
            return "open"
        if kind in (None, "delay"):
            await self._route(scope, exchange.receive, exchange.send)
            return "open"
        held = Held()
        await self._route(scope, exchange.receive, held.send)
        return "cut" if kind == "drop_after" else await _spoil(kind, held, exchange)

    async def _commit_late(self, exchange: Exchange, seconds: float) -> None:
        """Answer 504 now; do what was asked when nobody reckons with it any more."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it outlives this call
        if await exchange.drain(file):
            task = asyncio.create_task(self._later(exchange.scope, file, seconds))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        else:
            file.close()
        refusal = Refusal(504, "a fault that was asked for: it is done later")
        await exchange.answer(refusal.answer(exchange.request_id))

    async def _later(self, scope: Scope, file: BinaryIO, seconds: float) -> None:
        with file:
            await asyncio.sleep(seconds)
            await self._route(scope, Replay(file).receive, Held().send)

    async def _openapi(self, _request: Request) -> Response:
        return JSONResponse(description(self._personality.page_limit))

    async def _not_served(self, request: Request, _error: Exception) -> Response:
        """Return the 405 of a method, or the 404 of a path, that no route has."""
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
        return refusal.answer(request.scope["request_id"])

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What fails, `_failed` has logged and answered; Starlette raises it once more.
        with suppress(Exception):
            await self._routes(scope, receive, send)


async def _healthy(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _asked_for(fault: Action, scope: Scope) -> Refusal:
    headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
    return _kind(scope)(fault.status, "a fault that was asked for", headers=headers)


def _kind(scope: Scope) -> type[Refusal]:
    """Return who refuses: the API, or the storage host in its own words."""
    return StorageRefusal if scope["path"].startswith(STORAGE) else Refusal


async def _spoil(kind: str | None, held: Held, exchange: Exchange) -> _Ending:
    """Send no JSON where JSON should be, or only half of the answer."""
    if kind == "garbage":
        await exchange.answer(Response("<html>it works!</html>", media_type="text/html"))
        return "open"
    await exchange.send(held.start)
    half = held.body[: len(held.body) // 2]
    await exchange.send({"type": "http.response.body", "body": half, "more_body": True})
    return "closed"


async def _refused(request: Request, error: Any) -> Response:
    response: Response = error.answer(request.scope["request_id"])
    return response


async def _left(_request: Request, _error: Exception) -> Response:
    """Return what nobody will read; the number is nginx's, and shows in the list of requests."""
    return Response(status_code=499)


async def _failed(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    refusal = _kind(request.scope)(500, "the emulator failed")
    return refusal.answer(request.scope["request_id"])
