"""Sends what is due: the step hands it out, threads of their own bring it up.

Each thread has its own client, so that a disk that hangs or a server that stalls holds up one of
them and nothing else. Where much waits, a thread takes a few small files at a time: their intents
share a commit, and the outcomes are committed while the next few are read.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

from syncd.exceptions import ShortageError, StateError
from syncd.files_api import FilesClient, FileUpload, StopFlag
from syncd.log import fields
from syncd.metrics import UPLOADED_BYTES, UPLOADED_FILES, UPLOADED_LAST_HOUR
from syncd.state import due
from syncd.state.files import File
from syncd.state.ledger import Ledger
from syncd.state.retry import backoff_seconds
from syncd.state.store import Store
from syncd.units import counted
from syncd.workers.gate import Gate
from syncd.workers.passage import (
    InFlight,
    Passage,
    Prepared,
    Root,
    Sent,
    UploadOptions,
)
from syncd.workers.turns import LARGE_AT_ONCE, Turns, is_large

log = logging.getLogger(__name__)

#: Files of each folder handed out ahead for each thread, so that none waits for the next step.
AHEAD = 32
#: The shortest pause between two steps while nothing may be sent, in seconds.
SHORTEST_REST_SECONDS = 0.05
#: The most files that a thread takes at a time, and the largest of them in bytes.
BATCH, SMALL_BYTES = 8, 1 << 20
#: Seconds that a transfer gets to end once it is told to, and between two looks for that.
ABORT_SECONDS, JOIN_SECONDS = 3.0, 0.1
#: Seconds between two warnings that uploads wait because this process is out of something.
SHED_SECONDS = 60.0


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
        self._make_client = make_client
        self._gate = gate
        self._roots = roots
        self._workers = options.workers
        self._clock = clock
        self._stop = StopFlag()
        self._passage = Passage(
            store=store,
            ledger=ledger,
            roots=roots,
            gate=gate,
            options=options,
            clock=clock,
            stop=self._stop,
        )
        self._queue = Turns(large_at_once=min(LARGE_AT_ONCE, max(options.workers - 1, 1)))
        self._lock = threading.Lock()
        #: what is handed out and not finished
        self._taken: dict[int, File] = {}
        self._unknown: set[int] = set()
        self._shed_at = 0.0
        self._stored_at = clock()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the upload threads."""
        self._queue.open()
        for number in range(self._workers):
            thread = threading.Thread(target=self._work, name=f"syncd-upload-{number}", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:
                self._start_with_fewer(error)
                return
            self._threads.append(thread)

    def _start_with_fewer(self, error: Exception) -> None:
        """Go on with the threads that could be had; ShortageError where that is none."""
        words = "no more threads can be had: raise pids.max (TasksMax), ulimit -u or the memory"
        if not self._threads:
            raise ShortageError(f"nothing can be sent: {words}, and start syncd again") from error
        log.warning("%d of %d upload threads run: %s", len(self._threads), self._workers, words)

    def stop(self, drain_seconds: float) -> None:
        """Let transfers finish for `drain_seconds`, then abort the rest before their last byte.

        A thread that hangs all the same, on a disk, is left behind: what it had in flight is in
        doubt at the next start.
        """
        self._queue.close()
        self._join(drain_seconds, until_stopped=True)
        if any(thread.is_alive() for thread in self._threads):
            self._stop.set()
            self._join(ABORT_SECONDS)
        if hung := [thread for thread in self._threads if thread.is_alive()]:
            log.warning("%s left behind: a disk does not answer", counted(len(hung), "transfer"))
        self._threads.clear()

    def _join(self, seconds: float, *, until_stopped: bool = False) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            while thread.is_alive() and not (until_stopped and self._stop.is_set()):
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                thread.join(min(left, JOIN_SECONDS))

    def hurry(self) -> None:
        """Abort every transfer that has not released its last byte."""
        self._stop.set()

    def transfers(self) -> list[InFlight]:
        """Return the transfers under way, oldest first."""
        return self._passage.transfers()

    @property
    def progress_at(self) -> float:
        """When a file was stored, or a byte sent, last; at first when this was made."""
        moved = [transfer.moved_at or 0.0 for transfer in self.transfers()]
        return max(self._stored_at, *moved, 0.0)

    @property
    def busy(self) -> bool:
        """Whether anything is handed out and not finished."""
        with self._lock:
            return bool(self._taken)

    def step(self) -> float | None:
        """Hand out what is due while there is room; return the seconds until more may be."""
        self._clear_unknown()
        self._gate.end_rest()
        now = self._clock()
        if self._store.read(lambda db: due.is_refused_due(db, now)):
            self._store.write(lambda db: self._ledger.try_refused_again(db, now))
        if not self._gate.may_send():
            return max(self._gate.seconds_shut(), SHORTEST_REST_SECONDS)
        self._hand_out(now)
        if self._gate.storage_tripped and not self._store.read(due.are_uploads_waiting):
            self._gate.forget_storage()
        next_at = self._store.read(lambda db: due.next_upload(db, now))
        return None if next_at is None else max(next_at - now, 0.0)

    def _hand_out(self, now: float) -> None:
        """Hand out what is due and may go; while something is broken, a file that probes it."""
        with self._lock:
            taken = dict(self._taken)
        most = self._workers * AHEAD
        handed_out = Counter((file.folder, is_large(file)) for file in taken.values())
        suspected = any(file.crashes for file in taken.values())
        held = self.held_folders()
        for file in self._store.read(
            lambda db: due.uploads(db, now, most, only=self._roots, without=held)
        ):
            # What may have ended syncd before goes alone, so that it is known if it does again.
            goes_alone = file.crashes > 0 and suspected
            kind = (file.folder, is_large(file))
            if file.id in taken or goes_alone or handed_out[kind] >= most:
                continue
            if not self._claim(file):
                continue
            suspected = suspected or file.crashes > 0
            handed_out[kind] += 1
            with self._lock:
                self._taken[file.id] = file
            self._queue.put(file)

    def _claim(self, file: File) -> bool:
        workspace = self._roots[file.folder].workspace_uuid
        presigned = self._passage.is_presigned(file)
        return self._gate.claim(workspace, file.id, presigned=presigned)

    def held_folders(self) -> list[str]:
        """Return the folders whose workspace takes nothing now."""
        closed, refusals = self._gate.closed, self._gate.refusals
        closed |= {name for name in refusals.held if not refusals.may_probe(name)}
        return [name for name, root in self._roots.items() if root.workspace_uuid in closed]

    def _clear_unknown(self) -> None:
        """Put in doubt what was in flight for files whose last commit failed."""
        with self._lock:
            unknown = list(self._unknown)
        for file_id in unknown:
            self._abandon(file_id)
            with self._lock:
                self._unknown.discard(file_id)
            self._give_back(file_id)

    def _abandon(self, file_id: int) -> None:
        now = self._clock()
        self._store.write(lambda db: self._ledger.abandon(db, file_id, now))

    def _work(self) -> None:
        """Take files until told to end."""
        client = self._make_client(self._stop)
        sent: list[Sent] = []
        try:
            while True:
                if not len(self._queue):
                    sent = self._settle(sent)
                if not (batch := self._next_batch()):
                    break
                last, sent = sent, self._bring_up(client, batch)
                self._settle(last)
        finally:
            self._settle(sent)
            client.close()

    def _next_batch(self) -> list[File]:
        """Wait for a file, and take more small ones where there are enough for all threads."""
        first = self._queue.get()
        batch = [] if first is None else [first]
        small = first is not None and first.size <= SMALL_BYTES
        while small and len(batch) < BATCH and len(self._queue) > self._workers:
            more = self._queue.get_now(SMALL_BYTES)
            if more is None:
                break
            batch.append(more)
        return batch

    def _bring_up(self, client: FilesClient, batch: list[File]) -> list[Sent]:
        """Bring files as far as they go now; return the outcomes that are not committed yet."""
        sent = []
        with ExitStack() as opened:
            prepared = [one for file in batch if (one := self._prepare(file, opened))]
            try:
                reserved = self._passage.reserve(client, prepared)
            except Exception as error:
                for one in prepared:
                    self._failed(one.file, error)
                return []
            for one in prepared:
                if one.file.id in reserved and reserved[one.file.id] is None:
                    self._give_back(one.file.id)
                    continue
                outcome = self._carry(client, one, reserved.get(one.file.id))
                if outcome is not None:
                    sent.append(outcome)
        return sent

    def _prepare(self, file: File, opened: ExitStack) -> Prepared | None:
        ready = None
        try:
            if self._passage.admits(file) and not self._stop.is_set():
                ready = self._passage.prepare(file, opened)
        except (ShortageError, MemoryError) as error:
            self._shed(file, error)
            return None
        except Exception as error:
            self._failed(file, error)
            return None
        if ready is None:
            self._give_back(file.id)
        return ready

    def _carry(
        self, client: FilesClient, ready: Prepared, reserved: FileUpload | None
    ) -> Sent | None:
        sent = None
        try:
            sent = self._passage.carry(client, ready, reserved)
        except ShortageError as error:
            self._shed(ready.file, error)
            return None
        except Exception as error:
            self._failed(ready.file, error)
            return None
        if sent is None:
            self._give_back(ready.file.id)
        return sent

    def _settle(self, sent: list[Sent]) -> list[Sent]:
        """Wait until outcomes are committed, and tell of them; return that none is left."""
        for outcome in sent:
            try:
                became = outcome.became.result()
            except Exception as error:
                # Whatever it was: it is one file's trouble, and takes no thread.
                log.error(
                    "%s: stored, but not recorded: %s; looked up later",
                    outcome.shown,
                    error,
                    exc_info=None if isinstance(error, StateError) else error,
                )
                with self._lock:
                    self._unknown.add(outcome.file_id)
                continue
            self._give_back(outcome.file_id)
            self._stored_at = self._clock()
            UPLOADED_FILES.add(outcome.folder)
            UPLOADED_BYTES.add(outcome.folder, by=outcome.size)
            UPLOADED_LAST_HOUR.add(outcome.size)
            log.info(
                "%s: %s, %s (%s in %.1f s)",
                outcome.shown,
                became,
                outcome.file_uuid,
                counted(outcome.size, "byte"),
                outcome.seconds,
                extra=fields(
                    "uploaded",
                    folder=outcome.folder,
                    path=outcome.shown,
                    status=became,
                    file_uuid=outcome.file_uuid,
                    bytes=outcome.size,
                    seconds=round(outcome.seconds, 3),
                    request_id=outcome.request_id,
                ),
            )
        return []

    def _give_back(self, file_id: int) -> None:
        self._gate.ended(file_id)
        with self._lock:
            file = self._taken.pop(file_id, None)
        if file is not None:
            self._queue.done(file)

    def _shed(self, file: File, error: ShortageError | MemoryError) -> None:
        """Leave a file for later because this process is out of something."""
        until = self._clock() + backoff_seconds(1)
        with suppress(StateError):
            self._store.write(lambda db: self._ledger.put_off(db, file.id, until))
        self._give_back(file.id)
        now = self._clock()
        if now > self._shed_at + SHED_SECONDS:
            self._shed_at = now
            words = "there is no memory left" if isinstance(error, MemoryError) else error
            log.warning("uploads wait: %s", words)

    def _failed(self, file: File, error: Exception) -> None:
        """Handle an unexpected failure of one file: keep the thread, and back the file off.

        What it may have left in flight is in doubt: the next step says so in the table.
        """
        if isinstance(error, StateError):
            log.error("%s: not recorded, tried again later: %s", file.shown, error)
        else:
            log.error("%s: unexpected failure, tried again later", file.shown, exc_info=error)
        until = self._clock() + backoff_seconds(6)
        with suppress(Exception):
            self._store.write(lambda db: self._ledger.put_off(db, file.id, until))
        with self._lock:
            self._unknown.add(file.id)
