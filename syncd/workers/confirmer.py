"""Confirms presigned uploads: a copy goes live once the service reports its size.

Many copies are confirmed by one listing, a few by a request each, on a budget of their own. If a
service never reports sizes, syncd learns that, and the storage's word has to do.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from syncd.files_api import FilesApiError, FilesClient
from syncd.log import fields
from syncd.state import confirming, files
from syncd.state.backoff import backoff_seconds
from syncd.state.confirming import SIZES, TOLD
from syncd.state.copies import Copy
from syncd.state.database.store import Store, Transaction
from syncd.state.ledger import Arrival, Failure, Ledger, Stored
from syncd.units import counted
from syncd.workers.confirmation import Confirmation, Told
from syncd.workers.gate import Gate
from syncd.workers.key_check import may_list

log = logging.getLogger(__name__)

#: Copies confirmed in one step at most, those of them that no listing shows, and steps a second:
#: they share the service with uploads.
BATCH, ALONE, STEPS_PER_SECOND = 4000, 400, 4.0
#: Seconds between two looks at the same copy, at least and at most.
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 1.0, 30.0
#: Answers that prove that the bytes arrived.
_ARRIVED = (Told.WHOLE, Told.PROCESSED)
_UNCONFIRMED = "the storage took it, and the service does not hold it"
_NO_STORAGE = (
    "something took it that gave no ETag, as a portal or a proxy in the storage's place, and the "
    "service does not hold it"
)


@dataclass(frozen=True, slots=True)
class ConfirmOptions:
    """How long the service may take to know what a storage took, in seconds."""

    resend_after_seconds: float = 120.0
    first_poll_seconds: float = 2.0


@dataclass(kw_only=True, eq=False)
class Confirmer:
    """The stage after a presigned upload: `step` confirms what is due."""

    store: Store
    ledger: Ledger
    client: FilesClient
    gate: Gate
    options: ConfirmOptions
    clock: Callable[[], float]
    #: waits so many seconds; returns True if the daemon is to stop
    pause: Callable[[float], bool]

    def __post_init__(self) -> None:
        self._confirmation = Confirmation(client=self.client, gate=self.gate)
        self._tells_sizes = False

    def step(self) -> float | None:
        """Confirm what is due; return the seconds until more is."""
        if shut := self.gate.seconds_shut_for_all():
            return shut
        now = self.clock()
        found = self.store.read(confirming.due, now, BATCH)
        if found:
            self._record(found, self._confirmation.ask(found, alone=ALONE))
            # Copies that storages take meanwhile are confirmed together.
            if self.pause(1.0 / STEPS_PER_SECOND):
                return None
        next_at = self.store.read(confirming.next_due)
        return None if next_at is None else max(next_at - self.clock(), 0.0)

    def _record(self, found: list[Copy], told: Mapping[int, Told | None]) -> None:
        """Record the answers; all whole copies share one commit."""
        asked = [(copy, told[copy.id]) for copy in found if copy.id in told]
        if arrived := [copy for copy, said in asked if said in _ARRIVED]:
            self._note_sizes([copy for copy, said in asked if said is Told.WHOLE])
            self._live(arrived)
        if unanswered := [copy for copy, said in asked if said is None]:
            self._look_later(unanswered, LONGEST_LOOK_SECONDS)
        for copy, said in asked:
            if said is not None and said not in _ARRIVED:
                self._not_whole(copy, said)

    def _note_sizes(self, whole: list[Copy]) -> None:
        if not self._tells_sizes and any(not copy.is_video for copy in whole):
            if self.store.fact(SIZES) != TOLD:
                self.store.write(confirming.told)
            self._tells_sizes = True

    def _live(self, whole: list[Copy]) -> None:
        now = self.clock()
        look = now + self.options.first_poll_seconds

        arrivals = [Arrival(copy.id, _stored(copy), now, look) for copy in whole]
        states = self.store.write(self.ledger.stored_all, arrivals)
        sent = self.store.read(lambda db: [files.existing(db, copy.file_id) for copy in whole])
        for copy, file, became in zip(whole, sent, states, strict=True):
            log.info(
                "%s: %s, %s (%s)",
                file.shown,
                became,
                copy.file_uuid,
                counted(copy.size, "byte"),
                extra=fields(
                    "confirmed",
                    folder=file.folder,
                    path=file.shown,
                    status=became,
                    file_uuid=copy.file_uuid,
                    bytes=copy.size,
                ),
            )

    def _not_whole(self, copy: Copy, told: Told) -> None:
        """Wait for a copy that is not confirmed yet, or give it up and let it be planned anew."""
        waited = self.clock() - (copy.doubted_at or copy.sent_at or 0.0)
        # Don't wait for a transfer that failed: its bytes may be sent again.
        patience = 0.0 if copy.error_message else self.options.resend_after_seconds
        may_come = told in (Told.NOTHING_YET, Told.NO_SIZE)
        if told is Told.NO_SIZE and self._is_believed(copy):
            self._live([copy])
        elif may_come and 0 <= waited < patience:
            pause = min(max(waited, LOOK_SECONDS), LONGEST_LOOK_SECONDS, patience - waited)
            self._look_later([copy], pause)
        elif told is Told.NOT_FOUND and not may_list(self.client, self.gate, copy.workspace_uuid):
            self._look_later([copy], LONGEST_LOOK_SECONDS)
        elif told is Told.NO_SIZE and not copy.error_message and self._learns_none(copy):
            self._live([copy])
        else:
            self._send_anew(copy)

    def _is_believed(self, copy: Copy) -> bool:
        return not self._tells_sizes and self.store.read(confirming.may_be_believed, copy=copy)

    def _learns_none(self, copy: Copy) -> bool:
        """Return whether a copy without a size counts as stored, because none is ever told.

        If any other object has a size, this one has no bytes.
        """
        if self.store.fact(SIZES) == TOLD:
            return False
        try:
            samples = self.store.read(confirming.samples, copy)
            shown = self._confirmation.ask(samples).values()
            page = self.client.list(workspace_uuid=copy.workspace_uuid, limit=100)
        except FilesApiError as error:
            self.gate.failed(error)
            return False
        if Told.WHOLE in shown or any(item.file_size_bytes for item in page.items):
            self.store.write(confirming.told)
            return False
        is_certain = Told.NO_SIZE in shown
        if not self.store.write(confirming.ended_untold, copy=copy, is_certain=is_certain):
            return False
        log.warning("the service tells no sizes: uploads are believed on the storage's word")
        return confirming.is_by_storage(copy)

    def _send_anew(self, copy: Copy) -> None:
        """Retire what was reserved, and have the file sent anew after a pause."""
        now = self.clock()
        file = self.store.read(files.existing, copy.file_id)
        unconfirmed = _UNCONFIRMED if confirming.is_by_storage(copy) else _NO_STORAGE
        failure = Failure(copy.error_message or unconfirmed, copy.error_status, copy.error_code)
        again_at = now + backoff_seconds(max(copy.attempts, file.attempts + 1))
        self.store.write(self.ledger.not_sent, copy.id, now, failure=failure, again_at=again_at)
        log.warning(
            "%s: %s (%s); it is sent again",
            file.shown,
            failure.message,
            copy.file_uuid,
            extra=fields("unconfirmed", folder=file.folder, path=file.shown, cause=_UNCONFIRMED),
        )

    def _look_later(self, found: list[Copy], seconds: float) -> None:
        at = self.clock() + seconds

        def put_off(db: Transaction) -> None:
            for copy in found:
                self.ledger.look_later(db, copy, at)

        self.store.write(put_off)


def _stored(copy: Copy) -> Stored:
    return Stored(
        copy.file_uuid or "",
        copy.remote_file_path,
        # Only its status tells how far a video is.
        "pending" if copy.is_video else None,
    )
