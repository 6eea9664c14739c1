"""The storage host behind presigned URLs, which checks signatures and knows no key."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from syncd.emulator.answers import StorageRefusal
from syncd.emulator.contents import FolderContents
from syncd.emulator.journal import token_in
from syncd.emulator.presign import PREFIX, Signer
from syncd.emulator.store import ObjectIndex, StoredObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """PUT and GET of presigned URLs."""

    store: ObjectIndex
    folder: FolderContents
    signer: Signer
    max_body: int | None
    process: Callable[[StoredObject | None], None]

    def routes(self) -> list[Route]:
        """Return the paths of presigned URLs."""
        path = PREFIX + "{name:path}"
        return [Route(path, self.put, methods=["PUT"]), Route(path, self.get, methods=["GET"])]

    async def put(self, request: Request) -> Response:
        """Store the body; the same bytes again change nothing, other bytes replace them."""
        stored = self._admitted(request)
        sent_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if stored.declared_type not in (None, sent_type):
            message = f"the content type was declared as {stored.declared_type}"
            raise StorageRefusal(403, message, code="SignatureDoesNotMatch")
        self._check_size(int(request.headers.get("content-length", 0)))
        async with self.folder.incoming() as incoming:
            async for chunk in request.stream():
                incoming.write(chunk)
                self._check_size(incoming.size)
            await incoming.close()
            etag = {"etag": f'"{incoming.sha256[:32]}"'}
            known = self.store.get(stored.file_uuid) or stored
            if known.sha256 == incoming.sha256:
                return Response(headers=etag)
            # A PUT to a deleted object succeeds and changes nothing: storage knows no records.
            changed = self.store.change(
                stored.file_uuid,
                processing_status="pending" if stored.file_type == "video" else "completed",
                error_message=None,
                video_metadata=None,
                **incoming.values(),
            )
            incoming.kept = changed is not None
        self.process(changed)
        return Response(headers=etag)

    async def get(self, request: Request) -> Response:
        """Answer with the bytes of an object, or of a frame of it."""
        stored = self._admitted(request)
        frame = request.path_params["name"].partition("/")[2]
        path = self.folder.path(stored, frame)
        if not path.is_file():
            raise StorageRefusal(404, "there is no such object")
        kind = "image/jpeg" if frame else stored.content_type
        return FileResponse(path, media_type=kind)

    def _admitted(self, request: Request) -> StoredObject:
        # A key that is sent here is given away, so clients that send one must notice.
        if {"x-api-key", "authorization"} & set(request.headers):
            message = "a presigned request must carry no key"
            raise StorageRefusal(400, message, code="InvalidArgument")
        name, query = request.path_params["name"], request.query_params
        self.signer.check(
            request.method, name, query.get("X-Expires", ""), query.get("X-Signature", "")
        )
        stored = self.store.get(name.partition("/")[0])
        if stored is None:
            raise StorageRefusal(404, "there is no such object")
        request.scope["token"] = token_in(stored.sent_name)
        return stored

    def _check_size(self, size: int) -> None:
        if self.max_body is not None and size > self.max_body:
            message = f"the object is larger than {self.max_body} bytes"
            raise StorageRefusal(400, message, code="EntityTooLarge")
