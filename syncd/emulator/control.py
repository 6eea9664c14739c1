"""The emulator's control paths, outside those of the API: read what it holds, set faults.

A key is needed where other machines can reach it.
"""

import json
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from syncd.emulator.answers import invalid
from syncd.emulator.arrivals import Arrivals
from syncd.emulator.faults import Faults
from syncd.emulator.journal import Journal
from syncd.emulator.records import spelled
from syncd.emulator.store import Store, Stored

PREFIX = "/_emulator/"
#: what a health check asks, without a key
ALIVE = PREFIX + "health"
_JSON_LINES = "application/jsonl"


class Control:
    """Tells objects and requests, and takes the rules for faults."""

    def __init__(self, *, store: Store, arrivals: Arrivals, journal: Journal) -> None:
        self.faults = Faults()
        self._store = store
        self._arrivals = arrivals
        self._journal = journal

    def routes(self) -> list[Route]:
        """Return what is served."""
        return [
            Route(PREFIX + "objects", self._objects, methods=["GET"]),
            Route(PREFIX + "requests", self._requests, methods=["GET"]),
            Route(PREFIX + "faults", self._faults, methods=["GET"]),
            Route(PREFIX + "faults", self._set_faults, methods=["PUT"]),
            Route(ALIVE, self._health, methods=["GET"]),
        ]

    async def _objects(self, _request: Request) -> Response:
        return StreamingResponse(self._lines(), media_type=_JSON_LINES)

    async def _requests(self, _request: Request) -> Response:
        return StreamingResponse(self._noted(), media_type=_JSON_LINES)

    async def _faults(self, _request: Request) -> Response:
        return JSONResponse(self.faults.told())

    async def _set_faults(self, request: Request) -> Response:
        try:
            rules = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise invalid("body", f"is not JSON: {error}") from error
        self.faults.replace(rules)
        return await self._faults(request)

    async def _health(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _lines(self) -> AsyncIterator[str]:
        for batch in self._store.everything():
            yield "".join(map(_line, await self._arrivals.seen(batch)))

    async def _noted(self) -> AsyncIterator[bytes]:
        # On the event loop, which writes them: no line is seen half written.
        for piece in self._journal.read():
            yield piece


def _line(stored: Stored) -> str:
    line = {
        "file_uuid": stored.file_uuid,
        "state": stored.state,
        "sha256": stored.sha256,
        "size": stored.size,
        "content_type": stored.content_type,
        "local_file_path": stored.sent_name,
        "remote_uri": stored.remote_uri,
        "workspace_uuid": stored.workspace_uuid,
        "created_at": spelled(stored.created_at),
        "deleted_at": spelled(stored.deleted_at),
    }
    return json.dumps(line) + "\n"
