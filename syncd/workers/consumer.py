"""Takes files away once they are live (`after_upload`): moved, or deleted here.

Only what is byte for byte what was sent: it is read once more. The intent is committed first.
"""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from syncd import disk, moving
from syncd.exceptions import DiskError, FileChangedError
from syncd.state import consumption
from syncd.state.files import File
from syncd.state.lifecycle import FileStatus
from syncd.state.planner import Policy
from syncd.state.retry import backoff_seconds
from syncd.state.store import Store
from syncd.state.texts import path_texts

log = logging.getLogger(__name__)

BATCH = 100


@dataclass(frozen=True, slots=True)
class ConsumedFolder:
    """Where a folder's files are, and where they go; they are deleted where that is None."""

    path: bytes
    move_to: bytes | None


class Consumer:
    """The last stage of folders that are emptied: `step` takes away what is done with."""

    def __init__(
        self,
        *,
        store: Store,
        consumed: Mapping[str, ConsumedFolder],
        policies: Mapping[str, Policy],
        clock: Callable[[], float],
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
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
                if self._later.get(file.id, (0, 0.0))[1] <= now:
                    self._take(file)
        return 0.0 if full else None

    def _take(self, file: File) -> None:
        root = self._consumed[file.folder].path
        try:
            with disk.open_beneath(root, file.path) as descriptor:
                if not self._is_what_was_sent(file, descriptor):
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
        return f"moved to {where.decode('utf-8', 'backslashreplace')}"

    def _failed(self, file: File, error: OSError | DiskError) -> None:
        """Believe the disk: what is gone is taken away, whatever went wrong after that."""
        sight = disk.look(self._consumed[file.folder].path, [file.path])[file.path]
        if sight.found is disk.Found.ABSENT:
            if file.status is FileStatus.CONSUMED or not isinstance(error, FileChangedError):
                self._done(file, "taken away after its upload")
            return
        self._put_off(file)
        if sight.found is disk.Found.UNREADABLE:
            return
        reason = str(error.strerror or error) if isinstance(error, OSError) else str(error)
        verb = "moved" if self._consumed[file.folder].move_to else "deleted"
        message = f"it could not be {verb} after its upload: {reason}"
        now = self._clock()
        self._store.write(
            lambda db: consumption.stays(db, file.id, self._policies, now, reason=message)
        )
        log.warning("%s: %s", _shown(file), message)

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
        log.info("%s: %s", _shown(file), how)


def _shown(file: File) -> str:
    return path_texts(file.path)[0]
