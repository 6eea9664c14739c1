"""The endpoints of the API: what each takes, checks and answers."""

import json
import re
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from syncd.emulator import multipart
from syncd.emulator.answers import Refusal, invalid
from syncd.emulator.presign import Signer
from syncd.emulator.processing import Submit
from syncd.emulator.settings import ORGANIZATION, Settings
from syncd.emulator.store import Store, Stored, metadata

FILE_TYPES = ("image", "video", "text", "document")
DEFAULT_LIMIT, MOST_LIMIT = 100, 1000
JSON_BYTES = 4 << 20
TOKEN = re.compile(r"sy1-[0-9a-f]{8}-[0-9a-f]{28}")
_VIDEO_NAME = re.compile(r"\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|wmv|flv|3gp)$", re.IGNORECASE)
#: What content types may look like (RFC 9110, without parameters).
_CONTENT_TYPE = re.compile(r"[\w!#$&^.+-]{1,100}/[\w!#$&^.+-]{1,100}", re.ASCII)


class Api:
    """The endpoints over one store."""

    def __init__(self, *, store: Store, signer: Signer, submit: Submit, settings: Settings) -> None:
        self._store = store
        self._signer = signer
        self._submit = submit
        self._settings = settings

    async def upload(self, request: Request) -> Response:
        """POST /v2/files/-/uploads: one multipart part `file`."""
        workspace = _uuid_or_none("workspace_uuid", request.query_params.get("workspace_uuid"))
        limit = self._settings.max_body
        declared = request.headers.get("content-length", "")
        if limit is not None and declared.isdigit() and int(declared) > limit:
            raise multipart.too_large(limit)
        part = self._store.part()
        try:
            received = await multipart.receive(
                request.headers.get("content-type", ""), request.stream(), part, max_body=limit
            )
            _note_token(request, [received.filename])
            stored = self._new(
                request,
                workspace,
                name=received.filename,
                content_type=_checked_type("file", received.content_type),
                state="live",
                sha256=received.sha256,
                size=received.size,
            )
            self._store.keep(part, stored)
        finally:
            part.unlink(missing_ok=True)
        if stored.file_type == "video":
            self._submit(stored.file_uuid)
        return JSONResponse(self._upload_answer(request, stored, "GET"))

    async def create(self, request: Request) -> Response:
        """POST /v2/files: reserve objects to PUT, or have remote files fetched."""
        document = await _json(request)
        if not isinstance(document, dict):
            raise invalid("body", "must be an object")
        workspace = _uuid_or_none("workspace_uuid", document.get("workspace_uuid"))
        wanted = document.get("files")
        if not isinstance(wanted, list) or not 1 <= len(wanted) <= 1000:
            raise invalid("files", "must be a list of 1 to 1000 files")
        checked = [_wanted_file(number, item) for number, item in enumerate(wanted)]
        _note_token(request, [name or "" for name, _, _ in checked])
        answers = []
        for name, remote_uri, content_type in checked:
            stored = self._new(
                request,
                workspace,
                name=name,
                content_type=content_type,
                state="reserved",
                remote_uri=remote_uri,
            )
            self._store.put(stored)
            if remote_uri is not None:
                self._submit(stored.file_uuid)
            method = "PUT" if remote_uri is None else "GET"
            answers.append(self._upload_answer(request, stored, method))
        return JSONResponse({"workspace_uuid": workspace, "files": answers})

    async def list(self, request: Request) -> Response:
        """GET /v2/files: newest first."""
        query = request.query_params
        file_type = query.get("file_type")
        if file_type is not None and file_type not in FILE_TYPES:
            raise invalid("file_type", f"must be one of {', '.join(FILE_TYPES)}")
        page, count = self._store.page(
            _organization(request),
            workspace=_uuid_or_none("workspace_uuid", query.get("workspace_uuid")),
            file_type=file_type,
            limit=_whole("limit", query.get("limit"), DEFAULT_LIMIT, 1, MOST_LIMIT),
            offset=_whole("offset", query.get("offset"), 0, 0, 10**12),
        )
        items = [self._detail(request, stored, url=False) for stored in page]
        return JSONResponse({"items": items, "count": count})

    async def get(self, request: Request) -> Response:
        """GET /v2/files/{file_uuid}."""
        return JSONResponse(self._detail(request, self._found(request), url=True))

    async def status(self, request: Request) -> Response:
        """GET /v2/files/{file_uuid}/status."""
        stored = self._found(request)
        done = stored.processing_status == "completed"
        return JSONResponse(
            {
                "file_uuid": stored.file_uuid,
                "processing_status": stored.processing_status,
                "error_message": stored.error_message,
                "remote_file_path": stored.remote_file_path if done else None,
                "created_at": _time(stored.created_at),
                "updated_at": _time(stored.updated_at),
            }
        )

    async def frames(self, request: Request) -> Response:
        """GET /v2/files/{file_uuid}/frames."""
        stored = self._found(request)
        if stored.file_type != "video":
            raise Refusal(400, "the file is not a video", code="file.not_a_video")
        if stored.processing_status != "completed":
            raise Refusal(
                409,
                f"the video is {stored.processing_status}; wait until its processing_status is "
                "completed (GET /v2/files/{file_uuid}/status)",
                code="file.not_processed",
                details={"processing_status": stored.processing_status},
            )
        names = [
            f"{stored.file_uuid}/frame_{number:06d}.jpg"
            for number in range(1, (stored.frame_count or 0) + 1)
        ]
        base = _base(request)
        return JSONResponse(
            {
                "file_uuid": stored.file_uuid,
                "frame_count": len(names),
                "frame_urls": [self._signer.url(base, "GET", name) for name in names],
            }
        )

    async def delete(self, request: Request) -> Response:
        """DELETE /v2/files/{file_uuid}: a soft delete."""
        stored = self._found(request)
        self._store.change(stored.file_uuid, state="deleted", deleted_at=self._store.now())
        return Response(status_code=204)

    def _new(
        self,
        request: Request,
        workspace: str | None,
        *,
        name: str | None,
        content_type: str,
        state: str,
        sha256: str | None = None,
        size: int | None = None,
        remote_uri: str | None = None,
    ) -> Stored:
        file_uuid, now = str(uuid4()), self._store.now()
        content_type, file_type = _kind(content_type, name or remote_uri or "")
        kept = self._echoed(name)
        last = (kept or "").rpartition("/")[2] or "content"
        # A video becomes a directory of frames; everything else keeps its name.
        tail = f"{last}/" if file_type == "video" else last
        pending = file_type == "video" or remote_uri is not None
        return Stored(
            file_uuid=file_uuid,
            organization_uuid=_organization(request),
            workspace_uuid=workspace,
            state=state,
            content_type=content_type,
            file_type=file_type,
            created_at=now,
            updated_at=now,
            sha256=sha256,
            size=size,
            local_file_path=kept,
            remote_file_path=f"files/{file_uuid}/{tail}",
            remote_uri=remote_uri,
            processing_status="pending" if pending else "completed",
        )

    def _echoed(self, name: str | None) -> str | None:
        if name is None or self._settings.echo == "none":
            return None
        return name if self._settings.echo == "path" else name.rpartition("/")[2]

    def _found(self, request: Request) -> Stored:
        """Return the object that the path names, of the caller's own organization."""
        file_uuid = _uuid("file_uuid", request.path_params["file_uuid"])
        stored = self._store.get(file_uuid)
        if (
            stored is None
            or stored.state == "deleted"
            or stored.organization_uuid != _organization(request)
        ):
            raise Refusal(404, f"there is no file {file_uuid}")
        return stored

    def _upload_answer(self, request: Request, stored: Stored, method: str) -> dict[str, Any]:
        return {
            "file_uuid": stored.file_uuid,
            "file_url": self._signer.url(_base(request), method, stored.file_uuid),
            "local_file_path": stored.local_file_path,
            "remote_file_path": stored.remote_file_path,
            "remote_uri": stored.remote_uri,
            "content_type": stored.content_type,
            "processing_status": stored.processing_status,
        }

    def _detail(self, request: Request, stored: Stored, *, url: bool) -> dict[str, Any]:
        there = url and stored.state == "live"
        return {
            "file_uuid": stored.file_uuid,
            "organization_uuid": stored.organization_uuid,
            "workspace_uuid": stored.workspace_uuid,
            "content_type": stored.content_type,
            "file_type": stored.file_type,
            "file_size_bytes": stored.size,
            "file_url": self._signer.url(_base(request), "GET", stored.file_uuid)
            if there
            else None,
            "original_file_url": stored.local_file_path or stored.remote_uri,
            "remote_file_path": stored.remote_file_path,
            "processing_status": stored.processing_status,
            "video_metadata": metadata(stored),
            "uploaded_by_uuid": None,
            "created_at": _time(stored.created_at),
            "updated_at": _time(stored.updated_at),
        }


def _organization(request: Request) -> str:
    return cast("str", request.scope.get("organization", ORGANIZATION))


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat()


def _note_token(request: Request, names: list[str]) -> None:
    """Leave the first token of what was sent for the list of requests."""
    found = TOKEN.search("\n".join(names))
    request.scope["token"] = found.group() if found else None


async def _json(request: Request) -> object:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_BYTES:
            raise multipart.too_large(JSON_BYTES)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid("body", f"is no JSON: {error}") from error


def _wanted_file(number: int, item: object) -> tuple[str | None, str | None, str]:
    """Check one of the files to create; return its path, its remote URI and its type."""
    where = f"files[{number}]"
    if not isinstance(item, dict):
        raise invalid(where, "must be an object")
    for name in ("local_file_path", "remote_uri", "content_type"):
        value = item.get(name)
        if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 4096):
            raise invalid(f"{where}.{name}", "must be a string of 1 to 4096 characters")
    path, remote_uri = item.get("local_file_path"), item.get("remote_uri")
    if remote_uri is not None and not remote_uri.startswith(("http://", "https://")):
        raise invalid(f"{where}.remote_uri", "must be an http or https URL")
    content_type = item.get("content_type") or "application/octet-stream"
    return path, remote_uri, _checked_type(f"{where}.content_type", content_type)


def _checked_type(where: str, content_type: str) -> str:
    bare = content_type.partition(";")[0].strip().lower()
    if not _CONTENT_TYPE.fullmatch(bare):
        raise invalid(where, "has no valid content type")
    return bare


def _kind(content_type: str, name: str) -> tuple[str, str]:
    """Return the content type, read off the name where it says nothing, and the file type."""
    if content_type == "application/octet-stream" and _VIDEO_NAME.search(name):
        content_type = "video/mp4"
    family = content_type.partition("/")[0]
    return content_type, family if family in ("image", "video", "text") else "document"


def _uuid(where: str, text: object) -> str:
    try:
        if not isinstance(text, str) or len(text) != 36:
            raise ValueError
        return str(UUID(text))
    except ValueError:
        raise invalid(where, "must be a UUID") from None


def _uuid_or_none(where: str, text: object) -> str | None:
    return None if text is None else _uuid(where, text)


def _whole(where: str, text: str | None, default: int, least: int, most: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or not least <= int(text[:15]) <= most:
        raise invalid(where, f"must be a whole number from {least} to {most}")
    return int(text)
