"""The API's documents of an object: FileUpload, FileDetail, FileStatus and frames."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request

from syncd.emulator.contents import Contents
from syncd.emulator.personalities import Personality
from syncd.emulator.store import StoredObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Makes documents, which contain only the part of a sent name that the traits echo."""

    contents: Contents
    traits: Personality
    public_url: str | None

    def upload(self, request: Request, stored: StoredObject) -> dict[str, Any]:
        """Return a FileUpload; the `file_url` of a reserved object takes a PUT of its bytes."""
        awaited = stored.state == "reserved"
        url = self._url(request, "PUT" if awaited else "GET", stored)
        return {
            "file_uuid": stored.file_uuid,
            "file_url": None if awaited and stored.remote_uri else url,
            "local_file_path": self._echoed(stored, as_sent=awaited),
            "remote_file_path": self._path(stored),
            "remote_uri": stored.remote_uri,
            "content_type": stored.content_type,
            "processing_status": stored.processing_status,
        }

    def detail(self, request: Request, stored: StoredObject, *, url: bool) -> dict[str, Any]:
        """Return a FileDetail; with `url`, it has the `file_url` of a live object."""
        has_url = url and stored.state == "live"
        return {
            "file_uuid": stored.file_uuid,
            "organization_uuid": stored.organization_uuid,
            "workspace_uuid": stored.workspace_uuid,
            "content_type": stored.content_type,
            "file_type": stored.file_type,
            "file_size_bytes": stored.size if self.traits.tells_sizes else None,
            "file_url": self._url(request, "GET", stored) if has_url else None,
            "original_file_url": self._echoed(stored) or stored.remote_uri,
            "remote_file_path": self._path(stored),
            "processing_status": stored.processing_status if self.traits.tells_states else None,
            "video_metadata": stored.metadata() if self.traits.tells_video_metadata else None,
            "uploaded_by_uuid": None,
            **self._times(stored),
        }

    def status(self, stored: StoredObject) -> dict[str, Any]:
        """Return a FileStatus."""
        done = stored.processing_status == "completed"
        return {
            "file_uuid": stored.file_uuid,
            "processing_status": stored.processing_status,
            "error_message": stored.error_message,
            "remote_file_path": self._path(stored) if done else None,
            **self._times(stored),
        }

    def frames(self, request: Request, stored: StoredObject) -> dict[str, Any]:
        """Return a processed video's frames, sorted by number."""
        count = (stored.metadata() or {}).get("frame_count", 0)
        urls = [
            self._url(request, "GET", stored, f"/frame_{number:06d}.jpg")
            for number in range(1, count + 1)
        ]
        return {"file_uuid": stored.file_uuid, "frame_count": count, "frame_urls": urls}

    def _url(self, request: Request, method: str, stored: StoredObject, frame: str = "") -> str:
        base = self.public_url or f"http://{request.headers.get('host', 'localhost')}"
        return self.contents.url(base, method, stored, frame)

    def _echoed(self, stored: StoredObject, *, as_sent: bool = False) -> str | None:
        echo = self.traits.echo
        if stored.sent_name is None or echo == "none":
            return None
        whole = as_sent or echo == "path"
        return stored.sent_name if whole else stored.sent_name.rpartition("/")[2]

    def _times(self, stored: StoredObject) -> dict[str, str | None]:
        times = {name: iso_time(getattr(stored, name)) for name in ("created_at", "updated_at")}
        if self.traits.tells_zone:
            return times
        return {name: time and time.removesuffix("+00:00") for name, time in times.items()}

    def _path(self, stored: StoredObject) -> str:
        """Return the remote path, which for a processed video is the directory of its frames."""
        last = (self._echoed(stored) or "").rpartition("/")[2] or "content"
        processed = stored.file_type == "video" and stored.video_metadata is not None
        return f"files/{stored.file_uuid}/{last}{'/' if processed else ''}"


def iso_time(seconds: float | None) -> str | None:
    """Return a time in ISO 8601, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, tz=UTC).isoformat()
