"""Has the service fetch URLs, each once: a request that got no answer is looked for first.

The service fetches; syncd itself never opens such a URL. The file that is made belongs to no watch
folder, and syncd never deletes it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from syncd.files_api import (
    FileDetail,
    FilesApiError,
    FilesClient,
    NewFile,
    NotFoundError,
    NotSentError,
    QuotaError,
    RateLimitedError,
    RefusedError,
    UnauthorizedError,
)
from syncd.state import fetches
from syncd.state.database.store import Store
from syncd.state.fetches import Note
from syncd.units import clock as shown_time

JsonObject = dict[str, Any]
#: Seconds by which the service's clock may be behind ours.
SKEW_SECONDS = 3600.0
#: Failures that meet every other URL as well.
_FOR_ALL = (UnauthorizedError, QuotaError, RateLimitedError)
#: Two calls for one URL must not both find that nothing was made of it.
_ONE_AT_A_TIME = threading.Lock()
_LOOK = "the same command looks it up first"
_AGAIN = "--again has it fetched anyway, and it may then be there twice"


@dataclass(kw_only=True, eq=False)
class Fetching:
    """Registers URLs at the service, in one workspace."""

    store: Store
    client: FilesClient
    workspace: str | None
    clock: Callable[[], float]
    #: told of a failure that meets every request to the service
    failed: Callable[[FilesApiError], object] = lambda _: None
    #: the failure that ended the asking
    _asked: FilesApiError | None = field(default=None, init=False)

    def run(self, urls: Sequence[str], *, again: bool) -> Iterator[JsonObject]:
        """Yield how far it is and, last, what became of each URL, in their order.

        With `again`, a URL is fetched though it was before, or may have been. Raise FilesApiError
        where the first one fails in a way that meets all of them.
        """
        files: list[JsonObject] = []
        for done, url in enumerate(urls, start=1):
            yield {"step": "asking", "done": done, "of": len(urls)}
            try:
                files.append(self._fetch(url, again=again))
            except FilesApiError as error:
                if not files:
                    raise
                self._asked = error
            if self._asked is not None:
                self.failed(self._asked)
                rest = len(urls) - len(files)
                files += [_failed(f"it was not asked for: {self._asked.text}")] * rest
                break
        yield {"files": files}

    def _fetch(self, url: str, *, again: bool) -> JsonObject:
        # The daemon carries out each command on a thread of its own.
        with _ONE_AT_A_TIME:
            return self._fetched(url, again=again)

    def _fetched(self, url: str, *, again: bool) -> JsonObject:
        note = self.store.read(fetches.find, url, self.workspace)
        if note is not None and not again:
            known = self._unanswered(url, note) if note.file_uuid is None else self._known(note)
            if known is not None:
                return known
        return self._create(url, note)

    def _create(self, url: str, note: Note | None) -> JsonObject:
        self.store.write(fetches.begin, url, self.workspace, self.clock())
        try:
            (made,) = self.client.create(
                [NewFile(remote_uri=url)], workspace_uuid=self.workspace
            ).files
        except (RefusedError, NotSentError) as error:
            self.store.write(fetches.refused, url, self.workspace, note)
            if isinstance(error, _FOR_ALL):
                raise
            return _failed(f"it was not registered: {error.text}")
        except FilesApiError as error:
            if error.retry_after is not None:
                self._asked = error
            return _failed(f"{error.text.rstrip('.')}; it may be registered all the same: {_LOOK}")
        if made.file_uuid is None:
            return _failed(f"the answer names no uuid; it may be registered all the same: {_LOOK}")
        return self._answered(url, made.file_uuid, made.processing_status or "pending")

    def _answered(self, url: str, file_uuid: str, status: str, **more: Any) -> JsonObject:
        now = self.clock()
        self.store.write(fetches.answered, url, self.workspace, file_uuid, now)
        return {"file_uuid": file_uuid, "processing_status": status, **more}

    def _known(self, note: Note) -> JsonObject | None:
        """Return the file that an earlier call made of a URL; None if it is gone, or failed."""
        try:
            status = self.client.get_status(str(note.file_uuid)).processing_status
        except NotFoundError:
            return None
        except FilesApiError as error:
            if isinstance(error, _FOR_ALL):
                raise
            return _failed(f"it is known as {note.file_uuid}, which cannot be asked: {error.text}")
        if status == "failed":
            return None
        known = {"file_uuid": note.file_uuid, "processing_status": status}
        return known | {"known_since": note.asked_at}

    def _unanswered(self, url: str, note: Note) -> JsonObject:
        """Look for what a request made that got no answer."""
        found: list[FileDetail] = []

        def take(item: FileDetail) -> None:
            if item.original_file_url == url and item.file_uuid not in note.known:
                found.append(item)

        since = datetime.fromtimestamp(note.asked_at - SKEW_SECONDS, UTC)
        try:
            self.client.read_listing(take, workspace_uuid=self.workspace, since=lambda: since)
        except FilesApiError as error:
            if isinstance(error, _FOR_ALL):
                raise
            return _failed(f"whether it is registered cannot be looked up: {error.text}")
        if not found:
            return _failed(
                f"it was asked for at {shown_time(note.asked_at)} without an answer, and no file "
                f"shows its URL: it may come late, or the service may not show URLs; {_AGAIN}"
            )
        oldest = min(found, key=lambda item: item.created_at)
        status = oldest.processing_status or "pending"
        return self._answered(url, oldest.file_uuid, status, known_since=note.asked_at)


def _failed(error: str) -> JsonObject:
    return {"file_uuid": None, "processing_status": None, "error": error}
