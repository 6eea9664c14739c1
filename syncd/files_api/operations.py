"""Every operation of the Files API, described once and without I/O.

An operation says what request to build and how its answer is read; a client only sends. Scripts
may describe operations of their own in the same way and hand them to `FilesClient.call`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from syncd.files_api.answer import Answer
from syncd.files_api.document import MalformedError, is_uuid
from syncd.files_api.framing import Framing, header_value, multipart, raw
from syncd.files_api.models import (
    CreatedFiles,
    FileDetail,
    FileFrames,
    FilePage,
    FileUpload,
    ProcessingStatus,
)
from syncd.files_api.naming import token_of

T = TypeVar("T")

_OBJECT_BYTES = 1 << 20
_LIST_BYTES = 32 << 20
#: A cache or a gateway has mixed up two answers.
_ANOTHER = "it is about another file"


@dataclass(frozen=True, kw_only=True)
class Operation(Generic[T]):
    """One call: method and path below the base URL, what goes with it, how its answer is read.

    With `url`, a presigned one, the request goes there instead and carries nothing of ours.
    `frame` wraps the file of an upload; it is given extra form fields. An answer longer than
    `answer_bytes` is refused unread.
    """

    name: str
    method: str
    read: Callable[[Answer], T]
    path: str = ""
    url: str | None = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    frame: Callable[[Mapping[str, str]], Framing] | None = field(default=None, repr=False)
    answer_bytes: int = _OBJECT_BYTES
    #: whether a success is read beyond its headers
    reads_body: bool = True
    #: takes the body of a success as it comes, however long it is; it is not kept
    take: Callable[[bytes], object] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """A file to be created: by a path of ours (its bytes follow by PUT), or by a URL to fetch.

    With both, the URL is fetched and the path is its name.
    """

    local_file_path: str | None = None
    remote_uri: str | None = field(default=None, repr=False)
    content_type: str | None = None

    def __post_init__(self) -> None:
        if self.local_file_path is None and self.remote_uri is None:
            raise ValueError("a new file needs a local_file_path or a remote_uri")

    def members(self) -> dict[str, str]:
        """Return the file as the request spells it."""
        named = {
            "local_file_path": self.local_file_path,
            "remote_uri": self.remote_uri,
            "content_type": self.content_type,
        }
        return {name: value for name, value in named.items() if value is not None}


def upload(
    name: str, content_type: str, workspace_uuid: str | None = None
) -> Operation[FileUpload]:
    """Send a file's bytes through the service, in one request."""
    header_value(content_type)  # what cannot be framed is refused here, not in flight
    return Operation(
        name="upload",
        method="POST",
        path="/v2/files/-/uploads",
        query=_query(workspace_uuid=_uuid(workspace_uuid)),
        frame=lambda fields: multipart(name, content_type, fields),
        read=lambda answer: _about(name, _reading(FileUpload.read)(answer), answer),
    )


def create(files: Sequence[NewFile], workspace_uuid: str | None = None) -> Operation[CreatedFiles]:
    """Make records for files; the answer has a presigned URL for each local path."""

    def read(answer: Answer) -> CreatedFiles:
        created = _reading(CreatedFiles.read)(answer)
        if len(created.files) != len(files):
            raise answer.unreadable(f"{len(created.files)} files for {len(files)} sent")
        for file, made in zip(files, created.files, strict=True):
            _about(file.local_file_path or "", made, answer)
        return created

    members = [file.members() for file in files]
    return Operation(
        name="create",
        method="POST",
        path="/v2/files",
        json={"workspace_uuid": _uuid(workspace_uuid), "files": members},
        read=read,
        answer_bytes=_LIST_BYTES,
    )


def put(file_url: str, content_type: str) -> Operation[None]:
    """Send a file's bytes straight to storage, to a URL that `create` returned."""
    framing = raw(content_type)
    return Operation(
        name="put", method="PUT", url=file_url, frame=lambda _fields: framing, read=_nothing
    )


def length(file_url: str) -> Operation[int | None]:
    """Ask a download URL for its object's length in bytes; None if it tells none.

    By a request for the first byte, since such a URL is signed for GET and for no other method.
    """
    return Operation(
        name="length",
        method="GET",
        url=file_url,
        headers={"range": "bytes=0-0"},
        read=_length,
        reads_body=False,
    )


def _length(answer: Answer) -> int | None:
    _, _, total = answer.headers.get("content-range", "").rpartition("/")
    # 416 is the answer for an empty object: it has no first byte.
    text = total if answer.status in (206, 416) else answer.headers.get("content-length", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def download(file_url: str, take: Callable[[bytes], object]) -> Operation[None]:
    """Hand an object's bytes to `take`, from a download URL."""
    return Operation(name="download", method="GET", url=file_url, take=take, read=_nothing)


def list_files(
    *,
    workspace_uuid: str | None = None,
    file_type: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
) -> Operation[FilePage]:
    """Read one page of the files; `file_type` is image, video, text or document."""
    return Operation(
        name="list",
        method="GET",
        path="/v2/files",
        query=_query(
            workspace_uuid=_uuid(workspace_uuid), file_type=file_type, limit=limit, offset=offset
        ),
        read=_reading(FilePage.read),
        answer_bytes=_LIST_BYTES,
    )


def get(file_uuid: str) -> Operation[FileDetail]:
    """Read one file's record."""
    return _of_file("get", file_uuid, "", FileDetail.read)


def get_status(file_uuid: str) -> Operation[ProcessingStatus]:
    """Read how far a file's processing is."""
    return _of_file("get_status", file_uuid, "/status", ProcessingStatus.read)


def get_frames(file_uuid: str) -> Operation[FileFrames]:
    """Read the frame URLs of a video that is processed."""
    return _of_file("get_frames", file_uuid, "/frames", FileFrames.read, _LIST_BYTES)


def delete(file_uuid: str) -> Operation[None]:
    """Delete a file, softly."""
    path = f"/v2/files/{_needed(file_uuid)}"
    return Operation(name="delete", method="DELETE", path=path, read=_deleted)


def _of_file(
    name: str,
    file_uuid: str,
    suffix: str,
    read: Callable[..., T],
    answer_bytes: int = _OBJECT_BYTES,
) -> Operation[T]:
    asked = _needed(file_uuid)

    def read_that_file(answer: Answer) -> T:
        record = _reading(read)(answer)
        found = str(getattr(record, "file_uuid", asked))
        if found.lower() != asked.lower():
            raise answer.unreadable(_ANOTHER)
        return record

    return Operation(
        name=name,
        method="GET",
        path=f"/v2/files/{asked}{suffix}",
        read=read_that_file,
        answer_bytes=answer_bytes,
    )


def _reading(read: Callable[..., T]) -> Callable[[Answer], T]:
    def read_answer(answer: Answer) -> T:
        document = answer.document()
        try:
            return read(document)
        except MalformedError as error:
            raise answer.unreadable(str(error)) from None

    return read_answer


def _about(sent: str, made: FileUpload, answer: Answer) -> FileUpload:
    """Return a new file if it may be the one that was sent: its names hold no other token."""
    named = filter(None, (made.local_file_path, made.remote_file_path))
    tokens = {token for name in named if (token := token_of(name))}
    if tokens and (token := token_of(sent)) and token not in tokens:
        raise answer.unreadable(_ANOTHER)
    return made


def _deleted(answer: Answer) -> None:
    """Only 204 proves a deletion: a portal or a maintenance page answers 200 to anything."""
    if answer.status != 204:
        raise answer.unreadable(f"a deletion is answered by 204, and not by {answer.status}")


def _nothing(_answer: Answer) -> None:
    """Any success will do."""


def _needed(file_uuid: str) -> str:
    if not is_uuid(file_uuid):
        raise ValueError("a file_uuid must be a UUID")
    return file_uuid


def _uuid(text: str | None) -> str | None:
    if text is not None and not is_uuid(text):
        raise ValueError("a workspace_uuid must be a UUID")
    return text


def _query(**members: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in members.items() if value is not None}
