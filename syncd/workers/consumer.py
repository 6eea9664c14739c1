"""Takes files away once they are live (`after_upload`): moved, or deleted here.

Only what is byte for byte what was sent: it is read once more, and what went live a while ago is
looked for once more, for others may have deleted it since. The intent is committed first.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from syncd import disk, moving
from syncd.exceptions import DiskError, FileChangedError
from syncd.files_api import FilesApiError, FilesClient, NotFoundError
from syncd.state import consumption
from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.ledger import Ledger
from syncd.state.lifecycle import FileStatus
from syncd.state.planner import Policy
from syncd.state.retry import backoff_seconds
from syncd.state.store import Store
from syncd.state.texts import shown
from syncd.workers.gate import Gate
from syncd.workers.looks import look, may_be_taken_away

log = logging.getLogger(__name__)

BATCH = 100
#: Seconds for which the answer that made a copy live is enough to take its file away.
FRESH_SECONDS = 600.0
_UNSEEN = disk.Sight(disk.Found.UNREADABLE)


@dataclass(frozen=True, slots=True)
class ConsumedFolder:
    """Where a folder's files are, and where they go; they are deleted where that is None."""

    path: bytes
    move_to: bytes | None
    #: a file beneath it without which it is not the right one
    marker: bytes = b""


class Consumer:
    """The last stage of folders that are emptied: `step` takes away what is done with."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        client: FilesClient,
        gate: Gate,
        consumed: Mapping[str, ConsumedFolder],
        policies: Mapping[str, Policy],
        clock: Callable[[], float],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._client = client
        self._gate = gate
        self._consumed = consumed
        self._policies = policies
        self._clock = clock
        self._stopped = stopped
        #: failures in a row by file id, and when it is tried again
        self._later: dict[int, tuple[int, float]] = {}

    def step(self) -> float | None:
        """Take away what is due; return the seconds until more may be."""
        full = False
        for name in self._consumed:
            now = self._clock()
            limit = BATCH + len(self._later)
            found = self._store.read(partial(consumption.due, folder=name, now=now, limit=limit))
            full = full or len(found) == limit
            for file in found:
                if self._stopped():
                    return None
                if self._later.get(file.id, (0, 0.0))[1] > now:
                    continue
                copy = self._store.read(partial(consumption.live_copy, file_id=file.id))
                if copy is None or self._is_fresh(copy):
                    self._take(file)
                elif self._gate.seconds_shut_for_all():
                    return None
                elif self._is_there(copy):
                    self._take(file)
                else:
                    self._put_off(file)
        return 0.0 if full else None

    def _is_fresh(self, copy: Copy) -> bool:
        return copy.live_at is not None and 0 <= self._clock() - copy.live_at < FRESH_SECONDS

    def _is_there(self, copy: Copy) -> bool:
        """Look for a copy of a while ago; that it is gone is recorded where the key is proven."""
        try:
            try:
                self._client.get(copy.file_uuid or "")
            except NotFoundError:
                self._client.list(workspace_uuid=copy.workspace_uuid, limit=1)
                now = self._clock()
                self._store.write(lambda db: self._ledger.gone_remotely(db, copy.id, now))
                log.warning("%s is gone remotely: its file is not taken away", copy.file_uuid)
                return False
        except FilesApiError as error:
            self._gate.failed(error)
            return False
        self._gate.succeeded()
        return True

    def _take(self, file: File) -> None:
        root = self._consumed[file.folder].path
        try:
            with disk.open_beneath(root, file.path) as descriptor:
                if not (self._is_at_home(file) and self._is_what_was_sent(file, descriptor)):
                    # The watch sees it, too: new content is sent first.
                    self._put_off(file)
                    return
                mark = disk.fingerprint(descriptor)
                now = self._clock()
                if not self._store.write(lambda db: consumption.begin(db, file.id, mark, now)):
                    self._put_off(file)
                    return
                how = self._take_away(file, descriptor)
        except (OSError, DiskError) as error:
            self._failed(file, error)
            return
        self._done(file, how)

    def _is_at_home(self, file: File) -> bool:
        """Say whether the folder is the one that the file was sent from."""
        folder = self._consumed[file.folder]
        return may_be_taken_away(
            self._store, file.folder, folder.path, file.path, marker=folder.marker
        )

    def _is_what_was_sent(self, file: File, descriptor: int) -> bool:
        mark = disk.fingerprint(descriptor)
        return (
            mark == file.fingerprint
            and disk.sha256(descriptor, mark.size, stopped=self._stopped) == file.sha256
        )

    def _take_away(self, file: File, descriptor: int) -> str:
        folder = self._consumed[file.folder]
        if folder.move_to is None:
            moving.remove(folder.path, file.path, descriptor)
            return "deleted here after its upload"
        new = moving.move(
            folder.path, file.path, descriptor, target=folder.move_to, digest=file.sha256 or ""
        )
        # pathlib does not take bytes.
        where = os.path.join(folder.move_to, new)  # noqa: PTH118
        return f"moved to {shown(where)}"

    def _failed(self, file: File, error: OSError | DiskError) -> None:
        """Believe the disk: what is gone is taken away, whatever went wrong after that."""
        folder = self._consumed[file.folder]
        place = (self._store, file.folder, folder.path, [file.path])
        sight = look(*place, marker=folder.marker).get(file.path, _UNSEEN)
        if sight.found is disk.Found.ABSENT:
            if file.status is FileStatus.CONSUMED or not isinstance(error, FileChangedError):
                self._done(file, "taken away after its upload")
            return
        self._put_off(file)
        if sight.found is disk.Found.UNREADABLE:
            return
        reason = str(error.strerror or error) if isinstance(error, OSError) else str(error)
        verb = "moved" if folder.move_to else "deleted"
        message = f"it could not be {verb} after its upload: {reason}"
        now = self._clock()
        self._store.write(
            lambda db: consumption.stays(db, file.id, self._policies, now, reason=message)
        )
        log.warning("%s: %s", file.shown, message)

    def _put_off(self, file: File) -> None:
        failures = self._later.get(file.id, (0, 0.0))[0] + 1
        again_at = self._clock() + backoff_seconds(failures)
        self._later[file.id] = (failures, again_at)
        if file.status is FileStatus.CONSUMED:
            self._store.write(lambda db: consumption.look_later(db, file.id, again_at))

    def _done(self, file: File, how: str) -> None:
        self._later.pop(file.id, None)
        now = self._clock()
        self._store.write(lambda db: consumption.done(db, file.id, now, how=how))
        log.info("%s: %s", file.shown, how)
