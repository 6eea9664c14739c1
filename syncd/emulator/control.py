"""The emulator's control paths, outside the API's: they show what it holds, and set faults.

They need a key if other machines can reach the emulator.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from syncd.emulator.answers import invalid
from syncd.emulator.arrivals import Arrivals
from syncd.emulator.faults import Faults
from syncd.emulator.journal import Journal
from syncd.emulator.records import iso_time
from syncd.emulator.store import ObjectIndex, StoredObject

PREFIX = "/_emulator/"
#: for health checks; needs no key
ALIVE = PREFIX + "health"
_JSON_LINES = "application/jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatorControl:
    """Shows objects and requests, and holds the rules for faults."""

    store: ObjectIndex
    arrivals: Arrivals
    journal: Journal
    faults: Faults = field(default_factory=Faults, init=False)

    def routes(self) -> list[Route]:
        """Return the control paths."""
        return [
            Route(PREFIX + "objects", self._objects, methods=["GET"]),
            Route(PREFIX + "requests", self._requests, methods=["GET"]),
            Route(PREFIX + "faults", self._faults, methods=["GET"]),
            Route(PREFIX + "faults", self._set_faults, methods=["PUT"]),
            Route(ALIVE, self._health, methods=["GET"]),
        ]

    async def _objects(self, _request: Request) -> Response:
        return StreamingResponse(self._object_lines(), media_type=_JSON_LINES)

    async def _requests(self, _request: Request) -> Response:
        return StreamingResponse(self._request_lines(), media_type=_JSON_LINES)

    async def _faults(self, _request: Request) -> Response:
        return JSONResponse(self.faults.rules())

    async def _set_faults(self, request: Request) -> Response:
        try:
            rules = await request.json()
        except (ValueError, RecursionError) as error:
            raise invalid("body", f"is not JSON: {error}") from error
        self.faults.replace(rules)
        return await self._faults(request)

    async def _health(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _object_lines(self) -> AsyncIterator[str]:
        for batch in self.store.everything():
            yield "".join(map(_line, await self.arrivals.current(batch)))

    async def _request_lines(self) -> AsyncIterator[bytes]:
        # Lines are written on the same event loop, so none is seen half written.
        for piece in self.journal.read():
            yield piece


def _line(stored: StoredObject) -> str:
    line = {
        "file_uuid": stored.file_uuid,
        "state": stored.state,
        "sha256": stored.sha256,
        "size": stored.size,
        "content_type": stored.content_type,
        "local_file_path": stored.sent_name,
        "remote_uri": stored.remote_uri,
        "workspace_uuid": stored.workspace_uuid,
        "created_at": iso_time(stored.created_at),
        "deleted_at": iso_time(stored.deleted_at),
    }
    return json.dumps(line) + "\n"
