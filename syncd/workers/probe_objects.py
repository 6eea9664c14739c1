"""Makes and deletes the objects of a probe: each is noted before its request, until it is gone.

An object is deleted by the uuid that the answer to its request gave, or where there was no answer,
by its exact token and size. Nothing else is ever deleted.
"""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources

from syncd.files_api import (
    Aborted,
    FileDetail,
    FilesApiError,
    FilesClient,
    FileUpload,
    NewFile,
    NotFoundError,
    NotSentError,
    PerCall,
    RefusedError,
    UploadSource,
    sent_name,
)
from syncd.files_api.listing import PAGE_ITEMS, Listing, Since, Take, read_listing
from syncd.state import probing
from syncd.state.attempts import KEPT_SECONDS
from syncd.state.database.store import Store
from syncd.state.probing import ProbeObject
from syncd.workers.gate import Gate

log = logging.getLogger(__name__)

#: Seconds after which a request that got no answer is not carried out any more.
LATEST_SECONDS = 3600.0


@dataclass(slots=True)
class Made:
    """An object that the service named."""

    noted: ProbeObject
    name: str
    is_video: bool
    #: where its content is PUT; empty if the service did not say
    file_url: str
    #: whether its content was sent, and whether the service is known to hold it
    is_sent: bool
    is_whole: bool = False
    #: by the service's clock, in seconds since the epoch
    made_at: float = 0.0

    def __post_init__(self) -> None:
        # A direct upload is stored whole or not at all.
        self.is_whole = self.is_sent

    @property
    def uuid(self) -> str:
        """The service's name of it."""
        return self.noted.file_uuid or ""


@dataclass(kw_only=True, eq=False)
class ProbeObjects:
    """The objects of all probes of one state; `lock` is held by whoever makes or deletes them."""

    store: Store
    client: FilesClient
    gate: Gate
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def upload(
        self, content: bytes, kind: str, workspace: str | None, per_call: PerCall
    ) -> Made | None:
        """Upload an object in one request; None if the answer does not name it."""

        def send(name: str) -> FileUpload:
            with source_of(content) as source:
                return self.client.upload(
                    source, name=name, content_type=kind, workspace_uuid=workspace, **per_call
                )

        return self._make("direct", content, kind, workspace, send)

    def create(
        self, content: bytes, kind: str, workspace: str | None, per_call: PerCall
    ) -> Made | None:
        """Make a record for `content`, which is to be PUT; None if the answer names none."""

        def send(name: str) -> FileUpload:
            new = NewFile(local_file_path=name, content_type=kind)
            files = self.client.create([new], workspace_uuid=workspace, **per_call).files
            return files[0] if files else FileUpload()

        return self._make("presigned", content, kind, workspace, send)

    def put(self, made: Made, content: bytes, kind: str, per_call: PerCall) -> bool:
        """Send content to a storage; return whether what took it answered as storages do."""
        tags: list[bool] = []
        per_call["on_answer"] = lambda answer: tags.append("etag" in answer.headers)
        with source_of(content) as source:
            self.client.put(made.file_url, source, content_type=kind, **per_call)
        made.is_sent = True
        return all(tags)

    def _make(
        self,
        method: str,
        content: bytes,
        kind: str,
        workspace: str | None,
        send: Callable[[str], FileUpload],
    ) -> Made | None:
        is_video, now = kind.startswith("video/"), self.clock()
        path = b"probe.mp4" if is_video else b"probe.txt"
        noted = self.store.write(probing.intend, path, content, method, workspace, now)
        name = sent_name(f"{probing.FOLDER}/".encode() + path, noted.token)
        try:
            answer = send(name)
        except (RefusedError, NotSentError):
            # Certainly not made.
            self._forget(noted)
            raise
        if answer.file_uuid is None:
            return None
        noted = self._found(noted, answer.file_uuid)
        return Made(noted, name, is_video, answer.file_url or "", is_sent=method == "direct")

    def _found(self, made: ProbeObject, file_uuid: str) -> ProbeObject:
        self.store.write(probing.found, made.token, file_uuid)
        return made._replace(file_uuid=file_uuid)

    def left(self) -> list[ProbeObject]:
        """Return all that may be there still."""
        return self.store.read(probing.every)

    def clean_up(self, per_call: Callable[[], PerCall] = PerCall) -> FilesApiError | None:
        """Delete what is left, as far as it is found; return what went wrong, if anything did."""
        failure = self._delete_known(per_call)
        if any(made.file_uuid is None for made in self.left()):
            try:
                self.look(per_call)
            except Aborted:
                raise
            except FilesApiError as error:
                failure = error
            failure = self._delete_known(per_call) or failure
        return failure

    def _delete_known(self, per_call: Callable[[], PerCall]) -> FilesApiError | None:
        failure = None
        for made in self.left():
            try:
                if made.file_uuid is not None:
                    self.delete(made, per_call())
            except Aborted:
                raise
            except FilesApiError as error:
                failure = error
        return failure

    def delete(self, made: ProbeObject, per_call: PerCall) -> None:
        """Delete one object."""
        try:
            self.client.delete(made.file_uuid or "", **per_call)
        except NotFoundError as error:
            if not error.is_the_services:
                raise
        self._forget(made)

    def look(self, per_call: Callable[[], PerCall] = PerCall) -> None:
        """Look for the objects of requests that got no answer, or one that names no object.

        A whole listing that shows none of them long after they were sent is the last look.
        """
        sought = [made for made in self.left() if made.file_uuid is None]
        for workspace in {made.workspace_uuid for made in sought}:
            here = {made.token: made for made in sought if made.workspace_uuid == workspace}
            listing, oldest = self._look_in(workspace, here, per_call)
            for token, made in here.items():
                if token in oldest:
                    self._found(made, oldest[token].file_uuid)
                elif self.clock() > made.sent_at + (
                    LATEST_SECONDS if listing.complete else KEPT_SECONDS
                ):
                    log.info("a probe's request got no answer, and no object shows its name")
                    self._forget(made)

    def _look_in(
        self,
        workspace: str | None,
        sought: dict[str, ProbeObject],
        per_call: Callable[[], PerCall],
    ) -> tuple[Listing, dict[str, FileDetail]]:
        oldest: dict[str, FileDetail] = {}

        def take(item: FileDetail) -> None:
            made = sought.get(item.token or "")
            if made is not None and _fits(made, item):
                known = oldest.setdefault(made.token, item)
                if item.created_at < known.created_at:
                    oldest[made.token] = item

        return self.read_listing(take, workspace, per_call), oldest

    def read_listing(
        self,
        take: Take,
        workspace: str | None,
        per_call: Callable[[], PerCall],
        *,
        since: Since = lambda: None,
        limit: int = PAGE_ITEMS,
    ) -> Listing:
        """Read a listing; each page is a call of its own for `per_call`."""
        return read_listing(
            lambda limit, offset: self.client.list(
                workspace_uuid=workspace, limit=limit, offset=offset, **per_call()
            ),
            take,
            since=since,
            limit=limit,
        )

    def step(self) -> None:
        """Delete what a probe left that was ended; what cannot be deleted now waits."""
        if not self.left() or not self.lock.acquire(blocking=False):
            return
        try:
            if error := self.clean_up():
                log.warning("cannot delete now what a probe of the service left: %s", error)
                self.gate.failed(error)
        finally:
            self.lock.release()

    def _forget(self, made: ProbeObject) -> None:
        self.store.write(probing.forget, token=made.token)


def _fits(made: ProbeObject, item: FileDetail) -> bool:
    # A record whose content never came may show no size, or none.
    sizes: Collection[int | None] = {made.size, None, 0 if made.method == "presigned" else None}
    return item.file_size_bytes in sizes


@contextmanager
def source_of(content: bytes) -> Iterator[UploadSource]:
    """Return content as a file that can be sent."""
    descriptor = os.memfd_create("syncd-probe")
    try:
        os.write(descriptor, content)
        yield UploadSource(fd=descriptor, size=len(content))
    finally:
        os.close(descriptor)


def video() -> bytes:
    """Return an MP4 of one second: four grey frames of 64 x 64 pixels."""
    return resources.files("syncd.workers").joinpath("service_probe.mp4").read_bytes()
