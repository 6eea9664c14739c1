"""The service's answers about files, one frozen class each, after the API's description.

Unknown members are ignored and an absent one is None. A member is demanded only where nothing
can be done without it: a listing must not be lost because one record in it is half filled.
URLs that grant access stand in no repr.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from syncd.files_api.document import Reader
from syncd.files_api.naming import token_of


@dataclass(frozen=True, kw_only=True, slots=True)
class FileUpload:
    """A file as `upload` and `create` answer it. Every member may be absent."""

    file_uuid: str | None = None
    file_url: str | None = field(default=None, repr=False)
    local_file_path: str | None = None
    remote_file_path: str | None = None
    remote_uri: str | None = field(default=None, repr=False)
    content_type: str | None = None
    processing_status: str | None = None

    @classmethod
    def read(cls, reader: Reader) -> "FileUpload":
        """Read one, or raise MalformedError."""
        return cls(
            file_uuid=reader.uuid("file_uuid"),
            file_url=reader.text("file_url"),
            local_file_path=reader.text("local_file_path"),
            remote_file_path=reader.text("remote_file_path"),
            remote_uri=reader.text("remote_uri"),
            content_type=reader.text("content_type"),
            processing_status=reader.text("processing_status"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedFiles:
    """The answer to `create`: the files in the order sent."""

    files: tuple[FileUpload, ...]
    workspace_uuid: str | None = None

    @classmethod
    def read(cls, reader: Reader) -> "CreatedFiles":
        """Read one, or raise MalformedError."""
        return cls(
            files=reader.each("files", FileUpload.read),
            workspace_uuid=reader.uuid("workspace_uuid"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FileDetail:
    """A file as `get` and `list` show it.

    `file_url` is valid for 30 minutes and may be absent in lists; `original_file_url` is the URL
    or path that was sent; `remote_file_path` is a directory for a video; sizes are in bytes,
    times in UTC. `processing_status` is in the API's prose and not in its client's model.
    """

    file_uuid: str
    organization_uuid: str
    created_at: datetime
    updated_at: datetime | None = None
    workspace_uuid: str | None = None
    content_type: str | None = None
    file_type: str | None = None
    file_size_bytes: int | None = None
    file_url: str | None = field(default=None, repr=False)
    original_file_url: str | None = field(default=None, repr=False)
    remote_file_path: str | None = None
    local_file_path: str | None = None
    video_metadata: Mapping[str, Any] | None = None
    uploaded_by_uuid: str | None = None
    processing_status: str | None = None

    @classmethod
    def read(cls, reader: Reader) -> "FileDetail":
        """Read one, or raise MalformedError."""
        return cls(
            file_uuid=reader.need("file_uuid", reader.uuid("file_uuid")),
            organization_uuid=reader.need("organization_uuid", reader.uuid("organization_uuid")),
            created_at=reader.need("created_at", reader.moment("created_at")),
            updated_at=reader.moment("updated_at"),
            workspace_uuid=reader.uuid("workspace_uuid"),
            content_type=reader.text("content_type"),
            file_type=reader.text("file_type"),
            file_size_bytes=reader.count("file_size_bytes"),
            file_url=reader.text("file_url"),
            original_file_url=reader.text("original_file_url"),
            remote_file_path=reader.text("remote_file_path"),
            local_file_path=reader.text("local_file_path"),
            video_metadata=reader.object("video_metadata"),
            uploaded_by_uuid=reader.text("uploaded_by_uuid"),
            processing_status=reader.text("processing_status"),
        )

    @property
    def token(self) -> str | None:
        """The token in the name under which this file was sent; None for none, or for several."""
        names = (
            self.local_file_path,
            self.original_file_url,
            self.remote_file_path,
            self.file_url,
        )
        found = {token for name in names if name and (token := token_of(name))}
        return found.pop() if len(found) == 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePage:
    """One page of a list; `count` is the total that the server claims."""

    items: tuple[FileDetail, ...]
    count: int

    @classmethod
    def read(cls, reader: Reader) -> "FilePage":
        """Read one, or raise MalformedError."""
        count = reader.need("count", reader.count("count"))
        return cls(items=reader.each("items", FileDetail.read), count=count)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessingStatus:
    """How far the processing is: pending, processing, completed or failed."""

    file_uuid: str
    processing_status: str
    error_message: str | None = None
    remote_file_path: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @classmethod
    def read(cls, reader: Reader) -> "ProcessingStatus":
        """Read one, or raise MalformedError."""
        status = reader.text("processing_status")
        return cls(
            file_uuid=reader.need("file_uuid", reader.uuid("file_uuid")),
            processing_status=reader.need("processing_status", status),
            error_message=reader.text("error_message"),
            remote_file_path=reader.text("remote_file_path"),
            created_at=reader.moment("created_at"),
            updated_at=reader.moment("updated_at"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFrames:
    """The frames of a processed video: URLs by frame number, each valid for 30 minutes."""

    file_uuid: str
    frame_count: int
    frame_urls: tuple[str, ...] = field(repr=False)

    @classmethod
    def read(cls, reader: Reader) -> "FileFrames":
        """Read one, or raise MalformedError."""
        return cls(
            file_uuid=reader.need("file_uuid", reader.uuid("file_uuid")),
            frame_count=reader.need("frame_count", reader.count("frame_count")),
            frame_urls=reader.texts("frame_urls"),
        )
