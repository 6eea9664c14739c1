"""Sends what is due: hash, commit the intent, send, commit the outcome.

The step only hands out work; uploads run on threads of their own, each with its own client, so
that a disk that hangs or a server that stalls holds up one of them and nothing else.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from syncd import disk
from syncd.exceptions import FileChangedError, StateError, UnreadableError
from syncd.files_api import (
    Aborted,
    FilesApiError,
    FilesClient,
    FileUpload,
    InDoubtError,
    NewFile,
    NotSentError,
    RefusedError,
    StopFlag,
    UploadSource,
    content_type_for,
    sent_name,
)
from syncd.state import due
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.ledger import Declined, Elsewhere, Failure, Ledger, Offer, Stored
from syncd.state.retry import backoff_seconds
from syncd.state.store import Store
from syncd.workers.gate import PATIENCE, Gate

log = logging.getLogger(__name__)

#: Files handed out ahead for each thread, so that none waits for the next step.
AHEAD = 32
#: The service stores no larger object by a presigned PUT (S3's own limit for one PUT).
PRESIGNED_MAX_BYTES = 5 << 30


@dataclass(frozen=True, slots=True)
class Root:
    """Where a folder's files are, and how long they take to settle, in seconds."""

    path: bytes
    settle_seconds: float
    workspace_uuid: str | None


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


class _Sent(NamedTuple):
    """An upload that was answered, and whose outcome is being committed."""

    file_id: int
    shown: str
    file_uuid: str
    size: int
    seconds: float
    became: "Future[str]"


class Uploader:
    """The upload stage: `step` hands out what is due, threads send it."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        roots: Mapping[str, Root],
        make_client: Callable[[StopFlag], FilesClient],
        gate: Gate,
        options: UploadOptions,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._roots = roots
        self._make_client = make_client
        self._gate = gate
        self._options = options
        self._clock = clock
        self._stop = StopFlag()
        self._queue: queue.SimpleQueue[File | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._taken: set[int] = set()
        self._unknown: set[int] = set()
        self._in_flight: dict[int, InFlight] = {}
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the upload threads."""
        for number in range(self._options.workers):
            thread = threading.Thread(target=self._work, name=f"syncd-upload-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, drain_seconds: float) -> None:
        """Let transfers finish for `drain_seconds`, then abort the rest before their last byte."""
        for _ in self._threads:
            self._queue.put(None)
        patience = threading.Timer(drain_seconds, self._stop.set)
        patience.start()
        try:
            for thread in self._threads:
                thread.join()
        finally:
            patience.cancel()
            patience.join()
        self._threads.clear()

    def hurry(self) -> None:
        """Abort every transfer that has not released its last byte."""
        self._stop.set()

    def transfers(self) -> list[InFlight]:
        """Return the transfers under way, oldest first."""
        with self._lock:
            return sorted(self._in_flight.values(), key=lambda transfer: transfer.since)

    @property
    def busy(self) -> bool:
        """Whether anything is handed out and not finished."""
        with self._lock:
            return bool(self._taken)

    def step(self) -> float | None:
        """Hand out what is due while there is room; return the seconds until more may be."""
        self._clear_unknown()
        self._gate.end_rest()
        if not self._gate.may_send():
            return max(self._gate.seconds_shut(), 1.0)
        with self._lock:
            taken = set(self._taken)
        room = self._options.workers * AHEAD - len(taken)
        if room <= 0:
            return None
        now = self._clock()
        for file in self._store.read(lambda db: due.uploads(db, now, room + len(taken))):
            if file.id not in taken:
                with self._lock:
                    self._taken.add(file.id)
                self._queue.put(file)
        next_at = self._store.read(lambda db: due.next_upload(db, now))
        return None if next_at is None else max(next_at - now, 0.0)

    def _clear_unknown(self) -> None:
        """Bring rows whose last commit failed back under a worker's care: they are in doubt."""
        with self._lock:
            unknown = list(self._unknown)
        for file_id in unknown:
            self._abandon(file_id)
            with self._lock:
                self._unknown.discard(file_id)
                self._taken.discard(file_id)

    def _abandon(self, file_id: int) -> None:
        now = self._clock()
        self._store.write(lambda db: self._ledger.abandon(db, file_id, now))

    def _work(self) -> None:
        client = self._make_client(self._stop)
        sent: _Sent | None = None
        try:
            while True:
                if sent is not None and self._queue.empty():
                    self._settle(sent)
                    sent = None
                file = self._queue.get()
                if file is None:
                    break
                now_sent = self._serve(client, file)
                # The last outcome was committed while this file was hashed and sent.
                if sent is not None:
                    self._settle(sent)
                sent = now_sent
        finally:
            if sent is not None:
                self._settle(sent)
            client.close()

    def _serve(self, client: FilesClient, file: File) -> "_Sent | None":
        """Bring one file as far as it goes now; its outcome, if it is not committed yet."""
        sent = None
        try:
            if not self._stop.is_set():
                sent = self._upload(client, file)
        except Exception as error:
            # Whatever stood in the way of one file must not take the thread, nor spin.
            if isinstance(error, StateError):
                log.error("%s: not recorded, tried again later: %s", _shown(file), error)
            else:
                log.exception("%s: unexpected failure, tried again later", _shown(file))
            self._put_off(file.id)
            # What it may have left in flight is in doubt: the next step says so in the table.
            with self._lock:
                self._unknown.add(file.id)
            return None
        if sent is None:
            with self._lock:
                self._taken.discard(file.id)
        return sent

    def _settle(self, sent: "_Sent") -> None:
        """Wait until an outcome is committed, and tell of it."""
        try:
            became = sent.became.result()
        except StateError as error:
            log.error("%s: stored, and not recorded: %s; looked up later", sent.shown, error)
            with self._lock:
                self._unknown.add(sent.file_id)
            return
        with self._lock:
            self._taken.discard(sent.file_id)
        log.info(
            "%s: %s, %s (%d bytes in %.1f s)",
            sent.shown,
            became,
            sent.file_uuid,
            sent.size,
            sent.seconds,
        )

    def _put_off(self, file_id: int) -> None:
        until = self._clock() + backoff_seconds(6)
        with suppress(StateError):
            self._store.write(lambda db: self._ledger.put_off(db, file_id, until))

    def _upload(self, client: FilesClient, file: File) -> "_Sent | None":
        if file.folder not in self._roots:
            return None
        root = self._roots[file.folder]
        try:
            with disk.open_beneath(root.path, file.path) as descriptor:
                copy = self._intend(file, descriptor)
                return self._send(client, file, copy, descriptor) if copy else None
        except FileChangedError:
            again_at = self._clock() + root.settle_seconds
            self._store.write(lambda db: self._ledger.unsettle(db, file.id, again_at))
        except UnreadableError as error:
            message, again_at = str(error), self._clock() + backoff_seconds(file.attempts + 1)
            log.warning("%s: %s; tried again later", _shown(file), message)
            self._store.write(lambda db: self._ledger.unreadable(db, file.id, message, again_at))
        return None

    def _intend(self, file: File, descriptor: int) -> Copy | None:
        """Hash the file and commit the intent to send it; None where nothing is to be sent."""
        before = disk.fingerprint(descriptor)
        if before != file.fingerprint:
            raise FileChangedError(f"{_shown(file)} changed")
        digest = file.sha256
        if digest is None:
            digest = disk.sha256(descriptor, before.size, stopped=self._stop.is_set)
            if digest is None:
                return None
            if disk.fingerprint(descriptor) != before:
                raise FileChangedError(f"{_shown(file)} changed while it was read")
        offer = Offer(
            file_id=file.id,
            fingerprint=before,
            sha256=digest,
            content_type=content_type_for(file.path),
            method=self._method(before.size),
        )
        begun = self._begin(offer)
        if isinstance(begun, Elsewhere):
            begun = self._begin(replace(offer, vacated=self._vacated(begun.files)))
        return begun if isinstance(begun, Copy) else None

    def _begin(self, offer: Offer) -> Copy | Elsewhere | Declined:
        now = self._clock()
        return self._store.write(lambda db: self._ledger.begin(db, offer, now))

    def _method(self, size: int) -> str:
        """Choose how to send; presigned where a transfer is long and worth repeating safely."""
        if self._options.method != "auto":
            presigned = self._options.method == "presigned" and size <= PRESIGNED_MAX_BYTES
            return "presigned" if presigned else "direct"
        return "presigned" if self._options.direct_max < size <= PRESIGNED_MAX_BYTES else "direct"

    def _vacated(self, sources: Iterable[File]) -> list[int]:
        """Return the files whose paths are seen to be vacant: what was there was moved."""
        vacated = []
        for source in sources:
            root = self._roots.get(source.folder)
            if root is None:
                continue
            if disk.look(root.path, [source.path])[source.path].found is disk.Found.ABSENT:
                vacated.append(source.id)
        return vacated

    def _send(self, client: FilesClient, file: File, copy: Copy, descriptor: int) -> "_Sent | None":
        transfer = InFlight(file.folder, file.path, copy.size, self._clock())
        source = UploadSource(
            fd=descriptor,
            size=copy.size,
            before_last=lambda digest: self._gatekeeper(file, copy, descriptor, digest),
            progress=lambda sent: setattr(transfer, "sent", sent),
        )
        with self._lock:
            self._in_flight[copy.id] = transfer
        try:
            stored = self._transfer(client, file, copy, source)
        except (FileChangedError, UnreadableError):
            # The last byte was held back: the service has nothing of it.
            now = self._clock()
            self._store.write(lambda db: self._ledger.not_sent(db, copy.id, now))
            raise
        except FilesApiError as error:
            self._failed(file, copy, error)
            return None
        else:
            self._gate.succeeded()
            return self._stored(file, copy, stored, transfer)
        finally:
            with self._lock:
                del self._in_flight[copy.id]

    def _gatekeeper(self, file: File, copy: Copy, descriptor: int, digest: str) -> None:
        """Decide whether the last chunk may go: only if what was read is what was promised."""
        if digest != copy.sha256 or disk.fingerprint(descriptor) != file.fingerprint:
            raise FileChangedError(f"{_shown(file)} changed while it was sent")

    def _transfer(
        self, client: FilesClient, file: File, copy: Copy, source: UploadSource
    ) -> FileUpload:
        name = sent_name(file.path, copy.token if self._options.token else None)
        if copy.method == "direct":
            return client.upload(
                source,
                name=name,
                content_type=copy.content_type,
                workspace_uuid=copy.workspace_uuid,
            )
        created = client.create(
            [NewFile(local_file_path=name, content_type=copy.content_type)],
            workspace_uuid=copy.workspace_uuid,
        ).files[0]
        if created.file_uuid is None or created.file_url is None:
            raise InDoubtError("the answer names no object or no URL", operation="create")
        uuid, url = created.file_uuid, created.file_url
        self._store.write(lambda db: self._ledger.reserved(db, copy.id, uuid))
        client.put(url, source, content_type=copy.content_type)
        return created

    def _stored(
        self, file: File, copy: Copy, answer: FileUpload, transfer: InFlight
    ) -> "_Sent | None":
        """Hand in the outcome of an upload that was answered, without waiting for its commit."""
        if answer.file_uuid is None:
            failure = Failure("the answer to the upload names no file_uuid")
            look_at = self._clock()
            self._store.write(lambda db: self._ledger.doubt(db, copy.id, failure, look_at))
            return None
        status = answer.processing_status
        if copy.method == "presigned" and copy.content_type.startswith("video/"):
            # What the create answer said of a video was said before its bytes were there.
            status = "pending"
        stored = Stored(answer.file_uuid, answer.remote_file_path, status)
        now = self._clock()
        look = now + self._options.first_poll_seconds
        became = self._store.submit(
            lambda db: self._ledger.stored(db, copy.id, stored, now, look=look)
        )
        seconds = now - transfer.since
        return _Sent(file.id, _shown(file), answer.file_uuid, copy.size, seconds, became)

    def _failed(self, file: File, copy: Copy, error: FilesApiError) -> None:
        failure = Failure(error.message, error.status, error.code, error.request_id)
        now = self._clock()
        tries = max(copy.attempts, file.attempts + 1)
        again_at = now + backoff_seconds(tries, asked=error.retry_after)
        if not isinstance(error, Aborted):
            self._gate.failed(error)
            log.warning("%s: %s", _shown(file), error)
        if isinstance(error, NotSentError):
            stopped = isinstance(error, Aborted)
            self._store.write(
                lambda db: self._ledger.not_sent(
                    db,
                    copy.id,
                    now,
                    failure=None if stopped else failure,
                    again_at=now if stopped else again_at,
                )
            )
        elif isinstance(error, PATIENCE) or (
            isinstance(error, RefusedError) and error.operation == "put"
        ):
            # A presigned URL that is refused has expired, most likely: nothing is wrong with the
            # file, and the object that was reserved is given up.
            self._store.write(
                lambda db: self._ledger.not_sent(
                    db, copy.id, now, failure=failure, again_at=again_at
                )
            )
        elif isinstance(error, RefusedError):
            self._store.write(lambda db: self._ledger.refused(db, copy.id, failure, now))
        else:
            self._store.write(lambda db: self._ledger.doubt(db, copy.id, failure, now))


def _shown(file: File) -> str:
    return os.fsdecode(file.path).encode("utf-8", "backslashreplace").decode()
