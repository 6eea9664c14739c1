"""Mirrors local deletions, on evidence, as soft deletes; and deletes superseded copies.

A file counts as gone after two looks at the right root, one grace period apart. The DELETE follows
a last look and a committed intent. See "Deleting safely" in the README.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from syncd import disk
from syncd.files_api import FilesApiError, FilesClient, NotFoundError
from syncd.log import fields
from syncd.metrics import DELETED_FILES
from syncd.state import due, files, grace, observations
from syncd.state.backoff import backoff_seconds
from syncd.state.copies import Copy
from syncd.state.database.store import Store, Transaction
from syncd.state.deletions import Deletions
from syncd.state.files import File
from syncd.state.holds.missing import awaiting_rename
from syncd.state.ledger import Failure, Ledger
from syncd.state.lifecycle import FileStatus
from syncd.state.planner import Policy
from syncd.state.texts import error_text
from syncd.workers.clock_seen import ClockWatch
from syncd.workers.gate import Gate
from syncd.workers.key_check import may_list
from syncd.workers.parallel_looks import ParallelLooks
from syncd.workers.path_check import look

log = logging.getLogger(__name__)

BATCH = 200
#: Files that share one last look before their copies are deleted.
LAST_LOOKS = 20
#: Seconds after its last look that a file's copies may still be deleted.
LOOK_SECONDS = 5.0
#: The limit on DELETE requests, however many deletions were approved.
DELETES_PER_SECOND = 50.0
#: The checks of a second look, as the record of a deletion words them.
CHECKS = (
    "the root is the same before and after",
    "its nearest directory was listed to the end, without its name",
    "no file of its size waits to be hashed",
)
#: Seconds until the next look after an inconclusive one, or at a file that may have moved.
LOOK_AGAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class MirroredFolder:
    """A folder's path, and the time in which a missing file may come back."""

    path: bytes
    grace_seconds: float
    #: a file beneath it that proves the right folder is there
    marker: bytes = b""


@dataclass(kw_only=True, eq=False)
class Deleter:
    """The deletion stage: `step` looks again at missing files, then deletes retiring copies."""

    store: Store
    ledger: Ledger
    deletions: Deletions
    mirrored: Mapping[str, MirroredFolder]
    policies: Mapping[str, Policy]
    client: FilesClient
    gate: Gate
    clock: Callable[[], float]
    #: a clock that nobody can set; and what notices that the other one was
    steady: Callable[[], float]
    clocks: ClockWatch
    #: waits so many seconds; returns True if the daemon is to stop
    pause: Callable[[float], bool]
    stopped: Callable[[], bool] = lambda: False
    #: asks the service whether it has a copy, and records the answer
    ask: Callable[[Copy], None] = lambda _: None

    def __post_init__(self) -> None:
        #: copies whose DELETE was committed, but whose outcome could not be recorded
        self._unknown: set[int] = set()
        self._lookouts = ParallelLooks(self._look)

    def step(self) -> float | None:
        """Do what is due; return the seconds until more is."""
        self._clear_unknown()
        self.clocks.look()
        # Superseded copies do not wait for a disk.
        is_full = self._delete_due(missing=False)
        self._look_again()
        self._review()
        if shut := self.gate.seconds_shut_for_all():
            return shut
        if self._delete_due(missing=True) or is_full:
            return 0.0
        now = self.clock()
        next_at = self.store.read(due.next_deletion, now)
        return None if next_at is None else max(next_at - now, 0.0)

    def _delete_due(self, *, missing: bool) -> bool:
        """Delete due copies of missing files, or of others; return whether more may be due."""
        now = self.clock()
        retiring = self.store.read(due.deletions, now, BATCH, missing=missing)
        is_full = len(retiring) == BATCH
        # A missing file holds no content, so there is nothing to ask for.
        needed_again = [] if missing else self.store.read(self.deletions.needed_again, retiring)
        for copy in needed_again:
            if self.stopped() or self.gate.seconds_shut_for_all():
                return False
            self.ask(copy)
            self.pause(1.0 / DELETES_PER_SECOND)
        retiring = [copy for copy in retiring if copy not in needed_again]
        for start in range(0, len(retiring), LAST_LOOKS):
            if self.stopped() or self.gate.seconds_shut_for_all():
                return False
            fresh_until = self.steady() + LOOK_SECONDS
            may_go = self._last_look(retiring[start : start + LAST_LOOKS])
            if may_go:
                self._delete(may_go, fresh_until)
        return is_full

    def _clear_unknown(self) -> None:
        """Allow requests again that were in flight when their last commit failed."""
        if not self._unknown:
            return
        self.store.write(self.deletions.delete_again, self._unknown, self.clock())
        self._unknown.clear()

    def _look_again(self) -> None:
        """Look a second time at the missing files whose grace period is over."""
        now = self.clock()
        missing = self.store.read(
            lambda db: {
                name: found
                for name in self.mirrored
                if (found := due.missing(db, now, name, BATCH))
            }
        )
        for name, seen in self._lookouts.look(missing).items():
            judge = partial(self._judge, name=name, missing=missing[name], seen=seen, now=now)
            self.store.write(judge)

    def _review(self) -> None:
        """Bring the holds that name files up to date."""
        now = self.clock()
        for name in self.store.read(
            lambda db: [n for n in self.mirrored if self.deletions.is_review_due(db, n)]
        ):
            self.store.write(self.deletions.review, folder=name, now=now)

    def _look(self, name: str, paths: Sequence[bytes]) -> Mapping[bytes, disk.Sight]:
        folder = self.mirrored[name]
        return look(self.store, name, folder.path, paths, marker=folder.marker)

    def _judge(
        self,
        db: Transaction,
        name: str,
        missing: list[File],
        seen: Mapping[bytes, disk.Sight],
        now: float,
    ) -> None:
        neighbours = self.deletions.neighbours(name)
        # A mass deletion is held before the first of its files retires.
        self.deletions.review(db, name, now)
        # A missing root yields no observations.
        found = {file.id: seen[file.path].found for file in missing if file.path in seen}
        wait = awaiting_rename(db, [file.id for file in missing], neighbours, now)
        wait |= {
            file.id
            for file in missing
            if found.get(file.id, disk.Found.UNREADABLE) is disk.Found.UNREADABLE
        }
        self.ledger.put_off_all(db, sorted(wait), now + LOOK_AGAIN_SECONDS)
        judged = [file.id for file in missing if file.id not in wait]
        absent = {file_id for file_id in judged if found[file_id] is disk.Found.ABSENT}
        first = {file.id for file in missing if file.missing_since is None} & absent
        grace.begin(db, sorted(first), now, self.mirrored[name].grace_seconds)
        self.deletions.confirm_missing(db, sorted(absent - first), now, checks=CHECKS)
        for file_id in judged:
            if found[file_id] is not disk.Found.ABSENT:
                observations.doubt_absence(db, file_id, self.policies, now)

    def _last_look(self, retiring: Sequence[Copy]) -> list[tuple[Copy, File]]:
        """Look a last time at the missing files of some copies; return what may be deleted now.

        Batches are small because a look lists whole directories and must be fresh when used.
        """
        known = self.store.read(
            lambda db: [(copy, files.existing(db, copy.file_id)) for copy in retiring]
        )
        missing: dict[str, list[File]] = {}
        for _, file in known:
            if file.status is FileStatus.MISSING and file.folder in self.mirrored:
                missing.setdefault(file.folder, []).append(file)
        seen = self._lookouts.look(missing)
        found = {
            file.id: sight.found
            for name, some in missing.items()
            for file in some
            if (sight := seen.get(name, {}).get(file.path))
        }
        may_go = [
            (copy, file)
            for copy, file in known
            if file.status is not FileStatus.MISSING or found.get(file.id) is disk.Found.ABSENT
        ]
        if len(may_go) < len(known):
            back = [
                file_id
                for file_id, what in found.items()
                if what not in (disk.Found.ABSENT, disk.Found.UNREADABLE)
            ]
            rest = [copy for copy, file in known if (copy, file) not in may_go]
            self.store.write(self._put_off, rest, back)
        return may_go

    def _put_off(self, db: Transaction, retiring: Sequence[Copy], back: Sequence[int]) -> None:
        """Postpone the deletion of copies, and have the files that are `back` examined again."""
        now = self.clock()
        for file_id in back:
            observations.doubt_absence(db, file_id, self.policies, now)
        for copy in retiring:
            self.ledger.look_later(db, copy, now + LOOK_AGAIN_SECONDS)

    def _delete(self, may_go: Sequence[tuple[Copy, File]], fresh_until: float) -> None:
        """Commit the intent to delete copies, delete them, and commit the outcome.

        An intent whose request was not sent is taken back. The last look at the files counts as
        fresh until `fresh_until`, on the steady clock.
        """
        retiring = {copy.id: copy for copy, _ in may_go}
        gone: list[Copy] = []
        now = self.clock()
        try:
            begun = self.store.write(self.deletions.begin_delete, list(retiring.values()), now)
            unsent = {copy.id: retiring[copy.id] for copy in begun}
            try:
                self._send(begun, unsent, gone, fresh_until)
            finally:
                if gone:
                    self._record(gone, {copy.id: file for copy, file in may_go})
                if unsent:
                    back = list(unsent.values())
                    self.store.write(self.deletions.take_back, back, self.clock())
        except Exception:
            # Otherwise these paths would wait for an answer for ever.
            self._unknown |= retiring.keys()
            raise

    def _send(
        self,
        begun: Sequence[Copy],
        unsent: dict[int, Copy],
        gone: list[Copy],
        fresh_until: float,
    ) -> None:
        """Send intended DELETEs: take each out of `unsent` first, and add deleted copies to `gone`.

        `unsent` has the copies as they were before the intent. Each DELETE is checked again
        against later commits, and goes only while its file's last look is fresh.
        """
        promised = list(unsent.values())
        is_over = False
        for copy in begun:
            began = self.steady()
            is_over = is_over or self.stopped() or self.store.failed or began > fresh_until
            judge = partial(self.deletions.still_deletable, retiring=promised, now=self.clock())
            if (
                is_over
                or self.gate.seconds_shut_for_all()
                or copy.id not in self.store.recall("promised deletions", judge)
            ):
                continue
            del unsent[copy.id]
            if self._is_deleted(copy):
                gone.append(copy)
            is_over = self.pause(max(1.0 / DELETES_PER_SECOND - (self.steady() - began), 0.0))

    def _is_deleted(self, copy: Copy) -> bool:
        """Send a DELETE and record a failure; return whether the copy is gone."""
        try:
            self.client.delete(copy.file_uuid or "")
        except NotFoundError as error:
            is_proven = error.is_the_services and may_list(
                self.client, self.gate, copy.workspace_uuid
            )
            if not is_proven:
                self._failed(copy, error)
                return False
        except FilesApiError as error:
            self.gate.failed(error)
            self._failed(copy, error)
            return False
        self.gate.succeeded()
        return True

    def _record(self, gone: Sequence[Copy], of_copy: Mapping[int, File]) -> None:
        """Record that copies are gone, with one commit, and log it."""
        now = self.clock()
        self.store.write(self.deletions.deleted, gone, now)
        for copy in gone:
            file = of_copy[copy.id]
            DELETED_FILES.add(file.folder)
            log.info(
                "%s: deleted %s%s",
                file.shown,
                copy.file_uuid,
                f" ({copy.reason})" if copy.reason else "",
                extra=fields(
                    "deleted",
                    folder=file.folder,
                    path=file.shown,
                    file_uuid=copy.file_uuid,
                    reason=copy.reason,
                ),
            )

    def _failed(self, copy: Copy, error: FilesApiError) -> None:
        failure = Failure(error.message, error.status, error.code, error.request_id)
        now = self.clock()
        again_at = now + backoff_seconds(copy.attempts, asked=error.retry_after)
        self.store.write(self.deletions.delete_failed, copy.id, failure, now, again_at)
        log.warning(
            "%s: not deleted yet: %s",
            copy.file_uuid,
            error,
            extra=fields(
                "delete_failed",
                file_uuid=copy.file_uuid,
                status=error.status,
                request_id=error.request_id,
                cause=error_text(error.message, error.status, error.code, None),
            ),
        )
