"""Sends due files: the step hands them out, and threads upload them.

Each thread has its own client, so that a disk that hangs or a server that stalls blocks one of them
and nothing else. Threads are started as needed.
"""

import logging
import resource
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from syncd.exceptions import ShortageError
from syncd.files_api import FilesClient, StopFlag
from syncd.one_cpu import ONE_CPU
from syncd.state import due
from syncd.state.database.store import Store
from syncd.state.holds import pauses
from syncd.state.ledger import Ledger
from syncd.units import counted
from syncd.workers.bandwidth import BandwidthControl
from syncd.workers.concurrency import MOST, Concurrency
from syncd.workers.failed_uploads import FailedUploads
from syncd.workers.gate import Gate
from syncd.workers.handed_out import HandedOut
from syncd.workers.preparation import Preparation, SourceRoot, UploadOptions
from syncd.workers.sending import Sending
from syncd.workers.transfers import Transfers
from syncd.workers.upload_queue import LARGE_AT_ONCE, UploadQueue
from syncd.workers.upload_thread import BATCHED, UploadThread

log = logging.getLogger(__name__)

#: Files of each folder, small or large, that are handed out at a time; and of one of many folders.
HANDED_OUT, LEAST_HANDED_OUT = 4096, 64
#: The open files for each upload thread, by which their number is limited: a connection, and the
#: files of a batch.
FILES_EACH = 16
#: One in so many open files may be of a batch; two batches of a thread are open at a time.
BATCHED_PART = 4
#: The shortest pause between two steps while nothing may be sent, in seconds.
SHORTEST_REST_SECONDS = 0.05
#: Seconds without a byte after which another transfer may start beside the stalled one.
STALLED_SECONDS = 10.0
#: Seconds that a transfer gets to end once it is told to, and between two looks for that.
ABORT_SECONDS, JOIN_SECONDS = 3.0, 0.1


def _open_files() -> int:
    """Return how many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass(kw_only=True, eq=False)
class Uploader:
    """The upload stage: `step` hands out what is due, threads send it."""

    store: Store
    ledger: Ledger
    roots: Mapping[str, SourceRoot]
    make_client: Callable[[StopFlag], FilesClient]
    gate: Gate
    options: UploadOptions
    clock: Callable[[], float]
    monotonic: Callable[[], float] = time.monotonic
    bandwidth: BandwidthControl | None = None

    def __post_init__(self) -> None:
        self._stop = StopFlag()
        self._most = self.options.workers or min(MOST, max(_open_files() // FILES_EACH, 1))
        self.transfers = Transfers(self.clock)
        self._concurrency = Concurrency(self.options.workers, self.monotonic)
        self._queue = UploadQueue(
            large_at_once=min(LARGE_AT_ONCE, max(self._most - 1, 1)),
            limit=self._concurrency.limit,
        )
        self._handed_out = HandedOut(
            store=self.store,
            ledger=self.ledger,
            gate=self.gate,
            queue=self._queue,
            clock=self.clock,
        )
        self._preparation = Preparation(
            store=self.store,
            ledger=self.ledger,
            roots=self.roots,
            gate=self.gate,
            options=self.options,
            clock=self.clock,
            stop=self._stop,
            transfers=self.transfers,
        )
        self._sending = Sending(
            store=self.store,
            ledger=self.ledger,
            gate=self.gate,
            with_token=self.options.token,
            clock=self.clock,
            stop=self._stop,
            preparation=self._preparation,
            transfers=self.transfers,
            failures=FailedUploads(
                store=self.store,
                ledger=self.ledger,
                gate=self.gate,
                concurrency=self._concurrency,
                clock=self.clock,
            ),
        )
        self._threads_lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        #: whether more threads may be started
        self._may_start = False

    def start(self) -> None:
        """Start the first upload thread; raise ShortageError if that fails."""
        self._queue.open()
        self._may_start = True
        self._start_thread()

    def _start_threads(self) -> None:
        """Start threads for waiting files: as many as may work, and as many again in reserve."""
        with self._threads_lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            most = min(2 * self._queue.limit, self._most)
            wanted = min(self._queue.at_work + len(self._queue), most)
            while len(self._threads) < wanted and self._may_start:
                self._start_thread()

    def _start_thread(self) -> None:
        name = f"syncd-upload-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        words = "no more threads can be had: raise pids.max (TasksMax), ulimit -u or the memory"
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            if not self._threads:
                raise ShortageError(
                    f"nothing can be sent: {words}, and start syncd again"
                ) from error
            self._may_start = False
            log.warning("%d of %d upload threads run: %s", len(self._threads), self._most, words)
        else:
            self._threads.append(thread)

    def stop(self, drain_seconds: float) -> None:
        """Let transfers finish for `drain_seconds`, then abort the rest before their last byte.

        A thread that hangs even then, on a disk, is left behind: its request is in doubt at the
        next start.
        """
        self._may_start = False
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

    @property
    def progress_at(self) -> float:
        """When a file was last stored, or a byte sent; or when this was made."""
        moved = [transfer.moved_at or 0.0 for transfer in self.transfers.all()]
        return max(self._handed_out.stored_at, *moved, 0.0)

    @property
    def busy(self) -> bool:
        """Whether anything is handed out and not finished."""
        return bool(self._handed_out.files)

    def step(self) -> float | None:
        """Hand out what is due while there is room; return the seconds until more may be."""
        ONE_CPU.follow()
        self._handed_out.clear_unknown()
        self.gate.end_quota_rest()
        self.gate.see_standstills()
        limited = self.bandwidth.step() if self.bandwidth else None
        now = self.clock()
        if self.store.read(due.is_refused_due, now):
            self.store.write(self.ledger.try_refused_again, now)
        if not self.gate.may_send():
            return max(self.gate.seconds_shut(), SHORTEST_REST_SECONDS)
        self._hand_out(now)
        self._allow()
        if self.gate.storage_tripped and not self.store.read(due.are_uploads_waiting):
            self.gate.storage.reset()
        ends = [self.store.read(due.next_upload, now), self.store.read(pauses.next_end)]
        ends += [None if limited is None else now + limited]
        return min((max(at - now, 0.0) for at in ends if at is not None), default=None)

    def _hand_out(self, now: float) -> None:
        """Hand out due files that may be sent; while something is broken, a file that probes it."""
        taken = self._handed_out.files
        most = max(HANDED_OUT // max(len(self.roots), 1), LEAST_HANDED_OUT)
        enough = self._handed_out.kinds(more_than=most // 4)
        suspected = self._handed_out.suspects > 0
        closed = self.closed_folders()
        for file in self.store.read(
            due.uploads, now, most, only=self.roots, closed=closed, enough=enough, taken=taken
        ):
            # A file that may have crashed syncd goes alone, so that a second crash proves it.
            goes_alone = file.crashes > 0 and suspected
            if goes_alone or not self._preparation.claim(file):
                continue
            suspected = suspected or file.crashes > 0
            self._handed_out.hand_out(file)

    def _allow(self) -> None:
        """Let as many threads work as is worthwhile, not counting those that hang."""
        limit = self._concurrency.limit + self.transfers.stalled(STALLED_SECONDS)
        self._queue.allow(min(limit, self._most))
        self._start_threads()

    def closed_folders(self) -> list[str]:
        """Return the folders whose workspace takes nothing now."""
        closed, refusals = self.gate.workspaces.closed, self.gate.refusals
        closed |= {name for name in refusals.held if not refusals.may_probe(name)}
        return [name for name, root in self.roots.items() if root.workspace_uuid in closed]

    def _work(self) -> None:
        """Bring files up until told to end."""
        UploadThread(
            store=self.store,
            ledger=self.ledger,
            queue=self._queue,
            handed_out=self._handed_out,
            preparation=self._preparation,
            sending=self._sending,
            concurrency=self._concurrency,
            make_client=lambda: self.make_client(self._stop),
            is_stopped=self._stop.is_set,
            clock=self.clock,
            first_poll_seconds=self.options.first_poll_seconds,
            batched=min(BATCHED, _open_files() // BATCHED_PART),
            on_limit=self._allow,
        ).run()
