"""A Files API without a network: what a client of it can call, and all that may go wrong.

It keeps an audit of its own: which bytes each object holds and who sent them. Time is the world's.
"""

import hashlib
import itertools
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import SimpleNamespace

from syncd.emulator import Personality
from syncd.files_api import (
    BadAnswerError,
    CreatedFiles,
    FileDetail,
    FileFrames,
    FilePage,
    FileUpload,
    ForbiddenError,
    InDoubtError,
    Listing,
    NotFoundError,
    NotSentError,
    ProcessingStatus,
    RateLimitedError,
    ServerError,
    UnauthorizedError,
    UnprocessableError,
)
from syncd.files_api.listing import MOST_PAGES, newest_pages, read_listing, walk

from . import answers
from .objects import FOREIGN, OURS, Object, Violation, Weather

URL_SECONDS = 1800.0


@dataclass(slots=True)
class Service:
    """The remote objects, and how the service behaves now."""

    rng: random.Random
    clock: Callable[[], float]
    echo: bool
    #: called before and after each request, and between the chunks of a body
    between: Callable[[str], None]
    #: called with each request that changes something, before it is carried out
    audit: Callable[..., None]
    tell: Callable[[str], None]
    traits: Personality = field(default_factory=Personality)
    weather: Weather = field(default_factory=Weather)
    objects: dict[str, Object] = field(default_factory=dict)
    #: whether it says who uploaded an object
    names_uploaders: bool = False
    #: of a page, small so that there are several
    page_items: int = 3
    #: how far its clock is ahead of the world's
    ahead_seconds: float = 0.0
    #: what was asked for and is carried out later: when, and what
    pending: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    key: str = "good"
    retry_until: float = 0.0
    poisoned: set[bytes] = field(default_factory=set)
    mutations: int = 0
    listings: int = 0
    #: requests of ours that can store something
    requests: int = 0
    _arrived_at: float | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # Events of its own

    def deliver(self) -> None:
        """Carry out what was delayed and is due."""
        now = self.clock()
        if not any(at <= now for at, _ in self.pending):
            return
        due = [item for item in self.pending if item[0] <= now]
        self.pending = [item for item in self.pending if item[0] > now]
        for at, work in sorted(due, key=lambda item: item[0]):
            self._arrived_at = at
            work()
        self._arrived_at = None

    def _now(self) -> float:
        """Return the time at which what is carried out now arrived."""
        return self.clock() if self._arrived_at is None else self._arrived_at

    def add_foreign(
        self,
        body: bytes | None,
        name: str,
        *,
        content_type: str = "text/plain",
        remote_uri: str | None = None,
    ) -> Object:
        """Somebody else uploads."""
        item = self._add(FOREIGN, name, content_type, body)
        item.remote_uri = remote_uri
        return item

    def heal(self) -> None:
        """End every fault; what was delayed still arrives when it is due."""
        self.weather = Weather(processing_seconds=self.weather.processing_seconds)
        self.key = "good"
        self.show_everything()

    def show_everything(self) -> None:
        """Let the listing catch up with what is stored."""
        now = self.clock()
        for item in self.objects.values():
            item.visible_at = min(item.visible_at, now)

    def ours(self) -> list[Object]:
        """Return what of ours is there: stored or reserved, and not deleted."""
        return [item for item in self.objects.values() if item.owner == OURS and item.there]

    def _uuid(self) -> str:
        return str(uuid.UUID(int=(1 << 100) + next(self._numbers)))

    def _add(
        self,
        owner: str,
        name: str,
        content_type: str,
        body: bytes | None,
        *,
        request: int | None = None,
        sent_at: float = 0.0,
    ) -> Object:
        now = self._now()
        item = Object(
            file_uuid=self._uuid(),
            owner=owner,
            name=name,
            content_type=content_type,
            created_at=now + next(self._numbers) * 1e-6,
            request=request,
            sent_at=sent_at,
            visible_at=now + self.rng.uniform(0, self.weather.lag_seconds),
            url_until=now + URL_SECONDS,
        )
        self.objects[item.file_uuid] = item
        if body is not None:
            self._fill(item, body)
        return item

    def _request(self) -> dict[str, float]:
        """Count a request of ours that can store something; return what its objects remember."""
        self.requests += 1
        return {"request": self.requests, "sent_at": self.clock()}

    def _fill(self, item: Object, body: bytes) -> None:
        if item.body is not None and item.body != body:
            raise Violation(f"I8: two contents for {item.file_uuid}")
        item.body = body
        item.stored_at = self._now()
        item.processing_seconds = self.rng.uniform(0, self.weather.processing_seconds)
        item.fails = item.is_video and body in self.poisoned

    def _judge(self, body: bytes) -> None:
        """Decide once for each content whether it is one that the service cannot take."""
        if body not in self.poisoned and self.rng.random() < self.weather.poison:
            self.poisoned.add(body)

    # Requests

    def _enter(self, operation: str, *, mutates: bool) -> None:
        self.between(f"before {operation}")
        self.deliver()
        if mutates:
            self.mutations += 1

    def _refuse_key(self, operation: str, *, looks: bool = False) -> None:
        if self.key == "refused" or (self.key == "wrong" and not looks):
            raise UnauthorizedError("no such key", operation=operation, status=401)
        if self.key == "wrong":
            raise _not_found(operation)

    def _trouble_before(self, operation: str) -> None:
        """Fail, perhaps, before anything is done."""
        if self.rng.random() >= self.weather.trouble:
            return
        if operation in ("get", "delete") and self.rng.random() < 0.2:
            # A proxy's page proves nothing.
            raise NotFoundError("a page of HTML", operation=operation, status=404)
        match self.rng.randrange(5):
            case 0 | 1:
                raise NotSentError("cannot connect", operation=operation, code="local.connect")
            case 2:
                raise ServerError("try later", operation=operation, status=503)
            case 3:
                raise InDoubtError("the request was lost", operation=operation)
            case _:
                asked = self.rng.choice([5.0, 40.0, 7200.0])
                self.tell(f"{operation} is refused for {asked:.0f} s")
                self.retry_until = max(self.retry_until, self.clock() + min(asked, 3600.0))
                raise RateLimitedError(
                    "slow down", operation=operation, status=429, retry_after=asked
                )

    def _trouble_after(self, operation: str) -> None:
        """Fail, perhaps, after everything was done."""
        if self.rng.random() >= self.weather.trouble:
            return
        self.tell(f"the answer to {operation} is lost")
        match self.rng.randrange(4):
            case 0:
                raise ServerError("failed at the end", operation=operation, status=500)
            case 1:
                raise BadAnswerError("no JSON", operation=operation, status=200)
            case _:
                raise InDoubtError("the answer was lost", operation=operation)

    def _done(self, operation: str) -> None:
        self.between(f"after {operation}")
        self._trouble_after(operation)

    def _commit(self, operation: str, work: Callable[[], None]) -> None:
        """Do what was asked for: now, or later with an answer that is lost."""
        if self.rng.random() < self.weather.late:
            seconds = self.rng.uniform(0, self.weather.late_seconds)
            self.pending.append((self.clock() + seconds, work))
            self.tell(f"{operation} will be carried out in {seconds:.0f} s")
            self.between(f"after {operation}")
            raise InDoubtError("timed out", operation=operation)
        work()
        if self.rng.random() < self.weather.twice:
            self.tell(f"{operation} is carried out twice")
            work()

    def _read_body(self, operation: str, source) -> bytes:
        body = b""
        for chunk, last in source.chunks():
            if not last and self.rng.random() < self.weather.trouble / 4:
                raise NotSentError("the connection broke", operation=operation)
            body += chunk
            self.between(f"within {operation}")
        return body

    # The client's calls

    def upload(self, source, *, name, content_type, workspace_uuid=None, **_) -> FileUpload:
        self._enter("upload", mutates=True)
        self._refuse_key("upload")
        self._trouble_before("upload")
        body = self._read_body("upload", source)
        self.audit("upload", name=name, body=body)
        # Counted though it may be refused: the number belongs to this request.
        made, stored = self._request(), list[Object]()
        self._judge(body)
        # Refused or not: the audit counts every request that arrives.
        made, stored = self._request(), list[Object]()
        if body in self.poisoned and not content_type.startswith("video/"):
            self._done("upload")
            raise UnprocessableError("no such content", operation="upload", status=422)
        self._commit(
            "upload", lambda: stored.append(self._add(OURS, name, content_type, body, **made))
        )
        self.tell(f"stored {name} as {stored[0].file_uuid[-4:]}")
        self._done("upload")
        return answers.upload(
            self.rng.choice(stored), with_uuid=self.rng.random() >= self.weather.trouble / 8
        )

    def create(self, files, *, workspace_uuid=None, **_) -> CreatedFiles:
        self._enter("create", mutates=True)
        self._refuse_key("create")
        self._trouble_before("create")
        numbered = []
        for new in files:
            self.audit("create", name=new.local_file_path)
            numbered.append((new, self._request()))
        reserved: list[list[Object]] = []

        def reserve() -> None:
            reserved.append(
                [
                    self._add(OURS, new.local_file_path, new.content_type, None, **made)
                    for new, made in numbered
                ]
            )

        self._commit("create", reserve)
        answered = self.rng.choice(reserved)
        for item in answered:
            self.tell(f"reserved {item.file_uuid[-4:]} for {item.name}")
        self._done("create")
        return CreatedFiles(files=tuple(answers.upload(item, url=True) for item in answered))

    def put(self, file_url, source, *, content_type, **_) -> None:
        self._enter("put", mutates=True)
        item = self.objects[file_url.rpartition("/")[2]]
        self._trouble_before("put")
        body = self._read_body("put", source)
        self.audit("put", item=item, body=body)
        if item.deleted or self.clock() > item.url_until:
            raise ForbiddenError("the URL has expired", operation="put", status=403)
        self._judge(body)
        if self.rng.random() < self.weather.lie:
            self.tell(f"the storage takes the bytes of {item.file_uuid[-4:]} and keeps nothing")
            self._done("put")
            return
        self._commit("put", lambda: None if item.deleted else self._fill(item, body))
        self.tell(f"put the bytes of {item.file_uuid[-4:]}")
        self._done("put")

    def delete(self, file_uuid) -> None:
        self._enter("delete", mutates=True)
        self._refuse_key("delete", looks=True)
        self._trouble_before("delete")
        item = self.objects.get(file_uuid)
        self.audit("delete", item=item, file_uuid=file_uuid)
        if item is None or (item.deleted and self.traits.second_delete == 404):
            self._done("delete")
            raise _not_found("delete")
        item.deleted = True
        self.tell(f"deleted {file_uuid[-4:]}")
        self._done("delete")

    def _there(self, operation: str, file_uuid: str) -> Object:
        self._enter(operation, mutates=False)
        self._refuse_key(operation, looks=True)
        self._trouble_before(operation)
        item = self.objects.get(file_uuid)
        if item is None or item.deleted:
            raise _not_found(operation)
        return item

    def get(self, file_uuid) -> FileDetail:
        item = self._there("get", file_uuid)
        if self.traits.tells_sizes or item.body is None:
            return self._detail(item)
        return replace(self._detail(item), file_url=f"https://storage/{file_uuid}")

    def length(self, file_url) -> int | None:
        self._enter("length", mutates=False)
        self._trouble_before("length")
        item = self.objects[file_url.rpartition("/")[2]]
        return None if item.body is None else len(item.body)

    def _detail(self, item: Object) -> FileDetail:
        return answers.detail(
            item,
            now=self.clock(),
            ahead_seconds=self.ahead_seconds,
            echo=self.echo,
            tells_sizes=self.traits.tells_sizes,
            tells_states=self.traits.tells_states,
            names_uploaders=self.names_uploaders,
        )

    def get_status(self, file_uuid) -> ProcessingStatus:
        item = self._there("get_status", file_uuid)
        status = answers.status(item, self.clock()) or "completed"
        return ProcessingStatus(file_uuid=file_uuid, processing_status=status)

    def get_frames(self, file_uuid) -> FileFrames:
        self._there("get_frames", file_uuid)
        return FileFrames(file_uuid=file_uuid, frame_count=3, frame_urls=())

    def list(
        self, *, workspace_uuid=None, file_type=None, limit=None, offset=None, **_
    ) -> FilePage:
        self._enter("list", mutates=False)
        self.listings += 1
        self._refuse_key("list")
        self._trouble_before("list")
        if self.rng.random() < self.weather.shifting:
            self._shift()
        now = self.clock()
        there = [o for o in self.objects.values() if o.there and o.visible_at <= now]
        if file_type is not None:
            there = [o for o in there if o.is_video == (file_type == "video")]
        there.sort(key=self._place, reverse=self.traits.order == "newest")
        count = len(there) + (self.rng.random() < self.weather.miscount)
        start = offset or 0
        shown = there[start : start + (limit or 100)]
        return FilePage(items=tuple(map(self._detail, shown)), count=count)

    def _place(self, item: Object) -> float | str:
        """Return what a listing is sorted by."""
        if self.traits.order != "uuid":
            return item.created_at
        return hashlib.sha256(item.file_uuid.encode()).hexdigest()

    def _shift(self) -> None:
        """Somebody else uploads or deletes while the pages are read."""
        foreign = [item for item in self.objects.values() if item.owner == FOREIGN and item.there]
        if foreign and self.rng.random() < 0.5:
            self.rng.choice(foreign).deleted = True
        else:
            self.add_foreign(b"foreign", "theirs.txt")

    def list_all(self, *, workspace_uuid=None, limit=None, **_) -> Iterator[FileDetail]:
        return walk(lambda size, offset: self.list(limit=size, offset=offset), limit)

    def newest_pages(self, *, workspace_uuid=None, file_type=None, **_):
        def read_page(size: int, offset: int) -> FilePage:
            return self.list(limit=size, offset=offset, file_type=file_type)

        return newest_pages(read_page, self.page_items)

    def read_listing(
        self,
        take,
        *,
        workspace_uuid=None,
        since=lambda: None,
        most_pages=MOST_PAGES,
        on_answer=lambda _: None,
    ) -> Listing:
        def read_page(size: int, offset: int) -> FilePage:
            page = self.list(limit=size, offset=offset)
            on_answer(SimpleNamespace(date=self._date()))
            return page

        return read_listing(
            read_page, take, since=since, limit=self.page_items, most_pages=most_pages
        )

    def _date(self) -> datetime | None:
        """Return its clock's time in whole seconds, as the header of an answer tells it."""
        return datetime.fromtimestamp(int(self.clock() + self.ahead_seconds), tz=UTC)

    def close(self) -> None:
        """Nothing is open."""


def _not_found(operation: str) -> NotFoundError:
    """Return what the service itself says, in its envelope."""
    return NotFoundError("no such file", operation=operation, status=404, code="files.not_found")
