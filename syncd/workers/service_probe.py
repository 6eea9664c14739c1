"""Probes the service by a few tiny objects, which show what the API's texts leave open.

The facts are independent: one that cannot be seen hides no other. Anything that uploads of our own
would teach is learned by the same verbs, from the same evidence, and nothing more.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from syncd.exceptions import SyncdError
from syncd.files_api import (
    Aborted,
    Answer,
    BadRequestError,
    FileDetail,
    FilePage,
    FilesApiError,
    FilesClient,
    NotFoundError,
    PerCall,
    RefusedError,
    UnprocessableError,
)
from syncd.files_api.listing import PAGE_ITEMS
from syncd.files_api.operations import list_files
from syncd.state import confirming
from syncd.state.attempts import kind_of
from syncd.state.database.store import Store
from syncd.state.probing import ProbeObject
from syncd.units import counted, span
from syncd.workers.gate import Gate
from syncd.workers.probe_objects import Made, ProbeObjects, video
from syncd.workers.search import SKEW_SECONDS
from syncd.workers.service_facts import ORDERED_FILES, Facts, lifetime_of, order_of

JsonObject = dict[str, Any]
#: How long a probe takes at most, and what of it is left for deleting.
MOST_SECONDS, CLEAN_SECONDS = 55.0, 12.0
#: How long one call, reading one listing, a size and a video may take.
CALL_SECONDS, LIST_SECONDS, SIZE_SECONDS, VIDEO_SECONDS = 10.0, 8.0, 6.0, 25.0
TEXT, VIDEO, OTHER = "text/plain", "video/mp4", "application/octet-stream"
_TEXT = b"text"
_NO_QUOTA = "a quota is used up: nothing is sent until it is free again"


class ProbeError(SyncdError):
    """No probe can be made now."""


class _UnseenError(Exception):
    """Why something was not seen."""


@dataclass(kw_only=True, eq=False)
class ServiceProbe:
    """Asks one service, in one workspace."""

    store: Store
    client: FilesClient
    gate: Gate
    objects: ProbeObjects
    #: keeps what a listing shows of an own upload: its kind, what was sent, and when it was stored
    learn: Callable[[str, ProbeObject, float, FileDetail], None]
    workspace: str | None
    clock: Callable[[], float]
    pause: Callable[[float], object]

    def __post_init__(self) -> None:
        self._until = 0.0
        self._ahead = 0.0
        self._made: list[Made] = []
        self._page_items = PAGE_ITEMS
        self.facts = Facts()

    def run(self) -> Iterator[JsonObject]:
        """Yield each step, and at last the facts and what is not deleted yet.

        ProbeError or FilesApiError if nothing can be asked now: then nothing was made.
        """
        if not self.objects.lock.acquire(blocking=False):
            raise ProbeError("another probe is at work: wait for its end, a minute at most")
        try:
            yield from self._run()
        except Aborted as error:
            raise ProbeError("the daemon stops; what is left is deleted when it runs") from error
        finally:
            self.objects.lock.release()

    def _run(self) -> Iterator[JsonObject]:
        self._until = time.monotonic() + MOST_SECONDS - CLEAN_SECONDS
        self._see_whether_it_may()
        try:
            yield {"step": "uploading"}
            self._upload()
            yield {"step": "listing"}
            self._see_page()
            self._see_size()
            self._see_names(processed=False)
            yield {"step": "waiting for the video"}
            self._see_video()
            self._see_names(processed=True)
            yield {"step": "deleting"}
            self._delete_twice()
        finally:
            self._until = time.monotonic() + CLEAN_SECONDS
            with self._seeing():
                if error := self.objects.clean_up(self._per_call):
                    raise error
        left = [made.file_uuid or made.token for made in self.objects.left()]
        yield {"facts": self.facts.document(), "left": left}

    def _see_whether_it_may(self) -> None:
        """Raise where the service asked for patience, or refuses us; call it once."""
        if self.gate.quota_used_up:
            raise ProbeError(_NO_QUOTA)
        if shut := self.gate.seconds_shut():
            cause = self.gate.cause or "the service asked to wait"
            raise ProbeError(f"no request is made for {span(shut)}: {cause}")
        try:
            self.client.list(workspace_uuid=self.workspace, limit=1, **self._per_call())
        except FilesApiError as error:
            self.gate.failed(error)
            raise
        self.gate.succeeded()

    @contextmanager
    def _seeing(self, *names: str) -> Iterator[None]:
        """See a few facts; if that fails, only these remain unseen."""
        why = ""
        try:
            self._wait_if_asked()
            yield
        except _UnseenError as error:
            why = str(error)
        except FilesApiError as error:
            # A storage does not speak for the service.
            if isinstance(error, Aborted) or error.operation not in ("put", "length"):
                self.gate.failed(error)
            why = str(error)
        for name in names if why else ():
            self.facts.note(name, getattr(self.facts, name), why)

    def _wait_if_asked(self) -> None:
        if shut := self.gate.seconds_shut():
            if time.monotonic() + shut > self._until:
                raise _UnseenError(f"the service asked to wait {span(shut)}")
            self.pause(shut)

    def _per_call(self) -> PerCall:
        left = self._until - time.monotonic()
        if left <= 0:
            raise _UnseenError("the minute was over")
        return {"deadline_seconds": min(left, CALL_SECONDS), "on_answer": self._note_date}

    def _note_date(self, answer: Answer) -> None:
        if answer.date is not None:
            self._ahead = answer.date.timestamp() - self.clock()

    # Uploading

    def _upload(self) -> None:
        with self._seeing("echo"):
            self._make("direct", _TEXT, TEXT)
        with self._seeing("echo"):
            self._make("direct", video(), VIDEO)
        with self._seeing("url_seconds", "put_needs_type", "sizes"):
            text = self._make("presigned", _TEXT, TEXT)
            _need_url(text)
            lifetime = lifetime_of(text.file_url, self.clock() + self._ahead)
            self.facts.note("url_seconds", lifetime, "the URL does not say it")
            self._put_text(text)
        with self._seeing():
            made = self._make("presigned", video(), VIDEO)
            _need_url(made)
            self.objects.put(made, video(), VIDEO, self._per_call())

    def _make(self, method: str, content: bytes, kind: str) -> Made:
        if self.gate.refused or self.gate.quota_used_up:
            raise _UnseenError("the key is refused" if self.gate.refused else _NO_QUOTA)
        make = self.objects.upload if method == "direct" else self.objects.create
        made = make(content, kind, self.workspace, self._per_call())
        if made is None:
            raise _UnseenError(f"the answer to the {method} upload names no file_uuid")
        made.made_at = self.clock() + self._ahead
        self._made.append(made)
        return made

    def _put_text(self, made: Made) -> None:
        """See whether the content type must be the one that the URL was made for."""
        needs_type, is_storage = False, True
        try:
            is_storage = self.objects.put(made, _TEXT, OTHER, self._per_call())
        except RefusedError:
            needs_type = True
        is_storage &= self.objects.put(made, _TEXT, TEXT, self._per_call())
        why = "the answer has no ETag, as a storage's has"
        self.facts.note("put_needs_type", needs_type if is_storage else None, why)

    # Looking at them

    def _see_page(self) -> None:
        """See how many files a page has, how long it takes, and in which order they come."""
        with self._seeing("page_cap", "list_seconds", "order"):
            page, refused_from = self._largest_page()
            taken, few = self._page_items, f"{len(page.items)} files are too few to tell"
            times = [item.created_at for item in page.items]
            is_few = len(times) < ORDERED_FILES
            self.facts.note("order", order_of(times), few if is_few else "too many times are equal")
            self.facts.refuses_limit = refused_from <= PAGE_ITEMS
            is_short = len(page.items) < min(page.count, taken)
            if refused_from - taken > 1:
                raise _UnseenError(f"{taken} files are taken, and {refused_from} are refused")
            if self.facts.refuses_limit:
                self.facts.page_cap = taken
            elif is_short:
                self.facts.page_cap = len(page.items)
            else:
                raise _UnseenError(few if page.count < PAGE_ITEMS else "no page was too long")

    def _largest_page(self) -> tuple[FilePage, int]:
        """Return a page of as many files as the service allows, and how many it refuses.

        It is found by bisection, within the time that a listing may take.
        """
        refused_from, asked, page = PAGE_ITEMS + 1, PAGE_ITEMS, None
        until, self._page_items = time.monotonic() + LIST_SECONDS, 0
        while asked > self._page_items and (page is None or time.monotonic() < until):
            began = time.monotonic()
            try:
                page = self.client.call(
                    list_files(workspace_uuid=self.workspace, limit=asked), **self._per_call()
                )
            except (BadRequestError, UnprocessableError) as error:
                if asked == 1:
                    raise _UnseenError(f"pages of any length are refused: {error}") from error
                refused_from = asked
            else:
                self._page_items = asked
                self.facts.list_seconds = round(time.monotonic() - began, 3)
            asked = (self._page_items + refused_from) // 2
        return page or FilePage(items=(), count=0), refused_from

    def _see_size(self) -> None:
        """See where the service tells the size of what a storage took for it.

        Only the daemon can find out that it tells none: it asks for longer than a minute.
        """
        text = next((one for one in self._made if one.is_sent and not one.is_whole), None)
        if text is None or text.is_video:
            return
        with self._seeing("sizes"):
            until, wait = time.monotonic() + SIZE_SECONDS, 0.2
            while (told := self._told_size(text))[1] == 0 and time.monotonic() < until:
                self.pause(wait)
                wait *= 2
            where, size = told
            if size != text.noted.size:
                told_size = counted(size, "byte") if size else "no size"
                raise _UnseenError(f"{told_size} was told within {span(SIZE_SECONDS)}")
            self.facts.sizes, text.is_whole = where, True
            self.store.write(confirming.told)

    def _told_size(self, made: Made) -> tuple[str, int]:
        """Return where a size is told, and the size; 0 for none."""
        detail = self.client.get(made.uuid, **self._per_call())
        if detail.file_size_bytes is not None or not detail.file_url:
            return "record", detail.file_size_bytes or 0
        with suppress(RefusedError):
            return "url", self.client.length(detail.file_url, **self._per_call()) or 0
        return "url", 0

    def _see_names(self, *, processed: bool) -> None:
        """Learn from what the listing shows of each object that the service holds whole."""
        with self._seeing("echo"):
            before = self._statuses()
            made = {
                made.uuid: made
                for made in self._made
                if made.is_whole and (made.is_video or not processed)
            }
            shown = self._find(made.keys())
            after = self._statuses()
            for file_uuid, item in shown.items():
                # A video that was completed meanwhile may be shown either way.
                states = {before.get(file_uuid), after.get(file_uuid)}
                if not made[file_uuid].is_video or states <= {"pending", "processing"}:
                    self._learn_from(made[file_uuid], item, processed=False)
                elif states == {"completed"}:
                    self._learn_from(made[file_uuid], item, processed=True)

    def _statuses(self) -> dict[str, str]:
        """Return how far each video is that was sent, as far as the service tells."""
        told = {}
        for made in self._made:
            if made.is_video and made.is_sent:
                with self._seeing("video_status"):
                    status = self.client.get_status(made.uuid, **self._per_call())
                    told[made.uuid] = status.processing_status
                    made.is_whole |= status.processing_status in ("processing", "completed")
        return told

    def _find(self, wanted: Collection[str]) -> dict[str, FileDetail]:
        """Return what the listing shows of objects, as far as it can be read in the time."""
        shown: dict[str, FileDetail] = {}
        until = time.monotonic() + LIST_SECONDS
        since = min((made.made_at for made in self._made), default=0.0) - SKEW_SECONDS

        def take(item: FileDetail) -> None:
            if item.file_uuid in wanted:
                shown[item.file_uuid] = item

        def per_call() -> PerCall:
            if len(shown) == len(wanted):
                raise _UnseenError
            if time.monotonic() > until:
                raise _UnseenError("the listing is too long to be read in a minute")
            return self._per_call()

        try:
            self.objects.read_listing(
                take,
                self.workspace,
                per_call,
                since=lambda: datetime.fromtimestamp(since).astimezone(),
                limit=self._page_items,
            )
            why = "the listing does not show what was uploaded"
        except _UnseenError as error:
            why = str(error)
        if len(shown) < len(wanted):
            self.facts.unseen["echo"] = why
        return shown

    def _learn_from(self, made: Made, shown: FileDetail, *, processed: bool) -> None:
        kind = kind_of(made.noted.method, is_video=made.is_video, processed=processed)
        is_whole_name = made.name in (shown.local_file_path, shown.original_file_url)
        echoed = "path" if is_whole_name else "name"
        self.facts.echo = self.facts.echo or {}
        self.facts.echo[kind] = echoed if shown.token == made.noted.token else "none"
        self.learn(kind, made.noted, made.made_at, shown)

    def _see_video(self) -> None:
        with self._seeing("video_status"):
            videos = [made for made in self._made if made.is_video and made.is_sent]
            if not videos:
                raise _UnseenError("no video was uploaded")
            until, wait = time.monotonic() + VIDEO_SECONDS, 0.2
            while True:
                statuses = {*self._statuses().values()}
                is_over = statuses <= {"completed", "failed"}
                if is_over or time.monotonic() > min(until, self._until - LIST_SECONDS):
                    break
                self.pause(wait)
                wait = min(2 * wait, 2.0)
            if statuses:
                self.facts.video_status = next(iter(statuses - {"completed"}), "completed")
        if self.facts.video_status != "completed":
            for name in ("video_frames", "video_metadata"):
                self.facts.note(
                    name, None, f"the video is {self.facts.video_status or 'not known'}"
                )
            return
        with self._seeing("video_frames"):
            frames = self.client.get_frames(videos[0].uuid, **self._per_call())
            self.facts.video_frames = len(frames.frame_urls)
        with self._seeing("video_metadata"):
            detail = self.client.get(videos[0].uuid, **self._per_call())
            self.facts.video_metadata = detail.video_metadata is not None

    # Deleting them

    def _delete_twice(self) -> None:
        with self._seeing("second_delete"):
            if not self._made:
                raise _UnseenError("nothing was made")
            first = self._made[0]
            self.objects.delete(first.noted, self._per_call())
            try:
                self.client.delete(first.uuid, **self._per_call())
                self.facts.second_delete = 204
            except NotFoundError:
                self.facts.second_delete = 404


def _need_url(made: Made) -> None:
    if not made.file_url:
        raise _UnseenError("the answer to the create has no file_url")
