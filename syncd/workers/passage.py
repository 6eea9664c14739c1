"""One file's way up: opened, hashed, promised in the ledger, sent, and its outcome recorded."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from syncd import disk
from syncd.exceptions import FileChangedError, ShortageError, UnreadableError
from syncd.files_api import (
    Aborted,
    Answer,
    ConflictError,
    FilesApiError,
    FilesClient,
    FileUpload,
    ForbiddenError,
    InDoubtError,
    NewFile,
    NotSentError,
    RateLimitedError,
    RefusedError,
    StopFlag,
    UploadSource,
    content_type,
    sent_name,
)
from syncd.log import fields
from syncd.metrics import RETRIES
from syncd.state import confirming, echo
from syncd.state.attempts import kind_of
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.ledger import PROBE, Declined, Elsewhere, Failure, Ledger, Offer, Stored
from syncd.state.retry import SHORTEST_ASKED_SECONDS, backoff_seconds
from syncd.state.store import Store, Transaction
from syncd.state.texts import error_text
from syncd.workers.gate import PATIENCE, Gate
from syncd.workers.looks import look, may_be_sent

log = logging.getLogger(__name__)

#: The service stores no larger object by a presigned PUT (S3's own limit for one PUT).
PRESIGNED_MAX_BYTES = 5 << 30
#: The largest file that is sent direct to learn whether such names are echoed.
PROBE_BYTES = 1 << 20
#: Seconds until a file is tried again whose folder is another one now.
ROOT_SECONDS = 10.0
#: Seconds for which a reserved record is kept for a storage that asks to wait: a presigned URL is
#: valid for half an hour, and the content takes its time.
RESERVED_SECONDS = 1200.0


@dataclass(frozen=True, slots=True)
class Root:
    """Where a folder's files are, and how long they take to settle, in seconds."""

    path: bytes
    settle_seconds: float
    workspace_uuid: str | None
    #: a file beneath it without which it is not the right one
    marker: bytes = b""


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """How to send; sizes in bytes, times in seconds."""

    workers: int = 8
    method: str = "auto"
    direct_max: int = 32 << 20
    token: bool = True
    first_poll_seconds: float = 2.0


@dataclass(slots=True)
class InFlight:
    """A transfer under way: who, how far, since when (seconds since the epoch)."""

    folder: str
    path: bytes
    size: int
    since: float
    sent: int = 0
    #: when it moved last
    moved_at: float | None = None
    #: it is read to know its content, and not sent yet
    is_read: bool = False
    #: of the last answer
    request_id: str | None = None
    #: whether what took the bytes answered as an object store does
    has_etag: bool = False


class Prepared(NamedTuple):
    """A file that is open and hashed, and the intent that is being committed for it."""

    file: File
    descriptor: int
    offer: Offer
    begun: "Future[Copy | Elsewhere | Declined]"


class Sent(NamedTuple):
    """An upload that was answered, and whose outcome is being committed."""

    file_id: int
    folder: str
    shown: str
    file_uuid: str
    request_id: str | None
    size: int
    seconds: float
    became: "Future[str]"


class Passage:
    """What every file goes through on its way up. Thread-safe; errors are the caller's."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        roots: Mapping[str, Root],
        gate: Gate,
        options: UploadOptions,
        clock: Callable[[], float],
        stop: StopFlag,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._roots = roots
        self._gate = gate
        self._options = options
        self._clock = clock
        self._stop = stop
        self._lock = threading.Lock()
        self._in_flight: dict[int, InFlight] = {}
        #: by file; what is sent, by copy
        self._reading: dict[int, InFlight] = {}
        #: files that were refused together with others, and go alone from then on
        self._alone: set[int] = set()
        #: for files and videos: whether their direct uploads can be found by their tokens
        self._proven: set[bool] = set()

    def admits(self, file: File) -> bool:
        """Say whether the gate lets a file be sent now."""
        root = self._roots.get(file.folder)
        workspace = root.workspace_uuid if root else None
        return self._gate.admits(workspace, file.id, presigned=self.is_presigned(file))

    def is_presigned(self, file: File) -> bool:
        """Say whether a file goes to a storage, by a presigned URL, as far as its name tells."""
        is_video = content_type(file.path).startswith("video/")
        return self._method(file.size, is_video=is_video) == "presigned"

    def transfers(self) -> list[InFlight]:
        """Return the transfers under way, oldest first."""
        with self._lock:
            under_way = [*self._in_flight.values(), *self._reading.values()]
        return sorted(under_way, key=lambda transfer: transfer.since)

    def prepare(self, file: File, opened: ExitStack) -> Prepared | None:
        """Open and hash a file, and hand in the intent to send it, without waiting for its commit.

        The descriptor stays open as long as `opened`. None where the file is not to be sent as it
        is, which is then recorded, or where the daemon stops.
        """
        root = self._roots.get(file.folder)
        if root is None:
            return None
        try:
            descriptor = opened.enter_context(disk.open_beneath(root.path, file.path))
            if not self._is_at_home(file):
                later = self._clock() + ROOT_SECONDS
                self._store.write(lambda db: self._ledger.put_off(db, file.id, later))
                return None
            offer = self._offer(file, descriptor)
        except (FileChangedError, UnreadableError) as error:
            self._record_unsendable(file, error)
            return None
        return Prepared(file, descriptor, offer, self._begin(offer)) if offer else None

    def _offer(self, file: File, descriptor: int) -> Offer | None:
        before = disk.fingerprint(descriptor)
        if before != file.fingerprint:
            raise FileChangedError(f"{file.shown} changed")
        digest = file.sha256
        if digest is None:
            digest = self._hash(file, descriptor, before.size)
            if digest is None:
                return None
            if disk.fingerprint(descriptor) != before:
                raise FileChangedError(f"{file.shown} changed while it was read")
        kind = content_type(file.path, partial(os.pread, descriptor))
        return Offer(
            file_id=file.id,
            fingerprint=before,
            sha256=digest,
            content_type=kind,
            method=self._method(before.size, is_video=kind.startswith("video/")),
        )

    def _hash(self, file: File, descriptor: int, size: int) -> str | None:
        """Return the SHA-256 of a file; meanwhile it is among the transfers."""
        reading = InFlight(file.folder, file.path, size, self._clock(), is_read=True)
        with self._lock:
            self._reading[file.id] = reading
        try:
            return disk.sha256(
                descriptor,
                size,
                stopped=self._stop.is_set,
                progress=lambda read: self._moved(reading, read),
            )
        finally:
            with self._lock:
                del self._reading[file.id]

    def _begin(self, offer: Offer) -> "Future[Copy | Elsewhere | Declined]":
        now = self._clock()
        return self._store.submit(lambda db: self._ledger.begin(db, offer, now))

    def _record_unsendable(self, file: File, error: FileChangedError | UnreadableError) -> None:
        now = self._clock()
        if isinstance(error, FileChangedError):
            again_at = now + self._roots[file.folder].settle_seconds
            self._store.write(lambda db: self._ledger.unsettle(db, file.id, again_at))
            return
        message, again_at = str(error), now + backoff_seconds(file.attempts + 1)
        log.warning(
            "%s: %s; tried again later",
            file.shown,
            message,
            extra=fields("unreadable", folder=file.folder, path=file.shown, cause=message),
        )
        self._store.write(lambda db: self._ledger.unreadable(db, file.id, message, again_at))

    def reserve(
        self, client: FilesClient, prepared: Sequence[Prepared]
    ) -> dict[int, FileUpload | None]:
        """Reserve objects for all that is sent presigned, in one request for each workspace.

        Return what was reserved by file id; None for a file with which nothing more is to be done.
        """
        reserved: dict[int, FileUpload | None] = {}
        by_workspace: dict[str | None, list[tuple[File, Copy]]] = {}
        for one in prepared:
            copy = one.begun.result()
            together = one.file.id not in self._alone and self._may_send(one.file, copy)
            if isinstance(copy, Copy) and copy.method == "presigned" and together:
                by_workspace.setdefault(copy.workspace_uuid, []).append((one.file, copy))
        for group in by_workspace.values():
            if len(group) > 1:
                reserved |= self._reserve(client, group)
        return reserved

    def _reserve(
        self, client: FilesClient, group: Sequence[tuple[File, Copy]]
    ) -> dict[int, FileUpload | None]:
        pauses = self._gate.pauses
        try:
            created = self._create(client, group)
        except FilesApiError as error:
            if isinstance(error, RefusedError) and not isinstance(error, PATIENCE):
                # Whose fault it is shows once each goes alone.
                self._alone.update(file.id for file, _ in group)
                for _, copy in group:
                    self._unsent(copy)
            else:
                for number, (file, copy) in enumerate(group):
                    self._failed(file, copy, error, pauses, tell_gate=number == 0)
            return {file.id: None for file, _ in group}
        return {file.id: made for (file, _), made in zip(group, created, strict=True)}

    def _create(
        self,
        client: FilesClient,
        group: Sequence[tuple[File, Copy]],
        on_answer: Callable[[Answer], None] = lambda _: None,
    ) -> Sequence[FileUpload]:
        """Reserve objects of one workspace, and record their uuids before anything is sent."""
        created = client.create(
            [
                NewFile(local_file_path=self._name(file, copy), content_type=copy.content_type)
                for file, copy in group
            ],
            workspace_uuid=group[0][1].workspace_uuid,
            on_answer=on_answer,
        ).files
        known = [
            (copy.id, made.file_uuid)
            for (_, copy), made in zip(group, created, strict=True)
            if made.file_uuid is not None and made.file_url is not None
        ]

        def record(db: Transaction) -> None:
            for copy_id, file_uuid in known:
                self._ledger.reserved(db, copy_id, file_uuid)

        self._store.write(record)
        return created

    def _name(self, file: File, copy: Copy) -> str:
        return sent_name(file.path, copy.token if self._options.token else None)

    def _may_send(self, file: File, copy: object) -> bool:
        return isinstance(copy, Copy) and self.admits(file)

    def carry(
        self, client: FilesClient, prepared: Prepared, reserved: FileUpload | None = None
    ) -> Sent | None:
        """Send a prepared file, if its intent led to a copy; None where nothing is left to tell.

        `reserved` is its object, where `reserve` has made one.
        """
        begun = prepared.begun.result()
        if isinstance(begun, Elsewhere):
            offer = replace(prepared.offer, vacated=self._vacated(begun.files))
            begun = self._begin(offer).result()
        if not isinstance(begun, Copy):
            return None
        stopped = self._stop.wait(self._gate.pace.seconds_until_turn())
        if stopped or not self._may_send(prepared.file, begun):
            # Another file has just learnt that nothing may be sent now.
            self._unsent(begun)
            return None
        try:
            return self._send(client, prepared.file, begun, prepared.descriptor, reserved)
        except (FileChangedError, UnreadableError) as error:
            # The last byte was held back: the service has nothing of it.
            self._unsent(begun)
            self._record_unsendable(prepared.file, error)
            return None
        except ShortageError:
            # Likewise: only the disk was out of reach, and it is read before the last byte goes.
            self._unsent(begun)
            raise

    def _unsent(self, copy: Copy) -> None:
        now = self._clock()
        self._store.write(lambda db: self._ledger.not_sent(db, copy.id, now))

    def _method(self, size: int, *, is_video: bool) -> str:
        """Choose how to send.

        Presigned, where one may choose, for what is long and worth repeating safely, and for all
        of a kind until the service is seen to echo its tokens: without, an unanswered direct
        upload could neither be found nor be sent again. One small file is sent direct to learn it.
        """
        if size > PRESIGNED_MAX_BYTES or self._options.method == "direct":
            return "direct"
        if self._options.method == "presigned" or size > self._options.direct_max:
            return "presigned"
        if not self._options.token:
            return "presigned"
        if self._is_proven(is_video=is_video):
            return "direct"
        kind = kind_of("direct", is_video=is_video)
        is_learned = self._store.read(lambda db: echo.learned(db, kind)) is not None
        return "presigned" if is_learned or size > PROBE_BYTES else PROBE

    def _is_proven(self, *, is_video: bool) -> bool:
        # Once proven it stays so: only until then is the table asked.
        if is_video not in self._proven and self._store.read(
            lambda db: echo.is_proven(db, "direct", is_video=is_video)
        ):
            self._proven.add(is_video)
        return is_video in self._proven

    def _vacated(self, sources: Iterable[File]) -> list[int]:
        """Return the files whose paths are seen to be vacant: what was there was moved."""
        vacated = []
        for source in sources:
            root = self._roots.get(source.folder)
            if root is None:
                continue
            place, path = (self._store, source.folder, root.path), source.path
            sight = look(*place, [path], marker=root.marker).get(path)
            if sight is not None and sight.found is disk.Found.ABSENT:
                vacated.append(source.id)
        return vacated

    def _send(
        self,
        client: FilesClient,
        file: File,
        copy: Copy,
        descriptor: int,
        reserved: FileUpload | None,
    ) -> Sent | None:
        transfer = InFlight(file.folder, file.path, copy.size, self._clock())
        source = UploadSource(
            fd=descriptor,
            size=copy.size,
            before_last=lambda digest: self._gatekeeper(file, copy, descriptor, digest),
            progress=lambda sent: self._moved(transfer, sent),
        )
        with self._lock:
            self._in_flight[copy.id] = transfer
        pauses = self._gate.pauses
        try:
            stored = self._transfer(client, file, copy, source, transfer, reserved)
        except FilesApiError as error:
            self._failed(file, copy, error, pauses)
            return None
        else:
            self._gate.sent(copy.workspace_uuid, presigned=copy.method == "presigned")
            return self._stored(file, copy, stored, transfer)
        finally:
            with self._lock:
                del self._in_flight[copy.id]

    def _moved(self, transfer: InFlight, sent: int) -> None:
        transfer.sent, transfer.moved_at = sent, self._clock()

    def _gatekeeper(self, file: File, copy: Copy, descriptor: int, digest: str) -> None:
        """Decide whether the last chunk may go: only if what was read is what was promised."""
        if digest != copy.sha256 or disk.fingerprint(descriptor) != file.fingerprint:
            raise FileChangedError(f"{file.shown} changed while it was sent")
        if not self._is_at_home(file):
            raise FileChangedError(f"{file.shown}: its folder was replaced while it was sent")

    def _is_at_home(self, file: File) -> bool:
        """Say whether the folder is the one that the file is known to be in."""
        root = self._roots[file.folder]
        return may_be_sent(self._store, file.folder, root.path, file.path, marker=root.marker)

    def _transfer(
        self,
        client: FilesClient,
        file: File,
        copy: Copy,
        source: UploadSource,
        transfer: InFlight,
        reserved: FileUpload | None,
    ) -> FileUpload:
        def note(answer: Answer) -> None:
            transfer.request_id = answer.request_id

        def note_etag(answer: Answer) -> None:
            transfer.has_etag = "etag" in answer.headers

        if copy.method == "direct":
            return client.upload(
                source,
                name=self._name(file, copy),
                content_type=copy.content_type,
                workspace_uuid=copy.workspace_uuid,
                on_answer=note,
            )
        created = reserved or self._create(client, [(file, copy)], note)[0]
        if created.file_uuid is None or created.file_url is None:
            raise InDoubtError("the answer names no object or no URL", operation="create")
        self._put(client, created.file_url, source, copy, note_etag)
        return created

    def _put(
        self,
        client: FilesClient,
        url: str,
        source: UploadSource,
        copy: Copy,
        on_answer: Callable[[Answer], None],
    ) -> None:
        """Send the content; a storage that asks to wait keeps the record that was reserved."""
        began = self._clock()
        while True:
            pauses = self._gate.pauses
            try:
                client.put(url, source, content_type=copy.content_type, on_answer=on_answer)
            except RateLimitedError as error:
                self._gate.failed(error, pauses=pauses)
                pause = max(self._gate.seconds_shut(), SHORTEST_ASKED_SECONDS)
                if self._clock() + pause > began + RESERVED_SECONDS or self._stop.wait(pause):
                    raise
            else:
                return

    def _stored(
        self, file: File, copy: Copy, answer: FileUpload, transfer: InFlight
    ) -> Sent | None:
        """Hand in the outcome of an upload that was answered, without waiting for its commit."""
        if answer.file_uuid is None:
            failure = Failure("the answer to the upload names no file_uuid")
            look_at = self._clock()
            self._store.write(lambda db: self._ledger.doubt(db, copy.id, failure, look_at))
            return None
        stored = Stored(answer.file_uuid, answer.remote_file_path, answer.processing_status)
        now = self._clock()
        look = now + self._options.first_poll_seconds

        def record(db: Transaction) -> str:
            if copy.method == "presigned":
                # A storage's success proves nothing yet: the service is asked.
                has_etag = transfer.has_etag
                confirming.begin(db, copy.id, stored.remote_file_path, now, has_etag=has_etag)
                return "confirming"
            return self._ledger.stored(db, copy.id, stored, now, look=look)

        became = self._store.submit(record)
        seconds = now - transfer.since
        return Sent(
            file_id=file.id,
            folder=file.folder,
            shown=file.shown,
            file_uuid=answer.file_uuid,
            request_id=transfer.request_id,
            size=copy.size,
            seconds=seconds,
            became=became,
        )

    def _failed(
        self,
        file: File,
        copy: Copy,
        error: FilesApiError,
        pauses: int,
        *,
        tell_gate: bool = True,
    ) -> None:
        failure = Failure(error.message, error.status, error.code, error.request_id)
        if not isinstance(error, Aborted):
            self._tell_gate(file, copy, error, pauses, others_too=tell_gate)
        is_final = self._record_failure(file, copy, error, failure)
        if not isinstance(error, Aborted):
            RETRIES.add(file.folder)
            log.warning(
                "%s: %s",
                file.shown,
                error,
                extra=fields(
                    "upload_failed",
                    folder=file.folder,
                    path=file.shown,
                    bytes=copy.size,
                    status=error.status,
                    # What is final is told of each file.
                    cause=None
                    if is_final
                    else error_text(error.message, error.status, error.code, None),
                    request_id=error.request_id,
                ),
            )

    def _tell_gate(
        self, file: File, copy: Copy, error: FilesApiError, pauses: int, *, others_too: bool
    ) -> None:
        at_storage = error.operation == "put" and not isinstance(error, RateLimitedError)
        if at_storage:
            self._gate.not_stored(file.id, error)
        if others_too and (not at_storage or error.retry_after is not None):
            self._gate.failed(error, pauses=pauses)
        if isinstance(error, ForbiddenError) and not at_storage:
            self._gate.forbidden(copy.workspace_uuid)

    def _record_failure(
        self, file: File, copy: Copy, error: FilesApiError, failure: Failure
    ) -> bool:
        """Record what a failure means for its copy; return whether it is final."""
        now = self._clock()
        record = self._ledger.not_sent
        if isinstance(error, Aborted) and isinstance(error, NotSentError):
            self._store.write(lambda db: record(db, copy.id, now))
        elif isinstance(error, NotSentError):
            again_at = now + backoff_seconds(copy.attempts, asked=error.retry_after)
            self._store.write(
                lambda db: record(db, copy.id, now, failure=failure, again_at=again_at)
            )
        elif isinstance(error, PATIENCE):
            again_at = now + self._gate.seconds_shut()
            self._store.write(
                lambda db: record(
                    db, copy.id, now, failure=failure, again_at=again_at, counts=False
                )
            )
        elif isinstance(error, RefusedError) and not isinstance(error, ConflictError):
            return self._turned_away(file, copy, error, failure)
        else:
            # A conflict may be with what arrived of this very copy: it is looked up.
            self._store.write(lambda db: self._ledger.doubt(db, copy.id, failure, now))
        return False

    def _turned_away(self, file: File, copy: Copy, error: RefusedError, failure: Failure) -> bool:
        now, refusals = self._clock(), self._gate.refusals
        passed_at = refusals.passed_at(copy.workspace_uuid)
        is_final = self._store.write(
            lambda db: self._ledger.turned_away(
                db,
                copy.id,
                failure,
                now,
                enveloped=error.enveloped and error.operation != "put",
                passed_at=passed_at,
            )
        )
        refusals.refused(copy.workspace_uuid, file.id, error, self._ledger)
        return is_final
