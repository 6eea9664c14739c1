"""The files that are handed out to the upload threads and not finished."""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from syncd.exceptions import ShortageError, StateError
from syncd.state.backoff import backoff_seconds
from syncd.state.database.store import Store
from syncd.state.files import File
from syncd.state.ledger import Ledger
from syncd.workers.gate import Gate
from syncd.workers.upload_queue import UploadQueue, is_large

log = logging.getLogger(__name__)

#: Seconds between two warnings that uploads wait because this process is out of something.
SHED_SECONDS = 60.0


@dataclass(kw_only=True, eq=False)
class HandedOut:
    """Tracks each file from when it is handed out until it ends, however it ends. Thread-safe."""

    store: Store
    ledger: Ledger
    gate: Gate
    queue: UploadQueue
    clock: Callable[[], float]
    #: the files whose outcome could not be recorded
    unknown: set[int] = field(default_factory=set, init=False)
    #: what is handed out, by id; changed by this class only
    files: dict[int, File] = field(default_factory=dict, init=False)
    #: how many of these may have ended syncd before
    suspects: int = field(default=0, init=False)
    #: how many of each folder and kind of size there are
    _kinds: Counter[tuple[str, bool]] = field(default_factory=Counter, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _shed_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Count from now on."""
        #: when a file was last stored, or when this was made
        self.stored_at = self.clock()

    def kinds(self, *, more_than: int) -> list[tuple[str, bool]]:
        """Return the folders, with the size, that have more than so many files handed out."""
        with self._lock:
            return [kind for kind, number in self._kinds.items() if number > more_than]

    def hand_out(self, file: File) -> None:
        """Give a file to the threads."""
        self._count(file, 1)
        self.queue.put(file)

    def _count(self, file: File, by: int) -> None:
        with self._lock:
            if by > 0:
                self.files[file.id] = file
            elif self.files.pop(file.id, None) is None:
                return
            self.suspects += by * (file.crashes > 0)
            self._kinds[file.folder, is_large(file)] += by

    def finished(self, file_id: int) -> None:
        """Record that a file is no longer under way, whatever the outcome."""
        self.gate.ended(file_id)
        file = self.files.get(file_id)
        if file is not None:
            self._count(file, -1)
            self.queue.done(file)

    def stored(self, file: File) -> None:
        """Note that a file is stored, and the outcome committed."""
        self.finished(file.id)
        self.stored_at = self.clock()

    def shed(self, file: File, error: ShortageError | MemoryError) -> None:
        """Leave a file for later because this process is out of something."""
        until = self.clock() + backoff_seconds(1)
        with suppress(StateError):
            self.store.write(self.ledger.put_off, file.id, until)
        self.finished(file.id)
        now = self.clock()
        if now > self._shed_at + SHED_SECONDS:
            self._shed_at = now
            words = "there is no memory left" if isinstance(error, MemoryError) else error
            log.warning("uploads wait: %s", words)

    def failed(self, file: File, error: Exception) -> None:
        """Handle an unexpected failure of one file: keep the thread, and back the file off.

        Anything it left in flight is in doubt; the next step records that.
        """
        if isinstance(error, StateError):
            log.error("%s: not recorded, tried again later: %s", file.shown, error)
        else:
            log.error("%s: unexpected failure, tried again later", file.shown, exc_info=error)
        until = self.clock() + backoff_seconds(6)
        with suppress(Exception):
            self.store.write(self.ledger.put_off, file.id, until)
        self.note_unknown(file.id)

    def note_unknown(self, file_id: int) -> None:
        """Note that the outcome of a file could not be recorded."""
        with self._lock:
            self.unknown.add(file_id)

    def clear_unknown(self) -> None:
        """Put in doubt what was in flight for files whose last commit failed."""
        with self._lock:
            unknown = list(self.unknown)
        for file_id in unknown:
            self._put_in_doubt(file_id)
            with self._lock:
                self.unknown.discard(file_id)
            self.finished(file_id)

    def _put_in_doubt(self, file_id: int) -> None:
        now = self.clock()
        self.store.write(self.ledger.put_in_doubt, file_id, now)
