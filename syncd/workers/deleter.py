"""Mirrors local deletions into soft deletes, on evidence; and deletes what was superseded.

A file is taken for gone after two looks, a grace apart, at a root that is the right one. The
DELETE itself follows a last look and a committed intent. See "Deleting safely" in the README.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from syncd import disk
from syncd.exceptions import StateError
from syncd.files_api import FilesApiError, FilesClient, NotFoundError
from syncd.log import fields
from syncd.metrics import DELETED_FILES
from syncd.state import due, files, folders, remote_deletions, sightings
from syncd.state.copies import Copy
from syncd.state.deletions import Deletions
from syncd.state.files import File
from syncd.state.ledger import Failure, Ledger, awaits_rename
from syncd.state.lifecycle import FileStatus
from syncd.state.planner import Policy
from syncd.state.retry import backoff_seconds
from syncd.state.sightings import Seen, Settling, Sighting
from syncd.state.store import Store, Transaction
from syncd.workers.gate import Gate

log = logging.getLogger(__name__)

BATCH = 200
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
    settling: Settling
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
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._deletions = deletions
        self._mirrored = mirrored
        self._policies = policies
        self._client = client
        self._gate = gate
        self._clock = clock
        self._stopped = stopped
        #: files whose DELETE was sent, and its outcome not recorded
        self._unknown: set[int] = set()

    def step(self) -> float | None:
        """Do what is due; return the seconds until more is."""
        self._clear_unknown()
        for name in self._mirrored:
            self._look_again(name)
            self._review(name)
        if shut := self._gate.seconds_shut_for_all():
            return shut
        now = self._clock()
        retiring = self._store.read(lambda db: due.deletions(db, now, BATCH))
        for copy in retiring:
            if self._stopped() or self._gate.seconds_shut_for_all():
                return None
            self._delete(copy)
        if len(retiring) == BATCH:
            return 0.0
        next_at = self._store.read(lambda db: due.next_deletion(db, now))
        return None if next_at is None else max(next_at - self._clock(), 0.0)

    def _clear_unknown(self) -> None:
        """Let be sent again what was in flight when its last commit failed."""
        for file_id in list(self._unknown):
            now = self._clock()
            self._store.write(partial(self._ledger.abandon, file_id=file_id, now=now))
            self._unknown.discard(file_id)

    # Is it gone?

    def _look_again(self, name: str) -> None:
        """Look a second time at a folder's missing files whose grace is over."""
        now = self._clock()
        missing = self._store.read(lambda db: due.missing(db, now, name, BATCH))
        if not missing:
            return
        seen = self._look(name, missing)
        self._store.write(lambda db: self._judge(db, name, missing, seen, now))

    def _review(self, name: str) -> None:
        """Bring the holds on a folder that lost many files, here or remotely, up to date."""
        now = self._clock()
        if self._store.read(lambda db: self._deletions.is_review_due(db, name)):
            self._store.write(lambda db: self._deletions.review(db, name, now))
        if self._store.read(lambda db: remote_deletions.is_review_due(db, name)):
            self._store.write(lambda db: remote_deletions.review(db, name, now))

    def _look(self, name: str, missing: list[File]) -> dict[bytes, disk.Sight]:
        """Look at paths of a root that is the same before and after; else at nothing."""
        root = self._mirrored[name].path
        if not self._is_right_root(name):
            return {}
        seen = disk.look(root, [file.path for file in missing])
        return seen if self._is_right_root(name) else {}

    def _is_right_root(self, name: str) -> bool:
        known = self._store.read(lambda db: folders.identity(db, name))
        try:
            folder = self._mirrored[name]
            return known is not None and disk.identify(folder.path, folder.marker) == known
        except OSError:
            return False

    def _judge(
        self,
        db: Transaction,
        name: str,
        missing: list[File],
        seen: Mapping[bytes, disk.Sight],
        now: float,
    ) -> None:
        workspace = self._policies[name].workspace_uuid
        same_workspace = [
            other for other, policy in self._policies.items() if policy.workspace_uuid == workspace
        ]
        if any(file.verdict is None for file in missing):
            # Whether they are too many is settled before the first of them retires.
            self._deletions.review(db, name, now)
        for file in missing:
            sight = seen.get(file.path, disk.Sight(disk.Found.UNREADABLE, error="its root is gone"))
            if sight.found is disk.Found.UNREADABLE or awaits_rename(db, file, same_workspace):
                self._ledger.put_off(db, file.id, now + LOOK_AGAIN_SECONDS)
            elif sight.found is disk.Found.ABSENT:
                self._deletions.confirm_missing(db, file.id, now, checks=CHECKS)
            else:
                self._record_return(db, file, sight, now)

    def _record_return(self, db: Transaction, file: File, sight: disk.Sight, now: float) -> None:
        """Record that a missing file is there after all, or something else in its place."""
        present = sight.found is disk.Found.FILE
        sighting = Sighting(
            file.path,
            Seen.PRESENT if present else Seen.INELIGIBLE,
            sight.fingerprint,
            reason=None if present else "not a regular file",
        )
        sightings.record(
            db,
            file.folder,
            [sighting],
            settling=self._mirrored[file.folder].settling,
            policies=self._policies,
            now=now,
        )

    # Delete it

    def _delete(self, retiring: Copy) -> None:
        now = self._clock()
        file = self._store.read(lambda db: files.get(db, retiring.file_id))
        if file is None:
            return
        if file.status is FileStatus.MISSING and not self._still_gone(file, now):
            later = now + LOOK_AGAIN_SECONDS
            self._store.write(lambda db: self._ledger.look_later(db, retiring.id, later))
            return
        try:
            self._delete_now(file, retiring, now)
        except StateError:
            self._unknown.add(file.id)
            raise

    def _delete_now(self, file: File, retiring: Copy, now: float) -> None:
        copy = self._store.write(lambda db: self._deletions.begin_delete(db, retiring.id, now))
        if copy is None or copy.file_uuid is None:
            return
        try:
            self._client.delete(copy.file_uuid)
        except NotFoundError as error:
            if not self._key_is_good(copy):
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
            _shown(file),
            copy.file_uuid,
            copy.reason,
            extra=fields(
                "deleted",
                folder=file.folder,
                path=_shown(file),
                file_uuid=copy.file_uuid,
                reason=copy.reason,
            ),
        )

    def _still_gone(self, file: File, now: float) -> bool:
        """Look a last time before the intent to delete; what came back is recorded."""
        if file.folder not in self._mirrored:
            return False
        sight = self._look(file.folder, [file]).get(file.path)
        if sight is None or sight.found is disk.Found.UNREADABLE:
            return False
        if sight.found is disk.Found.ABSENT:
            return True
        self._store.write(lambda db: self._record_return(db, file, sight, now))
        return False

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
                cause=f"{error.message} ({error.status})",
            ),
        )


def _shown(file: File) -> str:
    return os.fsdecode(file.path).encode("utf-8", "backslashreplace").decode()
