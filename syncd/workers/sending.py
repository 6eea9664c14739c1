"""Sending a file whose intent is committed: direct, or to a storage by a presigned URL."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from syncd import disk
from syncd.exceptions import FileChangedError, ShortageError, StandstillError, UnreadableError
from syncd.files_api import (
    Answer,
    FilesApiError,
    FilesClient,
    FileUpload,
    InDoubtError,
    NewFile,
    RateLimitedError,
    RefusedError,
    StopFlag,
    UploadSource,
    sent_name,
)
from syncd.state.backoff import SHORTEST_ASKED_SECONDS
from syncd.state.copies import Copy
from syncd.state.database.store import Store, Transaction
from syncd.state.files import File
from syncd.state.ledger import Failure, Ledger, Stored
from syncd.workers.failed_uploads import FailedUploads
from syncd.workers.gate import Gate
from syncd.workers.preparation import Preparation, Prepared
from syncd.workers.refusals import NOT_ABOUT_THE_FILE
from syncd.workers.transfers import Transfer, Transfers

#: Seconds for which a reserved record is kept for a storage that asks to wait: a presigned URL is
#: valid for half an hour, and the content takes its time.
RESERVED_SECONDS = 1200.0
#: Seconds between two looks whether the state takes commits again.
TROUBLE_SECONDS = 0.2


class SentCopy(NamedTuple):
    """An upload that was answered, and is to be recorded."""

    file: File
    copy: Copy
    stored: Stored
    transfer: Transfer
    seconds: float


@dataclass(kw_only=True, eq=False)
class Sending:
    """Sends what `Preparation` has prepared. Thread-safe; errors are the caller's."""

    store: Store
    ledger: Ledger
    gate: Gate
    with_token: bool
    clock: Callable[[], float]
    stop: StopFlag
    preparation: Preparation
    transfers: Transfers
    failures: FailedUploads
    #: files that were refused together with others, and go alone from then on
    _alone: set[int] = field(default_factory=set, init=False)

    def reserve(
        self, client: FilesClient, prepared: Sequence[Prepared]
    ) -> dict[int, FileUpload | None]:
        """Reserve objects for all that is sent presigned, in one request for each workspace.

        Return what was reserved by file id; None for a file that is finished with.
        """
        reserved: dict[int, FileUpload | None] = {}
        by_workspace: dict[str | None, list[tuple[File, Copy]]] = {}
        for one in prepared:
            if one.offer.method == "direct":
                continue
            copy = one.begun.result()
            together = one.file.id not in self._alone and self.preparation.admits(one.file)
            if isinstance(copy, Copy) and copy.method == "presigned" and together:
                by_workspace.setdefault(copy.workspace_uuid, []).append((one.file, copy))
        for group in by_workspace.values():
            if len(group) > 1:
                reserved |= self._reserve(client, group)
        return reserved

    def _reserve(
        self, client: FilesClient, group: Sequence[tuple[File, Copy]]
    ) -> dict[int, FileUpload | None]:
        rests = self.gate.rests
        try:
            created = self._create(client, group)
        except FilesApiError as error:
            if isinstance(error, RefusedError) and not isinstance(error, NOT_ABOUT_THE_FILE):
                # Sent one by one, the file at fault shows.
                self._alone.update(file.id for file, _ in group)
                for _, copy in group:
                    self.failures.unsent(copy)
            else:
                for number, (file, copy) in enumerate(group):
                    self.failures.record(file, copy, error, rests, tell_gate=number == 0)
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
                self.ledger.reserved(db, copy_id, file_uuid)

        self.store.write(record)
        return created

    def _name(self, file: File, copy: Copy) -> str:
        return sent_name(file.path, copy.token if self.with_token else None)

    def withdraw(self, prepared: Sequence[Prepared]) -> None:
        """Record that files are not sent after all, though their intents are committed."""
        now = self.clock()
        begun = [copy for one in prepared if isinstance(copy := one.begun.result(), Copy)]

        def record(db: Transaction) -> None:
            for copy in begun:
                self.ledger.not_sent(db, copy.id, now)

        self.store.write(record)

    def send(
        self, client: FilesClient, prepared: Prepared, reserved: FileUpload | None = None
    ) -> SentCopy | None:
        """Send a prepared file once its intent is committed; None if nothing is left to record.

        `reserved` is its object, where `reserve` has made one.
        """
        file, copy = prepared.file, self.preparation.begun(prepared)
        if not isinstance(copy, Copy):
            return None
        stopped = self.stop.wait(self.gate.pace.seconds_until_turn())
        while self.store.writer.in_trouble and not stopped:
            # Its outcome could not be recorded; the promise to send it keeps.
            stopped = self.stop.wait(TROUBLE_SECONDS)
        if stopped or not self.preparation.admits(file):
            # The upload of another file has just shown that nothing may be sent now.
            self.failures.unsent(copy)
            return None
        try:
            return self._send(client, file, copy, prepared.descriptor, reserved)
        except (FileChangedError, UnreadableError) as error:
            # The last byte was held back: the service has nothing of it.
            self.failures.unsent(copy)
            self.preparation.record_unsendable(file, error)
            return None
        except StandstillError:
            self.failures.unsent(copy)
            return None
        except ShortageError:
            # Likewise: only the disk was out of reach, and it is read before the last byte goes.
            self.failures.unsent(copy)
            raise

    def _send(
        self,
        client: FilesClient,
        file: File,
        copy: Copy,
        descriptor: int,
        reserved: FileUpload | None,
    ) -> SentCopy | None:
        rests = self.gate.rests
        with self.transfers.under_way(file, copy.size) as transfer:
            source = UploadSource(
                fd=descriptor,
                size=copy.size,
                before_last=lambda digest: self._gatekeeper(file, copy, descriptor, digest),
                progress=lambda sent: self._moved(transfer, sent),
                on_rest=lambda seconds: self._rested(transfer, seconds),
            )
            try:
                answer = self._transfer(client, file, copy, source, transfer, reserved)
            except FilesApiError as error:
                self.failures.record(file, copy, error, rests)
                return None
        self.gate.sent(copy.workspace_uuid, presigned=copy.method == "presigned")
        if answer.file_uuid is None:
            failure = Failure("the answer to the upload names no file_uuid")
            look_at = self.clock()
            self.store.write(self.ledger.doubt, copy.id, failure, look_at)
            return None
        stored = Stored(answer.file_uuid, answer.remote_file_path, answer.processing_status)
        return SentCopy(file, copy, stored, transfer, self.clock() - transfer.since)

    def _moved(self, transfer: Transfer, sent: int) -> None:
        self.transfers.moved(transfer, sent)
        if sent < transfer.size:
            self._refuse_at_standstill(transfer.folder)

    def _rested(self, transfer: Transfer, seconds: float) -> None:
        transfer.rested += seconds
        self._refuse_at_standstill(transfer.folder)

    def _refuse_at_standstill(self, folder: str) -> None:
        """Raise StandstillError if a folder is at a standstill: its last byte has not left."""
        if self.gate.is_at_standstill(folder):
            raise StandstillError(f"{folder} is at a standstill")

    def _gatekeeper(self, file: File, copy: Copy, descriptor: int, digest: str) -> None:
        """Decide whether the last chunk may go: only if what was read is what was promised."""
        if digest != copy.sha256 or disk.fingerprint(descriptor) != file.fingerprint:
            raise FileChangedError(f"{file.shown} changed while it was sent")
        self._refuse_at_standstill(file.folder)
        if not self.preparation.is_at_home(file):
            raise FileChangedError(f"{file.shown}: its folder was replaced while it was sent")

    def _transfer(
        self,
        client: FilesClient,
        file: File,
        copy: Copy,
        source: UploadSource,
        transfer: Transfer,
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
        began = self.clock()
        while True:
            rests = self.gate.rests
            try:
                client.put(url, source, content_type=copy.content_type, on_answer=on_answer)
            except RateLimitedError as error:
                self.failures.overloaded(error)
                self.gate.failed(error, rests=rests)
                pause = max(self.gate.seconds_shut(), SHORTEST_ASKED_SECONDS)
                if self.clock() + pause > began + RESERVED_SECONDS or self.stop.wait(pause):
                    raise
            else:
                return
