"""The storage host behind presigned URLs: it knows signatures, and no key."""

from hashlib import sha256

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from syncd.emulator.presign import Signer
from syncd.emulator.processing import Submit
from syncd.emulator.store import Store, Stored

_XML = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>'


class Storage:
    """PUT and GET of presigned URLs."""

    def __init__(
        self, *, store: Store, signer: Signer, submit: Submit, max_body: int | None
    ) -> None:
        self._store = store
        self._signer = signer
        self._submit = submit
        self._max_body = max_body

    async def answer(self, request: Request) -> Response:
        """Serve one presigned request; errors are the storage host's own, in XML."""
        name = request.path_params["name"]
        query = request.query_params
        # A key sent here is a key given away: a client that does so is to notice.
        if {"x-api-key", "authorization"} & set(request.headers):
            return _error(400, "InvalidArgument", "a presigned request must carry no key")
        problem = self._signer.problem(
            request.method, name, query.get("X-Expires", ""), query.get("X-Signature", "")
        )
        if problem is not None:
            return _error(403, problem, "the URL is not valid, or not any more")
        file_uuid, _, frame = name.partition("/")
        stored = self._store.get(file_uuid)
        if stored is None or stored.state == "deleted":
            return _error(404, "NoSuchKey", "there is no such object")
        if request.method == "PUT":
            return await self._put(request, stored)
        path = self._store.frames(file_uuid) / frame if frame else self._store.blob(file_uuid)
        if not path.is_file():
            return _error(404, "NoSuchKey", "there is no such object")
        return FileResponse(path, media_type="image/jpeg" if frame else stored.content_type)

    async def _put(self, request: Request, stored: Stored) -> Response:
        sent_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if sent_type != stored.content_type:
            return _error(403, "SignatureDoesNotMatch", f"content type is {stored.content_type}")
        part, digest, size = self._store.part(), sha256(), 0
        try:
            with part.open("wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if self._max_body is not None and size > self._max_body:
                        return _error(400, "EntityTooLarge", "the body is too large")
                    digest.update(chunk)
                    file.write(chunk)
            if self._store.get(stored.file_uuid) is None:
                return _error(404, "NoSuchKey", "there is no such object")
            part.replace(self._store.blob(stored.file_uuid))
        finally:
            part.unlink(missing_ok=True)
        self._store.change(stored.file_uuid, state="live", sha256=digest.hexdigest(), size=size)
        if stored.file_type == "video":
            self._submit(stored.file_uuid)
        return Response(headers={"etag": f'"{digest.hexdigest()[:32]}"'})


def _error(status: int, code: str, message: str) -> Response:
    return Response(_XML.format(code, message), status, media_type="application/xml")
