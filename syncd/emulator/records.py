"""How an object is shown: FileUpload, FileDetail, FileStatus and frames, after the API's texts."""

from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from syncd.emulator.contents import Contents
from syncd.emulator.settings import Settings
from syncd.emulator.store import Stored


class Records:
    """Shows objects, and of their sent names only what is to be echoed."""

    def __init__(self, *, contents: Contents, settings: Settings) -> None:
        self._contents = contents
        self._traits = settings.personality
        self._public_url = settings.public_url

    def upload(self, request: Request, stored: Stored) -> dict[str, Any]:
        """Return a FileUpload; `file_url` is to be PUT while the object is reserved for it."""
        awaited = stored.state == "reserved"
        method = "PUT" if awaited else "GET"
        return {
            "file_uuid": stored.file_uuid,
            "file_url": None
            if awaited and stored.remote_uri
            else self._url(request, method, stored),
            "local_file_path": self._echoed(stored, as_sent=awaited),
            "remote_file_path": self._path(stored),
            "remote_uri": stored.remote_uri,
            "content_type": stored.content_type,
            "processing_status": stored.processing_status,
        }

    def detail(self, request: Request, stored: Stored, *, url: bool) -> dict[str, Any]:
        """Return a FileDetail, with a `file_url` where there are bytes, or without."""
        there = url and stored.state == "live"
        return {
            "file_uuid": stored.file_uuid,
            "organization_uuid": stored.organization_uuid,
            "workspace_uuid": stored.workspace_uuid,
            "content_type": stored.content_type,
            "file_type": stored.file_type,
            "file_size_bytes": stored.size if self._traits.tells_sizes else None,
            "file_url": self._url(request, "GET", stored) if there else None,
            "original_file_url": self._echoed(stored) or stored.remote_uri,
            "remote_file_path": self._path(stored),
            "processing_status": stored.processing_status,
            "video_metadata": stored.metadata() if self._traits.tells_video_metadata else None,
            "uploaded_by_uuid": None,
            **self._times(stored),
        }

    def status(self, stored: Stored) -> dict[str, Any]:
        """Return a FileStatus."""
        done = stored.processing_status == "completed"
        return {
            "file_uuid": stored.file_uuid,
            "processing_status": stored.processing_status,
            "error_message": stored.error_message,
            "remote_file_path": self._path(stored) if done else None,
            **self._times(stored),
        }

    def frames(self, request: Request, stored: Stored) -> dict[str, Any]:
        """Return a processed video's frames, sorted by number."""
        count = (stored.metadata() or {}).get("frame_count", 0)
        urls = [
            self._url(request, "GET", stored, f"/frame_{number:06d}.jpg")
            for number in range(1, count + 1)
        ]
        return {"file_uuid": stored.file_uuid, "frame_count": count, "frame_urls": urls}

    def _url(self, request: Request, method: str, stored: Stored, frame: str = "") -> str:
        base = self._public_url or f"http://{request.headers.get('host', 'localhost')}"
        return self._contents.url(base, method, stored, frame)

    def _echoed(self, stored: Stored, *, as_sent: bool = False) -> str | None:
        echo = self._traits.echo
        if stored.sent_name is None or echo == "none":
            return None
        whole = as_sent or echo == "path"
        return stored.sent_name if whole else stored.sent_name.rpartition("/")[2]

    def _times(self, stored: Stored) -> dict[str, str | None]:
        times = {name: spelled(getattr(stored, name)) for name in ("created_at", "updated_at")}
        if self._traits.tells_zone:
            return times
        return {name: time and time.removesuffix("+00:00") for name, time in times.items()}

    def _path(self, stored: Stored) -> str:
        """Return the remote path; a processed video's is the directory of its frames."""
        last = (self._echoed(stored) or "").rpartition("/")[2] or "content"
        processed = stored.file_type == "video" and stored.video_metadata is not None
        return f"files/{stored.file_uuid}/{last}{'/' if processed else ''}"


def spelled(seconds: float | None) -> str | None:
    """Return a time as the API spells it: ISO 8601, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, tz=UTC).isoformat()
