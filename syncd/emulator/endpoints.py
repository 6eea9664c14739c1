"""The endpoints of the API: what each takes, checks and answers."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from syncd.emulator import checks, multipart
from syncd.emulator.answers import Refusal, invalid, too_large
from syncd.emulator.arrivals import Arrivals
from syncd.emulator.contents import Contents
from syncd.emulator.journal import token_in
from syncd.emulator.personalities import Personality
from syncd.emulator.records import Records
from syncd.emulator.store import ObjectIndex, StoredObject

#: The files on a page when a listing names no limit.
DEFAULT_LIMIT = 100
#: The most bytes of a create's JSON.
CREATE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The API over one store; `process` and `fetch` take objects that need more work."""

    store: ObjectIndex
    contents: Contents
    records: Records
    arrivals: Arrivals
    max_body: int | None
    traits: Personality
    process: Callable[[StoredObject | None], None]
    fetch: Callable[[StoredObject], None]

    def routes(self) -> Sequence[Route]:
        """Return the paths of the Files API."""
        return [
            Route("/v2/files/-/uploads", self.upload, methods=["POST"]),
            Route("/v2/files", self.create, methods=["POST"]),
            Route("/v2/files", self.list, methods=["GET"]),
            Route("/v2/files/{file_uuid}", self.get, methods=["GET"]),
            Route("/v2/files/{file_uuid}", self.delete, methods=["DELETE"]),
            Route("/v2/files/{file_uuid}/status", self.status, methods=["GET"]),
            Route("/v2/files/{file_uuid}/frames", self.frames, methods=["GET"]),
        ]

    async def upload(self, request: Request) -> Response:
        """POST /v2/files/-/uploads: one multipart part `file`."""
        workspace = self._workspace(request, request.query_params.get("workspace_uuid"), claim=True)
        length = int(request.headers.get("content-length", 0))
        if self.max_body is not None and length > self.max_body:
            raise too_large(self.max_body)
        async with self.contents.incoming(length or None) as incoming:
            part = await multipart.receive(request, incoming, max_body=self.max_body)
            declared = part.content_type and checks.content_type("file", part.content_type)
            await incoming.close()
            stored = self._new(
                request, workspace, name=part.filename, declared=declared, **incoming.values()
            )
            self.store.add(stored)
            incoming.kept = True
        self.process(stored)
        return JSONResponse(self.records.upload(request, stored))

    async def create(self, request: Request) -> Response:
        """POST /v2/files: reserve objects to PUT, or have remote files fetched."""
        document = await _document(request)
        wanted = document.get("files")
        if not isinstance(wanted, list) or not 1 <= len(wanted) <= checks.CREATE_FILES:
            raise invalid("files", f"must be a list of 1 to {checks.CREATE_FILES} files")
        checked = [checks.new_file(f"files[{n}]", item) for n, item in enumerate(wanted)]
        workspace = self._workspace(request, document.get("workspace_uuid"), claim=True)
        created = [
            self._new(request, workspace, name=path, remote_uri=remote_uri, declared=declared)
            for path, remote_uri, declared in checked
        ]
        self.store.add(*created)
        for stored in created:
            if stored.remote_uri is not None:
                self.fetch(stored)
        files = [self.records.upload(request, stored) for stored in created]
        return JSONResponse({"workspace_uuid": workspace, "files": files})

    async def list(self, request: Request) -> Response:
        """GET /v2/files: reserved objects too, and no deleted ones."""
        query, largest = request.query_params, self.traits.page_limit
        await asyncio.sleep(self.traits.list_seconds)
        file_type = query.get("file_type")
        if file_type is not None and file_type not in checks.FILE_TYPES:
            raise invalid("file_type", f"must be one of {', '.join(checks.FILE_TYPES)}")
        most = largest if self.traits.refuses_limit else checks.MOST_OFFSET
        # A default is not checked: it may exceed the largest page.
        limit = (
            checks.whole("limit", query["limit"], 1, most) if "limit" in query else DEFAULT_LIMIT
        )
        page, count = self.store.page(
            request.scope["organization"],
            workspace=self._workspace(request, query.get("workspace_uuid")),
            file_type=file_type,
            limit=min(limit, largest),
            offset=checks.whole("offset", query.get("offset", "0"), 0, checks.MOST_OFFSET),
            order=self.traits.order,
        )
        current = await self.arrivals.current(page)
        items = [self.records.detail(request, stored, url=False) for stored in current]
        return JSONResponse({"items": items, "count": count})

    async def get(self, request: Request) -> Response:
        """GET /v2/files/{file_uuid}."""
        return JSONResponse(self.records.detail(request, await self._found(request), url=True))

    async def status(self, request: Request) -> Response:
        """GET /v2/files/{file_uuid}/status."""
        return JSONResponse(self.records.status(await self._found(request)))

    async def frames(self, request: Request) -> Response:
        """GET /v2/files/{file_uuid}/frames."""
        stored = await self._found(request)
        if stored.file_type != "video":
            message = f"the file is {stored.content_type} and not a video"
            raise Refusal(400, message, code="file.not_a_video")
        if stored.processing_status != "completed":
            wait = f"wait until GET /v2/files/{stored.file_uuid}/status says completed"
            failed = stored.processing_status == "failed"
            raise Refusal(
                409,
                f"the video {'failed to process' if failed else 'is not processed yet: ' + wait}",
                code="file.processing_failed" if failed else "file.not_processed",
                # The official client retries a 409 at once unless told not to.
                headers={"x-should-retry": "false"},
                details={
                    "processing_status": stored.processing_status,
                    "error_message": stored.error_message,
                },
            )
        return JSONResponse(self.records.frames(request, stored))

    async def delete(self, request: Request) -> Response:
        """DELETE /v2/files/{file_uuid}: a soft delete."""
        stored = await self._found(request, deleted=self.traits.second_delete == 204)
        self.store.change(stored.file_uuid, state="deleted", deleted_at=self.store.now())
        return Response(status_code=204)

    def _new(
        self,
        request: Request,
        workspace: str | None,
        *,
        name: str | None,
        declared: str | None,
        remote_uri: str | None = None,
        state: str = "reserved",
        **content: Any,
    ) -> StoredObject:
        now = self.store.now()
        content_type, file_type = checks.kind(declared or None, name or remote_uri or "")
        pending = file_type == "video" or remote_uri is not None
        return StoredObject(
            file_uuid=str(uuid4()),
            organization_uuid=request.scope["organization"],
            workspace_uuid=workspace,
            state=state,
            content_type=content_type,
            file_type=file_type,
            created_at=now,
            updated_at=now,
            declared_type=declared or None,
            sent_name=name,
            remote_uri=remote_uri,
            processing_status="pending" if pending else "completed",
            **content,
        )

    def _workspace(self, request: Request, text: object, *, claim: bool = False) -> str | None:
        """Return the requested workspace; the first organization to write to it owns it."""
        if text is None:
            return None
        workspace = checks.uuid("workspace_uuid", text)
        organization = request.scope["organization"]
        if self.store.owner(workspace) not in (None, organization):
            raise Refusal(403, f"workspace {workspace} belongs to another organization")
        if claim:
            self.store.claim(workspace, organization)
        return workspace

    async def _found(self, request: Request, *, deleted: bool = False) -> StoredObject:
        """Return the caller's object that the path names; a deleted one only with `deleted`."""
        file_uuid = checks.uuid("file_uuid", request.path_params["file_uuid"])
        stored = self.store.get(file_uuid)
        theirs = stored and stored.organization_uuid == request.scope["organization"]
        if stored is None or not theirs or (stored.state == "deleted" and not deleted):
            raise Refusal(404, f"there is no file {file_uuid}")
        request.scope["token"] = token_in(stored.sent_name)
        return (await self.arrivals.current([stored]))[0]


async def _document(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > CREATE_BYTES:
            raise too_large(CREATE_BYTES)
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise invalid("body", "must be an object")
    return document
