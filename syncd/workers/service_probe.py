"""A probe of the service: a few tiny objects that show what the API's texts leave open.

What it learns is kept by the same verbs as what own uploads show. Its objects are named by tokens
of an instance that does not exist, so that no ledger takes them for its own, and noted before they
are deleted: what a probe that was killed left behind, the next one deletes.
"""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

from syncd.files_api import (
    Answer,
    BadRequestError,
    FileDetail,
    FilesApiError,
    FilesClient,
    InDoubtError,
    NewFile,
    NotFoundError,
    PerCall,
    RefusedError,
    UnprocessableError,
    UploadSource,
    sent_name,
)
from syncd.files_api.operations import list_files
from syncd.state.attempts import kind_of
from syncd.state.confirming import SIZES, TOLD
from syncd.state.echo import Learned
from syncd.state.store import Store

JsonObject = dict[str, Any]
#: How long a probe takes at most, what of it is left for deleting, and for processing a video.
MOST_SECONDS, CLEAN_SECONDS, VIDEO_SECONDS = 55.0, 15.0, 30.0
#: Creation times that show an order: fewer are in one by chance more than once in 2,000 times.
LEAST_TIMES = 7
#: The fact that names the objects that are not deleted yet.
LEFT = "probe left"
FOLDER = b"syncd-probe"
TEXT, VIDEO, OTHER = "text/plain", "video/mp4", "application/octet-stream"


@dataclass(slots=True)
class _Made:
    """An object of the probe; `made_at` by the service's clock, in seconds since the epoch."""

    file_uuid: str
    name: str
    method: str
    size: int
    is_video: bool
    made_at: float


@dataclass(slots=True)
class Facts:
    """Facts about the service; None where the probe did not see one."""

    #: how a name comes back, by kind of upload: path, name or none
    echo: dict[str, str] = field(default_factory=dict)
    #: newest, oldest or none
    order: str | None = None
    #: how many files there are, how many a page had that lacked some, and a limit that is refused
    files: int | None = None
    page_cap: int | None = None
    refused_limit: int | None = None
    list_seconds: float | None = None
    #: where sizes are told: record, url or none
    sizes: str | None = None
    put_needs_type: bool | None = None
    url_seconds: float | None = None
    video_status: str | None = None
    video_frames: int | None = None
    video_metadata: bool | None = None
    #: the status of the answer
    second_delete: int | None = None


class ServiceProbe:
    """Asks one service, in one workspace."""

    def __init__(
        self,
        *,
        store: Store,
        client: FilesClient,
        learn: Callable[[str, Learned, str | None], None],
        workspace: str | None,
        clock: Callable[[], float],
        pause: Callable[[float], object],
    ) -> None:
        """`learn` keeps what a kind of upload showed, and who is said to upload with our key."""
        self._store = store
        self._client = client
        self._learn = learn
        self._workspace = workspace
        self._clock = clock
        self._pause = pause
        self._until = time.monotonic() + MOST_SECONDS
        self._instance = secrets.token_hex(4)
        self._ahead = 0.0
        self._made: list[_Made] = []
        self._in_doubt = False
        self.facts = Facts()

    def run(self) -> Iterator[JsonObject]:
        """Yield each step, and at last the facts. FilesApiError where the service fails."""
        self._delete_left(json.loads(self._store.fact(LEFT) or "[]"))
        try:
            yield {"step": "uploading"}
            self._upload_direct(b"text", TEXT)
            self._upload_direct(_video(), VIDEO)
            self._upload_presigned(b"text", TEXT)
            self._upload_presigned(_video(), VIDEO)
            yield {"step": "listing"}
            self._look(processed=False)
            self._read_page()
            self._see_size()
            yield {"step": "waiting for the video"}
            self._await_video()
            self._look(processed=True)
            yield {"step": "deleting"}
            self._delete_twice()
        except InDoubtError:
            self._in_doubt = True
            raise
        finally:
            self._clean()
        yield {"facts": {name: getattr(self.facts, name) for name in Facts.__slots__}}

    # Making objects

    def _upload_direct(self, content: bytes, kind: str) -> None:
        name = self._name(kind)
        with _source(content) as source:
            stored = self._client.upload(
                source,
                name=name,
                content_type=kind,
                workspace_uuid=self._workspace,
                **self._per_call(),
            )
        self._note(stored.file_uuid, name, "direct", content)

    def _upload_presigned(self, content: bytes, kind: str) -> None:
        name = self._name(kind)
        new = NewFile(local_file_path=name, content_type=kind)
        (made,) = self._client.create(
            [new], workspace_uuid=self._workspace, **self._per_call()
        ).files
        self._note(made.file_uuid, name, "presigned", content)
        url = made.file_url or ""
        self.facts.url_seconds = _lifetime(url, self._clock() + self._ahead)
        with _source(content) as source:
            if kind == TEXT:
                self.facts.put_needs_type = False
                try:
                    self._client.put(url, source, content_type=OTHER, **self._per_call())
                except RefusedError:
                    self.facts.put_needs_type = True
            self._client.put(url, source, content_type=kind, **self._per_call())

    def _name(self, kind: str) -> str:
        token = f"sy1-{self._instance}-{secrets.token_hex(14)}"
        return sent_name(FOLDER + (b"/probe.mp4" if kind == VIDEO else b"/probe.txt"), token)

    def _note(self, file_uuid: str | None, name: str, method: str, content: bytes) -> None:
        if file_uuid is None:
            self._in_doubt = True
            return
        made_at, is_video = self._clock() + self._ahead, name.endswith(".mp4")
        self._made.append(_Made(file_uuid, name, method, len(content), is_video, made_at))
        self._store.set_fact(LEFT, json.dumps([one.file_uuid for one in self._made]))

    def _per_call(self) -> PerCall:
        left = max(self._until - CLEAN_SECONDS - time.monotonic(), 1.0)
        return {"deadline_seconds": left, "on_answer": self._note_date}

    def _note_date(self, answer: Answer) -> None:
        if answer.date is not None:
            self._ahead = answer.date.timestamp() - self._clock()

    # Looking at them

    def _read_page(self) -> None:
        """See how many files a page has, how long it takes, and in which order they come."""
        began = time.monotonic()
        for limit in (1000, 100, 10):
            try:
                page = self._client.call(
                    list_files(workspace_uuid=self._workspace, limit=limit), **self._per_call()
                )
            except (BadRequestError, UnprocessableError):
                self.facts.refused_limit = limit
                continue
            break
        else:
            return
        self.facts.list_seconds = round(time.monotonic() - began, 3)
        self.facts.files = page.count
        if len(page.items) < page.count:
            self.facts.page_cap = len(page.items)
        self.facts.order = _order([item.created_at for item in page.items])

    def _look(self, *, processed: bool) -> None:
        """Learn from what the listing shows of each object: there it would be looked for."""
        shown: dict[str, FileDetail] = {}
        wanted = {made.file_uuid for made in self._made if made.is_video or not processed}

        def take(item: FileDetail) -> None:
            if item.file_uuid in wanted:
                shown[item.file_uuid] = item

        before = self._processed()
        since = min(made.made_at for made in self._made) - 900.0
        self._client.read_listing(
            take,
            workspace_uuid=self._workspace,
            since=lambda: datetime.fromtimestamp(since).astimezone(),
            **self._per_call(),
        )
        # A video that was completed meanwhile may be shown either way.
        unclear = self._processed() - before
        for made in self._made:
            if made.file_uuid in shown.keys() - unclear:
                processed = made.file_uuid in before
                self._learn_from(made, shown[made.file_uuid], processed=processed)

    def _processed(self) -> set[str]:
        """Return the videos that are completed."""
        videos = [made.file_uuid for made in self._made if made.is_video]
        return {one for one in videos if self._status(one) == "completed"}

    def _status(self, file_uuid: str) -> str | None:
        return self._client.get_status(file_uuid, **self._per_call()).processing_status

    def _learn_from(self, made: _Made, shown: FileDetail, *, processed: bool) -> None:
        kind = kind_of(made.method, is_video=made.is_video, processed=processed)
        texts = (shown.local_file_path, shown.original_file_url)
        echoed = shown.token is not None and shown.token in made.name
        whole = made.name in texts
        self.facts.echo[kind] = ("path" if whole else "name") if echoed else "none"
        size = shown.file_size_bytes
        sizes = None if size is None else size == made.size
        skew = shown.created_at.timestamp() - made.made_at
        self._learn(kind, Learned(echoed, sizes, skew), shown.uploaded_by_uuid)

    def _see_size(self) -> None:
        """See whether the service tells the size of what a storage took for it."""
        made = next(made for made in self._made if made.method == "presigned")
        detail = self._client.get(made.file_uuid, **self._per_call())
        length = detail.file_size_bytes
        self.facts.sizes = "none" if length is None else "record"
        if length is None and detail.file_url:
            with suppress(RefusedError):
                length = self._client.length(detail.file_url, **self._per_call())
            self.facts.sizes = "none" if length is None else "url"
        # That none is ever told, a single object does not show.
        if length == made.size:
            self._store.set_fact(SIZES, TOLD)

    def _await_video(self) -> None:
        videos = [made.file_uuid for made in self._made if made.is_video]
        until = min(time.monotonic() + VIDEO_SECONDS, self._until - CLEAN_SECONDS)
        wait = 0.2
        while True:
            statuses = [self._status(file_uuid) for file_uuid in videos]
            others = [status for status in statuses if status != "completed"]
            self.facts.video_status = others[0] if others else "completed"
            if not {*others} - {"failed"} or time.monotonic() > until:
                break
            self._pause(wait)
            wait = min(2 * wait, 2.0)
        if self.facts.video_status == "completed":
            frames = self._client.get_frames(videos[0], **self._per_call())
            self.facts.video_frames = len(frames.frame_urls)
            detail = self._client.get(videos[0], **self._per_call())
            self.facts.video_metadata = detail.video_metadata is not None

    # Deleting them

    def _delete_twice(self) -> None:
        first = self._made[0].file_uuid
        self._client.delete(first, **self._per_call())
        try:
            self._client.delete(first, **self._per_call())
            self.facts.second_delete = 204
        except RefusedError as error:
            self.facts.second_delete = error.status

    def _clean(self) -> None:
        """Delete every object of the probe, and what an unanswered request may have made."""
        self._until = time.monotonic() + 2 * CLEAN_SECONDS
        found = {made.file_uuid for made in self._made}

        def take(item: FileDetail) -> None:
            if item.token and item.token.startswith(f"sy1-{self._instance}-"):
                found.add(item.file_uuid)

        if self._in_doubt:
            with suppress(FilesApiError):
                self._client.read_listing(take, workspace_uuid=self._workspace, **self._per_call())
        self._delete_left(sorted(found))

    def _delete_left(self, uuids: Sequence[str]) -> None:
        left = []
        for file_uuid in uuids:
            try:
                self._client.delete(file_uuid, **self._per_call())
            except NotFoundError:
                continue
            except FilesApiError:
                left.append(file_uuid)
        self._store.set_fact(LEFT, json.dumps(left))


@contextmanager
def _source(content: bytes) -> Iterator[UploadSource]:
    descriptor = os.memfd_create("syncd-probe")
    try:
        os.write(descriptor, content)
        yield UploadSource(fd=descriptor, size=len(content))
    finally:
        os.close(descriptor)


def _video() -> bytes:
    """Return an MP4 of one second: four grey frames of 64 x 64 pixels."""
    return resources.files("syncd.workers").joinpath("service_probe.mp4").read_bytes()


def _order(times: Sequence[datetime]) -> str | None:
    """Return in which order files come; None where so few may be in one by chance."""
    rises = any(one < other for one, other in pairwise(times))
    falls = any(one > other for one, other in pairwise(times))
    if rises and falls:
        return "none"
    if len(set(times)) < LEAST_TIMES:
        return None
    return "oldest" if rises else "newest"


def _lifetime(url: str, now: float) -> float | None:
    """Return the seconds for which a presigned URL says that it is valid."""
    query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    with suppress(ValueError):
        if seconds := query.get("x-amz-expires"):
            return float(seconds)
        if until := query.get("expires", query.get("x-expires")):
            return round(float(until) - now)
    return None
