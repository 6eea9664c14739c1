"""Mirrors local deletions into soft deletes, on evidence; and deletes what was superseded.

A file is taken for gone after two looks, a grace apart, at a root that is the right one. The
DELETE itself follows a last look and a committed intent. See "Deleting safely" in the README.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from syncd import disk
from syncd.files_api import FilesApiError, FilesClient, NotFoundError
from syncd.log import fields
from syncd.metrics import DELETED_FILES
from syncd.state import due, files, sightings
from syncd.state.copies import Copy
from syncd.state.deletions import Deletions
from syncd.state.files import File
from syncd.state.holds.missing import awaits_rename
from syncd.state.ledger import Failure, Ledger
from syncd.state.lifecycle import FileStatus
from syncd.state.planner import Policy
from syncd.state.retry import backoff_seconds
from syncd.state.store import Store, Transaction, read_fact, set_fact
from syncd.state.texts import error_text
from syncd.workers.gate import Gate
from syncd.workers.lookouts import Lookouts
from syncd.workers.looks import look

log = logging.getLogger(__name__)

BATCH = 200
#: Files that are looked at together a last time before their copies are deleted.
LAST_LOOKS = 20
#: The most that is asked of the service, however many deletions were approved.
DELETES_PER_SECOND = 50.0
#: Seconds by which the wall clock must leave the steady one to count as set.
CLOCK_JUMP_SECONDS = 30.0
#: Seconds after which it is noted anew what time it is.
CLOCK_NOTED_SECONDS = 600.0
#: The longest for which a machine is believed to have been off, in seconds.
LONGEST_OFF_SECONDS = 400 * 86_400.0
#: The fact that keeps which start of the machine it was, and how the clocks differed in it.
CLOCK = "clock"
#: What a second look makes sure of, in the words that are kept with a deletion.
CHECKS = (
    "the root is the same before and after",
    "its nearest directory was listed to the end, without its name",
    "no file of its size waits to be hashed",
)
#: Seconds until a look that said nothing, or a file that may only have moved, is looked at again.
LOOK_AGAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class MirroredFolder:
    """Where a folder's files are, and its patience with them."""

    path: bytes
    grace_seconds: float
    #: a file beneath it without which it is not the right one
    marker: bytes = b""


class Deleter:
    """The deletion stage: `step` looks again at what is missing, then deletes what retires."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        deletions: Deletions,
        mirrored: Mapping[str, MirroredFolder],
        policies: Mapping[str, Policy],
        client: FilesClient,
        gate: Gate,
        clock: Callable[[], float],
        steady: Callable[[], float],
        boot: str,
        pause: Callable[[float], bool],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """`steady` is a clock that nobody can set, in seconds since `boot`, the id of a start.

        `pause(seconds)` waits, and returns True when the daemon is to stop.
        """
        self._store = store
        self._ledger = ledger
        self._deletions = deletions
        self._mirrored = mirrored
        self._policies = policies
        self._client = client
        self._gate = gate
        self._clock = clock
        self._steady = steady
        self._boot = boot
        self._pause = pause
        self._clock_seen: _ClockSeen | None = None
        self._clock_noted_at = 0.0
        self._stopped = stopped
        #: files whose DELETE was sent, and its outcome not recorded
        self._unknown: set[int] = set()
        self._lookouts = Lookouts(self._look)

    def step(self) -> float | None:
        """Do what is due; return the seconds until more is."""
        self._clear_unknown()
        self._mind_the_clock()
        # What was superseded waits for no disk.
        is_full = self._delete_due(missing=False)
        self._look_again()
        for name in self._mirrored:
            self._review(name)
        if shut := self._gate.seconds_shut_for_all():
            return shut
        if self._delete_due(missing=True) or is_full:
            return 0.0
        now = self._clock()
        next_at = self._store.read(lambda db: due.next_deletion(db, now))
        return None if next_at is None else max(next_at - now, 0.0)

    def _delete_due(self, *, missing: bool) -> bool:
        """Delete copies that are due, of missing files or of others; say whether more may be."""
        now = self._clock()
        retiring = self._store.read(lambda db: due.deletions(db, now, BATCH, missing=missing))
        for start in range(0, len(retiring), LAST_LOOKS):
            for copy, file in self._last_look(retiring[start : start + LAST_LOOKS]):
                if self._stopped() or self._gate.seconds_shut_for_all():
                    return False
                began = self._steady()
                self._delete(copy, file)
                if self._pause(max(1.0 / DELETES_PER_SECOND - (self._steady() - began), 0.0)):
                    return False
        return len(retiring) == BATCH

    def _clear_unknown(self) -> None:
        """Let be sent again what was in flight when its last commit failed."""
        for file_id in list(self._unknown):
            now = self._clock()
            self._store.write(partial(self._ledger.abandon, file_id=file_id, now=now))
            self._unknown.discard(file_id)

    def _mind_the_clock(self) -> None:
        """Let every grace begin anew where the clock was set: none is over by that."""
        now = self._clock()
        seen = _ClockSeen(self._boot, now - self._steady(), now)
        known = self._clock_seen or self._store.read(
            lambda db: read_fact(db, CLOCK, _ClockSeen.parse)
        )
        jump = known.jump(seen) if known else 0.0
        if known is None or jump:
            if jump:
                log.warning("the clock was set by %+.0f s; every grace begins anew", jump)
            grace = {name: f.grace_seconds for name, f in self._mirrored.items()}
            back = max(-jump, 0.0)
            self._store.write(lambda db: sightings.restart_grace(db, now, grace, set_back=back))
            self._clock_noted_at = 0.0
        if abs(now - self._clock_noted_at) >= CLOCK_NOTED_SECONDS:
            self._store.write(lambda db: set_fact(db, CLOCK, str(seen)))
            self._clock_noted_at = now
        self._clock_seen = seen

    # Is it gone?

    def _look_again(self) -> None:
        """Look a second time at the missing files whose grace is over."""
        now = self._clock()
        missing = {
            name: found
            for name in self._mirrored
            if (found := self._store.read(partial(due.missing, now=now, folder=name, limit=BATCH)))
        }
        for name, seen in self._lookouts.look(missing).items():
            judge = partial(self._judge, name=name, missing=missing[name], seen=seen, now=now)
            self._store.write(judge)

    def _review(self, name: str) -> None:
        """Bring the holds that name files of a folder up to date."""
        now = self._clock()
        if self._store.read(lambda db: self._deletions.is_review_due(db, name)):
            self._store.write(lambda db: self._deletions.review(db, name, now))

    def _look(self, name: str, paths: Sequence[bytes]) -> Mapping[bytes, disk.Sight]:
        folder = self._mirrored[name]
        return look(self._store, name, folder.path, paths, marker=folder.marker)

    def _judge(
        self,
        db: Transaction,
        name: str,
        missing: list[File],
        seen: Mapping[bytes, disk.Sight],
        now: float,
    ) -> None:
        neighbours = self._deletions.neighbours(name)
        # Whether they are too many is settled before the first of them retires.
        self._deletions.review(db, name, now)
        for file in missing:
            sight = seen.get(file.path, disk.Sight(disk.Found.UNREADABLE, error="its root is gone"))
            unclear = sight.found is disk.Found.UNREADABLE
            if unclear or awaits_rename(db, file, neighbours, now):
                self._ledger.put_off(db, file.id, now + LOOK_AGAIN_SECONDS)
            elif sight.found is disk.Found.ABSENT:
                self._deletions.confirm_missing(db, file.id, now, checks=CHECKS)
            else:
                sightings.doubt_absence(db, file.id, self._policies, now)

    # Delete it

    def _last_look(self, retiring: Sequence[Copy]) -> list[tuple[Copy, File]]:
        """Look a last time at the missing files among a few; return what may be deleted now.

        A few at a time, for a look lists a whole directory, and must not be old when it is used.
        """
        known = self._store.read(
            lambda db: [(copy, files.existing(db, copy.file_id)) for copy in retiring]
        )
        missing: dict[str, list[File]] = {}
        for _, file in known:
            if file.status is FileStatus.MISSING and file.folder in self._mirrored:
                missing.setdefault(file.folder, []).append(file)
        gone = {
            file.id
            for name, seen in self._lookouts.look(missing).items()
            for file in self._still_gone(missing[name], seen)
        }
        may_go = [
            (copy, file)
            for copy, file in known
            if file.status is not FileStatus.MISSING or file.id in gone
        ]
        later = self._clock() + LOOK_AGAIN_SECONDS
        for copy, file in known:
            if (copy, file) not in may_go:
                self._store.write(partial(self._ledger.look_later, copy_id=copy.id, look_at=later))
        return may_go

    def _delete(self, retiring: Copy, file: File) -> None:
        now = self._clock()
        try:
            self._delete_now(file, retiring, now)
        except Exception:
            # Whatever it was: else the path would wait for ever for an answer.
            self._unknown.add(file.id)
            raise

    def _delete_now(self, file: File, retiring: Copy, now: float) -> None:
        copy = self._store.write(lambda db: self._deletions.begin_delete(db, retiring.id, now))
        if copy is None or copy.file_uuid is None:
            return
        try:
            self._client.delete(copy.file_uuid)
        except NotFoundError as error:
            if not (error.is_the_services and self._key_is_good(copy)):
                self._failed(copy, error)
                return
        except FilesApiError as error:
            self._gate.failed(error)
            self._failed(copy, error)
            return
        self._gate.succeeded()
        done_at = self._clock()
        self._store.write(lambda db: self._deletions.deleted(db, copy.id, done_at))
        DELETED_FILES.add(file.folder)
        log.info(
            "%s: deleted %s (%s)",
            file.shown,
            copy.file_uuid,
            copy.reason,
            extra=fields(
                "deleted",
                folder=file.folder,
                path=file.shown,
                file_uuid=copy.file_uuid,
                reason=copy.reason,
            ),
        )

    def _still_gone(self, missing: list[File], seen: Mapping[bytes, disk.Sight]) -> list[File]:
        """Return those of a folder's missing files that still are; others are looked at anew."""
        gone = []
        for file in missing:
            sight = seen.get(file.path)
            if sight is None or sight.found is disk.Found.UNREADABLE:
                continue
            if sight.found is disk.Found.ABSENT:
                gone.append(file)
            else:
                doubt = partial(sightings.doubt_absence, file_id=file.id, policies=self._policies)
                self._store.write(partial(doubt, now=self._clock()))
        return gone

    def _key_is_good(self, copy: Copy) -> bool:
        """Tell a 404 for an object that is gone from one for a key that may not see it."""
        try:
            self._client.list(workspace_uuid=copy.workspace_uuid, limit=1)
        except FilesApiError as error:
            self._gate.failed(error)
            return False
        return True

    def _failed(self, copy: Copy, error: FilesApiError) -> None:
        failure = Failure(error.message, error.status, error.code, error.request_id)
        now = self._clock()
        again_at = now + backoff_seconds(copy.attempts, asked=error.retry_after)
        self._store.write(
            lambda db: self._deletions.delete_failed(db, copy.id, failure, now, again_at)
        )
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


@dataclass(frozen=True, slots=True)
class _ClockSeen:
    """How the clocks were at some time: in which start of the machine, and how they differed."""

    boot: str
    drift: float
    at: float

    @classmethod
    def parse(cls, text: str) -> "_ClockSeen":
        boot, drift, *at = text.split()
        # An older syncd did not note when it was.
        return cls(boot, float(drift), float(at[0]) if at else float(drift))

    def __str__(self) -> str:
        return f"{self.boot} {self.drift} {self.at}"

    def jump(self, now: "_ClockSeen") -> float:
        """Return by how many seconds the clock was set until `now`; 0 where it is sane.

        Within one start of the machine the steady clock tells. After a new start, a clock that is
        neither behind what was seen nor far ahead of it is believed.
        """
        if self.boot == now.boot:
            jump = now.drift - self.drift
            return jump if abs(jump) >= CLOCK_JUMP_SECONDS else 0.0
        passed = now.at - self.at
        return 0.0 if 0.0 <= passed <= LONGEST_OFF_SECONDS else passed
