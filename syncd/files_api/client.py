"""The client of the Files API: it sends operations, and that is all. Nothing is retried."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from syncd import __version__
from syncd.exceptions import ConfigError
from syncd.files_api import operations
from syncd.files_api.answer import Answer
from syncd.files_api.bandwidth import Bandwidth
from syncd.files_api.base_url import checked_base_url, checked_proxy, is_cleartext
from syncd.files_api.environment import from_environment
from syncd.files_api.errors import BadRequestError, UnprocessableError
from syncd.files_api.exchange import StopFlag
from syncd.files_api.listing import (
    FEWER_PAGE_ITEMS,
    MOST_PAGES,
    PAGE_ITEMS,
    Listing,
    ReadPage,
    Since,
    Take,
    newest_pages,
    read_listing,
    walk,
)
from syncd.files_api.models import (
    CreatedFiles,
    FileDetail,
    FileFrames,
    FilePage,
    FileUpload,
    ProcessingStatus,
)
from syncd.files_api.operations import NewFile, Operation
from syncd.files_api.redaction import Secrets
from syncd.files_api.sender import Observer, PerCall, Sender
from syncd.files_api.source import UploadSource
from syncd.files_api.storage import StorageRules
from syncd.files_api.transport import Transport
from syncd.trust import TlsFiles

T = TypeVar("T")

_CLEARTEXT = (
    "the key would go to {} in clear text, for anybody on the way to read: use https://, or set "
    "[api] allow_cleartext = true (SYNCD_API__ALLOW_CLEARTEXT=true)"
)
_SECRET = re.compile(r"[!-~]+")


class FilesClient:
    """Speaks to the Files API, one call at a time: make one for each thread that calls.

    Each method raises a FilesApiError whose type says whether the call was certainly not sent,
    possibly delivered, or refused. A wrong argument is a ValueError, a wrong setting a
    ConfigError. `transport` replaces the client's own, which alone can tell exactly what was sent.
    Presigned URLs must lead to public addresses, unless the service itself does not, or
    `storage_hosts` names their host. `allow_cleartext` lets the key go to another machine by plain
    HTTP. `observer` is told of each request: its operation, the status of its answer if there was
    one, and the seconds it took. Clients that are given one `bandwidth` share it for uploads.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str | None,
        bearer_token: str | None = None,
        sandbox: bool | None = None,
        timeout_seconds: float = 60,
        connect_seconds: float = 5,
        proxy: str | None = None,
        ca_file: Path | None = None,
        client_cert: Path | None = None,
        client_key: Path | None = None,
        storage_hosts: Sequence[str] = (),
        allow_cleartext: bool = False,
        stop: StopFlag | None = None,
        transport: httpx.BaseTransport | None = None,
        observer: Observer | None = None,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._base = checked_base_url(base_url)
        self._page_items = PAGE_ITEMS
        if self.is_cleartext and not allow_cleartext:
            raise ConfigError(_CLEARTEXT.format(self.base_url))
        proxy_url = checked_proxy(proxy) if proxy else None
        self._sender = Sender(
            base=self._base,
            headers=_headers(api_key, bearer_token, sandbox),
            secrets=Secrets([api_key, bearer_token, proxy_url.password if proxy_url else None]),
            storage=StorageRules(self._base, storage_hosts),
            timeout_seconds=timeout_seconds,
            connect_seconds=connect_seconds,
            stop=stop,
            transport=transport
            or _transport(proxy_url, TlsFiles(ca_file, client_cert, client_key)),
            observer=observer,
            bandwidth=bandwidth,
        )

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, **settings: Any
    ) -> "FilesClient":
        """Make a client from the variables that syncd itself reads, by default `os.environ`.

        The key and the bearer token come from `AYMARA_AI_API_KEY` and `AYMARA_AI_BEARER_TOKEN`,
        from the files that the same names with `_FILE` hold, or from systemd's credentials. The
        rest is what `SYNCD_API__...` says (`SYNCD_API__ENVIRONMENT`, `SYNCD_API__PROXY`, ...), else
        `AYMARA_AI_BASE_URL` and `AYMARA_AI_USE_SANDBOX`. `settings` are those of `FilesClient`, and
        win. ConfigError if a variable cannot be used.
        """
        return cls(**from_environment(environ, settings))

    def __repr__(self) -> str:
        return f"FilesClient({self.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._sender.close()

    @property
    def base_url(self) -> str:
        """The base URL of the calls, without a trailing slash."""
        return str(self._base).rstrip("/")

    @property
    def is_cleartext(self) -> bool:
        """Whether the key can be read on the way: plain HTTP to another machine."""
        return is_cleartext(self._base)

    def upload(
        self,
        source: UploadSource,
        *,
        name: str,
        content_type: str,
        workspace_uuid: str | None = None,
        **per_call: Unpack[PerCall],
    ) -> FileUpload:
        """Send a file through the service in one request."""
        operation = operations.upload(name, content_type, workspace_uuid)
        return self.call(operation, source, **per_call)

    def create(
        self,
        files: Sequence[NewFile],
        *,
        workspace_uuid: str | None = None,
        **per_call: Unpack[PerCall],
    ) -> CreatedFiles:
        """Make records for files; each local path's bytes are then sent with `put`."""
        return self.call(operations.create(files, workspace_uuid), **per_call)

    def put(
        self,
        file_url: str,
        source: UploadSource,
        *,
        content_type: str,
        **per_call: Unpack[PerCall],
    ) -> None:
        """Send a file to the presigned URL that `create` returned: no key goes along.

        Repeating it is harmless: the same bytes to the same URL are one object.
        """
        self.call(operations.put(file_url, content_type), source, **per_call)

    def list(
        self,
        *,
        workspace_uuid: str | None = None,
        file_type: str | None = None,
        limit: int | None = None,
        offset: int | None = None,
        **per_call: Unpack[PerCall],
    ) -> FilePage:
        """Read one page of at most `limit` files; of fewer where the service refuses so many."""
        page_of = partial(
            operations.list_files,
            workspace_uuid=workspace_uuid,
            file_type=file_type,
            offset=offset,
        )
        asked = size = limit and min(limit, self._page_items)
        while True:
            try:
                page = self.call(page_of(limit=size), **per_call)
            except (BadRequestError, UnprocessableError):
                size = next((fewer for fewer in FEWER_PAGE_ITEMS if size and fewer < size), None)
                if size is None:
                    raise
            else:
                if size and size != asked:
                    self._page_items = size
                return page

    def list_all(
        self,
        *,
        workspace_uuid: str | None = None,
        file_type: str | None = None,
        limit: int | None = None,
        offset: int | None = None,
        **per_call: Unpack[PerCall],
    ) -> Iterator[FileDetail]:
        """Yield every file once, from `offset` on, in pages of `limit`, even while pages shift."""
        read_page = self._reading(workspace_uuid=workspace_uuid, file_type=file_type, **per_call)
        return walk(read_page, limit, offset)

    def read_listing(
        self,
        take: Take,
        *,
        workspace_uuid: str | None = None,
        since: Since = lambda: None,
        most_pages: int = MOST_PAGES,
        **per_call: Unpack[PerCall],
    ) -> Listing:
        """Hand each file to `take`, with `since` those created then or later; say what is proven.

        `since` is asked after each page; None stands for all. Pages are as large as the service
        allows. The same file may be handed on twice.
        """
        read_page = self._reading(workspace_uuid=workspace_uuid, **per_call)
        return read_listing(read_page, take, since=since, most_pages=most_pages)

    def newest_pages(
        self,
        *,
        workspace_uuid: str | None = None,
        file_type: str | None = None,
        limit: int = PAGE_ITEMS,
        **per_call: Unpack[PerCall],
    ) -> Iterator[Sequence[FileDetail]]:
        """Yield pages, newest files first if the list has an order; an absence proves nothing."""
        read_page = self._reading(workspace_uuid=workspace_uuid, file_type=file_type, **per_call)
        return newest_pages(read_page, limit)

    def _reading(self, **query: Any) -> ReadPage:
        return lambda limit, offset: self.list(limit=limit, offset=offset, **query)

    def get(self, file_uuid: str, **per_call: Unpack[PerCall]) -> FileDetail:
        """Read one file's record; its `file_url` is valid for 30 minutes."""
        return self.call(operations.get(file_uuid), **per_call)

    def length(self, file_url: str, **per_call: Unpack[PerCall]) -> int | None:
        """Return the length in bytes that a `file_url` reports; None if it reports none.

        No key goes along. RefusedError if there is no such object.
        """
        operation = operations.length(file_url)
        answer = self.send(operation, **per_call)
        if answer.status != 416 and (failure := answer.failure()):
            raise failure
        return operation.read(answer)

    def download(
        self, file_url: str, take: Callable[[bytes], object], **per_call: Unpack[PerCall]
    ) -> None:
        """Hand the bytes behind a `file_url` to `take`, as they come; no key goes along.

        What was taken is the whole object only if this returns. `timeout_seconds` limits each MiB.
        """
        self.call(operations.download(file_url, take), **per_call)

    def get_status(self, file_uuid: str, **per_call: Unpack[PerCall]) -> ProcessingStatus:
        """Read how far a file's processing is."""
        return self.call(operations.get_status(file_uuid), **per_call)

    def get_frames(self, file_uuid: str, **per_call: Unpack[PerCall]) -> FileFrames:
        """Read the frame URLs of a processed video, each valid for 30 minutes."""
        return self.call(operations.get_frames(file_uuid), **per_call)

    def delete(self, file_uuid: str, **per_call: Unpack[PerCall]) -> None:
        """Delete a file, softly; NotFoundError if there is none."""
        self.call(operations.delete(file_uuid), **per_call)

    def call(
        self,
        operation: Operation[T],
        source: UploadSource | None = None,
        **per_call: Unpack[PerCall],
    ) -> T:
        """Send an operation and read its answer."""
        answer = self.send(operation, source, **per_call)
        if failure := answer.failure():
            raise failure
        return operation.read(answer)

    def send(
        self,
        operation: Operation[Any],
        source: UploadSource | None = None,
        **per_call: Unpack[PerCall],
    ) -> Answer:
        """Send an operation and return the raw answer, whatever its status."""
        return self._sender.send(operation, source, per_call)


def _transport(proxy: httpx.URL | None, files: TlsFiles) -> httpx.BaseTransport:
    if proxy is None:
        return Transport(files)
    # Only those behind a proxy need httpcore.
    from syncd.files_api.proxied import ProxiedTransport  # noqa: PLC0415

    return ProxiedTransport(proxy, files)


def _headers(api_key: str | None, bearer_token: str | None, sandbox: bool | None) -> dict[str, str]:
    return {
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": f"syncd/{__version__}",
        **_credentials(api_key, bearer_token),
        **({} if sandbox is None else {"x-use-sandbox": str(sandbox)}),
    }


def _credentials(api_key: str | None, bearer_token: str | None) -> dict[str, str]:
    for secret in (api_key, bearer_token):
        if secret and not _SECRET.fullmatch(secret):
            raise ConfigError("the key holds a line break, a space or what is not ASCII")
    headers = {"x-api-key": api_key} if api_key else {}
    return headers | ({"authorization": f"Bearer {bearer_token}"} if bearer_token else {})
