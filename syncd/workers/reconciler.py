"""Settles doubts: looks for the copies whose requests got no answer, by their tokens.

Listings are read only at the start, while an attempt is unanswered, and to learn how the service
shows what it stored.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from syncd.files_api import (
    FileDetail,
    FilesApiError,
    FilesClient,
    Listing,
    NotFoundError,
)
from syncd.state import attempts, copies, due, echo, files, holds, texts
from syncd.state.attempts import Attempt
from syncd.state.copies import Copy
from syncd.state.database.store import Store, Transaction
from syncd.state.echo import Learned
from syncd.state.files import File
from syncd.state.ledger import Ledger, Stored
from syncd.state.lifecycle import CopyStatus
from syncd.state.planner import Policy
from syncd.workers.echo_learning import EchoLearning, echoed_size
from syncd.workers.gate import Gate
from syncd.workers.gate_probe import GateProbe
from syncd.workers.organization_check import OrganizationCheck
from syncd.workers.patience import Throttle
from syncd.workers.predecessor import OnNew, PredecessorCheck
from syncd.workers.probe_objects import ProbeObjects
from syncd.workers.rollback import RollbackCheck
from syncd.workers.search import Search

log = logging.getLogger(__name__)

#: Seconds between two looks for the same doubt, at least.
LOOK_SECONDS = 5.0
#: Seconds between two tries to check the state at the start: nothing is sent before.
CHECK_SECONDS = 1.0
#: Seconds between two looks while the request may still arrive, at most.
RELOOK_SECONDS = 30.0
#: Seconds between two looks for an upload that may not be sent again.
HELD_LOOK_SECONDS = 3600.0
#: Seconds between two tries to delete what a probe of the service left.
PROBE_OBJECTS_SECONDS = 600.0
#: Doubts of the last hour share a listing; older ones have one of their own.
RECENT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """How long a request may still arrive after it was sent, in seconds."""

    resend_after_seconds: float = 120.0
    first_poll_seconds: float = 2.0


@dataclass(kw_only=True, eq=False)
class Reconciler:
    """The stage that looks: `step` settles what is in doubt."""

    store: Store
    ledger: Ledger
    client: FilesClient
    gate: Gate
    organization_check: OrganizationCheck
    options: ReconcileOptions
    clock: Callable[[], float]
    policies: Mapping[str, Policy] | None = None
    #: what a new ledger does about files that another instance sent: `adopt` takes them up
    on_new: OnNew = "hold"
    adopt: Callable[[str], None] = lambda _: None
    hashed: Callable[[File], File] = lambda file: file

    def __post_init__(self) -> None:
        self._search = Search(
            store=self.store,
            client=self.client,
            organization_check=self.organization_check,
            clock=self.clock,
        )
        self._predecessor = PredecessorCheck(
            store=self.store,
            gate=self.gate,
            search=self._search,
            policies=self.policies or {},
            on_new=self.on_new,
            adopt=self.adopt,
            hashed=self.hashed,
            clock=self.clock,
        )
        self._rollback = RollbackCheck(
            store=self.store,
            client=self.client,
            gate=self.gate,
            search=self._search,
            policies=self.policies or {},
            clock=self.clock,
        )
        #: what probes of the service made
        self.probe_objects = ProbeObjects(
            store=self.store, client=self.client, gate=self.gate, clock=self.clock
        )
        self.lessons = EchoLearning(
            store=self.store,
            ledger=self.ledger,
            gate=self.gate,
            search=self._search,
            clock=self.clock,
        )
        self._gate_probe = GateProbe(
            store=self.store,
            client=self.client,
            gate=self.gate,
            organization_check=self.organization_check,
            clock=self.clock,
        )
        self._throttle = Throttle(self.clock)

    def step(self) -> float | None:
        """Look for what is in doubt; return the seconds until the next look is due.

        Raise ForeignStateError when the key turns out to be another organization's.
        """
        self.gate.release_ended()
        self._gate_probe.ask_for_key()
        if self.gate.organization_known and not self.gate.refused and not self.gate.seconds_shut():
            self._predecessor.step()
            self._rollback.step()
        if shut := self.gate.seconds_shut_for_all():
            return shut
        self._gate_probe.ask_for_service()
        self._gate_probe.judge_workspaces()
        self._settle_due(self.clock())
        if self.probe_objects.left() and self._throttle.may("probe", PROBE_OBJECTS_SECONDS):
            self.probe_objects.step()
        if shut := self.gate.seconds_shut_for_all():
            return shut
        try:
            self.lessons.step()
        except FilesApiError as error:
            self.gate.failed(error)
            log.warning("cannot check yet whether the service echoes names: %s", error)
            return LOOK_SECONDS if self.gate.checked else CHECK_SECONDS
        return self._next_seconds() if self.gate.checked else CHECK_SECONDS

    def _settle_due(self, now: float) -> None:
        """Read a listing for all recent doubts of a workspace as soon as one of them is due."""
        doubts = self.store.read(due.doubts)
        urgent = {copy.id for copy in doubts if (copy.due_at or 0.0) <= now}
        late = self.store.read(attempts.every)
        groups: dict[tuple[str | None, bool], list[Copy]] = {}
        for copy in doubts:
            is_recent = Attempt.of(copy).sent_at > now - RECENT_SECONDS
            groups.setdefault((copy.workspace_uuid, is_recent), []).append(copy)
        for (workspace, _), here in groups.items():
            if not urgent.isdisjoint(copy.id for copy in here):
                others = [a for a in late if a.workspace_uuid == workspace]
                self._try(here, (), partial(self._settle, workspace, here, others))
        for workspace in {a.workspace_uuid for a in late if a.look_at <= now}:
            due_now = [a for a in late if a.workspace_uuid == workspace and a.look_at <= now]
            self._try((), due_now, partial(self._settle, workspace, (), due_now))

    def _try(
        self, doubts: Sequence[Copy], late: Sequence[Attempt], look: Callable[[], None]
    ) -> None:
        """Look; if the service does not answer, put off only these `doubts` and `late` attempts."""
        if self.gate.seconds_shut_for_all():
            return
        try:
            look()
        except FilesApiError as error:
            self.gate.failed(error)
            log.warning("cannot look up unanswered uploads now: %s", error)
            ids, now = {copy.id for copy in doubts}, self.clock()

            def put_off(db: Transaction) -> None:
                for copy in due.doubts(db):
                    if copy.id in ids:
                        self.ledger.look_later(db, copy, now + RELOOK_SECONDS)
                for attempt in late:
                    attempts.put_off(db, attempt, now + HELD_LOOK_SECONDS)

            self.store.write(put_off)

    def _next_seconds(self) -> float | None:
        times = [copy.due_at or 0.0 for copy in self.store.read(due.doubts)]
        times += [attempt.look_at for attempt in self.store.read(attempts.every)]
        return max(min(times) - self.clock(), 0.0) if times else None

    def _settle(
        self, workspace: str | None, doubts: Sequence[Copy], late: Sequence[Attempt]
    ) -> None:
        """Look in one listing for doubts without a uuid, and for unanswered attempts.

        Late attempts count if they are of the same copies or the listing reaches them anyway.
        """
        last = {copy.id: Attempt.of(copy) for copy in doubts}
        since = min((attempt.sent_at for attempt in last.values()), default=0.0)
        late = [a for a in late if a.copy_id in last or a.sent_at >= since]
        seen = self._search.look(workspace, [*last.values(), *late])
        self.gate.succeeded()
        settled: set[str] = set()
        for copy in doubts:
            own = [last[copy.id], *(a for a in late if a.copy_id == copy.id)]
            if found := [a for a in own if a.token in seen.found]:
                # An object with content comes first: an earlier try may have left a record without.
                found.sort(key=lambda a: (not self._is_whole(a, seen.found[a.token]), a.sent_at))
                self._recover(copy, found[0], seen.found[found[0].token])
                settled.add(found[0].token)
            else:
                self._not_found(copy, seen.listing)
        for attempt in (a for a in late if a.token not in settled):
            self._look_late(attempt, seen.found.get(attempt.token), seen.listing)

    def _is_whole(self, attempt: Attempt, item: FileDetail) -> bool:
        """Return whether an object that was found holds what was sent, as far as a listing shows.

        A direct upload is stored whole or not at all. If the service tells sizes, a missing size
        is suspicious.
        """
        if attempt.method != "direct":
            return False
        known = self.store.read(echo.learned, attempt.kind)
        return item.file_size_bytes is not None or known is None or not known.sizes

    def _recover(self, copy: Copy, attempt: Attempt, item: FileDetail) -> None:
        """Record that an object that was found is the copy's own."""
        now = self.clock()
        stored = self._stored(item) if self._is_whole(attempt, item) else None

        def record(db: Transaction) -> str:
            self._note_found(db, attempt, item)
            self._release(db, copy, now)
            self.ledger.attempt_found(db, copy.id, attempt, now)
            if stored is None:
                self.ledger.reserved(db, copy.id, item.file_uuid)
                return "reserved"
            look = now + self.options.first_poll_seconds
            return self.ledger.stored(db, copy.id, stored, now, look=look)

        became = self.store.write(record)
        log.info("recovered unanswered upload %s (now %s)", item.file_uuid, became)
        if stored is None:
            self._settle_reserved(copy._replace(file_uuid=item.file_uuid))

    def _look_late(self, attempt: Attempt, item: FileDetail | None, listing: Listing) -> None:
        """Record what a look showed of an unanswered attempt."""
        now = self.clock()
        copy = self.store.read(copies.get, attempt.copy_id)
        if copy is not None and copy.status is CopyStatus.SENDING:
            # The request that is under way decides.
            if attempt.look_at <= now:
                later = now + RELOOK_SECONDS
                self.store.write(attempts.put_off, attempt, later)
        elif item is not None:
            self._found_late(attempt, item, now)
        elif attempt.look_at <= now:
            pause = now + HELD_LOOK_SECONDS
            self.store.write(
                lambda db: (
                    attempts.looked(db, attempt, now)
                    if listing.complete
                    else attempts.put_off(db, attempt, pause)
                )
            )

    def _found_late(self, attempt: Attempt, item: FileDetail, now: float) -> None:
        whole = self._is_whole(attempt, item)
        stored = self._stored(item) if whole else Stored(item.file_uuid, item.remote_file_path)
        look = now + self.options.first_poll_seconds

        def record(db: Transaction) -> str | None:
            self._note_found(db, attempt, item)
            return self.ledger.found_late(db, attempt, stored, now, whole=whole, look=look)

        became = self.store.write(record)
        log.info("an unanswered upload arrived late: %s (now %s)", item.file_uuid, became)

    def _note_found(self, db: Transaction, attempt: Attempt, item: FileDetail) -> None:
        """Learn that such names are echoed: an object was found by its token."""
        if echo.learned(db, attempt.kind) is None:
            echo.learn(db, attempt.kind, Learned(echo=True, sizes=echoed_size(attempt.size, item)))

    def _stored(self, item: FileDetail) -> Stored:
        status = item.processing_status
        if status is None and (item.content_type or "").startswith("video/"):
            # The object itself says what the listing leaves out.
            status = self.client.get_status(item.file_uuid).processing_status
        # A failed video is processing's outcome: the poller records it.
        status = "processing" if status == "failed" else status
        return Stored(item.file_uuid, item.remote_file_path, status)

    def _settle_reserved(self, copy: Copy) -> None:
        """Check by its uuid whether the content of a reserved object arrived."""
        if copy.file_uuid is None:
            return
        now = self.clock()
        try:
            item = self.client.get(copy.file_uuid)
        except NotFoundError as error:
            if not error.is_the_services:
                raise
            self.client.list(workspace_uuid=copy.workspace_uuid, limit=1)
            item = None
        self.gate.succeeded()
        whole = item is not None and item.file_size_bytes == copy.size
        if item is not None and whole:
            stored, look = self._stored(item), now + self.options.first_poll_seconds
            self.store.write(self.ledger.stored, copy.id, stored, now, look=look)
        else:
            self.store.write(self.ledger.not_sent, copy.id, now)

    def _not_found(self, copy: Copy, listing: Listing) -> None:
        """Conclude absence only from a complete listing, long enough after the last attempt."""
        now = self.clock()
        # A long upload that got no answer may still be carried out a while after its end.
        ended_at = max(copy.sent_at or now, copy.doubted_at or 0.0)
        safe_at = ended_at + self.options.resend_after_seconds
        if now < safe_at:
            self._look_again(copy, min(safe_at, now + RELOOK_SECONDS))
        elif copy.method == "presigned" or (listing.complete and self._is_proven(copy)):
            # A create that did arrive left a record without content: repeating it loses nothing.
            log.info("an unanswered upload never arrived; it is sent again")

            def record(db: Transaction) -> None:
                self._release(db, copy, now)
                self.ledger.absent(db, copy, now)

            self.store.write(record)
        elif not listing.complete:
            pause = max(LOOK_SECONDS, (now - ended_at) / 4)
            self._look_again(copy, now + min(pause, HELD_LOOK_SECONDS))
        else:
            self._hold(copy, now)

    def _look_again(self, copy: Copy, look_at: float) -> None:
        self.store.write(self.ledger.look_later, copy, look_at)

    def _is_proven(self, copy: Copy) -> bool:
        """Return whether the copy's object would have been found by its token, had it arrived."""
        return self.store.read(echo.is_proven, copy.method, is_video=copy.is_video)

    def _hold(self, copy: Copy, now: float) -> None:
        """Hold an upload: without proof that tokens are echoed, absence means nothing."""
        path = self._shown_path(copy)

        def record(db: Transaction) -> None:
            if not copies.existing(db, copy.id).in_doubt:
                # A retry has released it meanwhile.
                return
            echo.find_sample(db, copy.method, is_video=copy.is_video)
            holds.place(
                db,
                stops="sending",
                scope=_scope(copy),
                reason=holds.NO_ECHO,
                message=(
                    "an upload got no answer, and this service has not been seen to echo names: "
                    "it may have arrived, so it is not sent again by itself"
                ),
                affects=1,
                first=(path,),
                commands=(
                    f"syncd retry {path} (sends it again: the service may then keep it twice)",
                    "syncd status",
                ),
                now=now,
            )
            self.ledger.look_later(db, copy, now + HELD_LOOK_SECONDS)

        self.store.write(record)

    def _shown_path(self, copy: Copy) -> str:
        file = self.store.read(files.get, copy.file_id)
        return texts.argument(file.path) if file else "PATH"

    def _release(self, db: Transaction, copy: Copy, now: float) -> None:
        holds.release(db, stops="sending", scope=_scope(copy), reason=holds.NO_ECHO, now=now)


def _scope(copy: Copy) -> str:
    return f"copy {copy.id}"
