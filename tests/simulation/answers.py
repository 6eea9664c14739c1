"""How the simulated service shows an object: FileUpload and FileDetail."""

import uuid
from datetime import UTC, datetime

from syncd.files_api import FileDetail, FileUpload

from .objects import FOREIGN, OURS, Object

ORGANIZATION = str(uuid.UUID(int=7))
UPLOADERS = {OURS: str(uuid.UUID(int=8)), FOREIGN: str(uuid.UUID(int=9))}


def status(item: Object, now: float) -> str | None:
    """Return how far the processing of a video is; None for other files."""
    if not item.is_video:
        return None
    if item.body is None:
        return "pending"
    if now < item.stored_at + item.processing_seconds:
        return "processing"
    return "failed" if item.fails else "completed"


def upload(item: Object, *, with_uuid: bool = True, url: bool = False) -> FileUpload:
    """Return the answer to an upload or a create."""
    return FileUpload(
        file_uuid=item.file_uuid if with_uuid else None,
        file_url=f"https://storage/{item.file_uuid}" if url else None,
        content_type=item.content_type,
        processing_status="pending" if item.is_video else None,
    )


def detail(
    item: Object,
    *,
    now: float,
    ahead_seconds: float,
    echo: bool,
    tells_sizes: bool,
    tells_states: bool,
    names_uploaders: bool,
) -> FileDetail:
    """Return what a listing shows; of a sent name the last segment, if there is an `echo`."""
    name, processed = item.name.rpartition("/")[2] if echo else None, status(item, now)
    # A processed video's path is a directory.
    directory = "/" if processed == "completed" else ""
    return FileDetail(
        file_uuid=item.file_uuid,
        organization_uuid=ORGANIZATION,
        created_at=datetime.fromtimestamp(item.created_at + ahead_seconds, tz=UTC),
        content_type=item.content_type,
        file_size_bytes=len(item.body) if tells_sizes and item.body is not None else None,
        original_file_url=item.remote_uri or name,
        remote_file_path=f"files/{item.file_uuid}/{name or 'content'}{directory}",
        uploaded_by_uuid=UPLOADERS[item.owner] if names_uploaders else None,
        processing_status=processed if tells_states else None,
    )
