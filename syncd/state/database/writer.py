"""The one writer: a thread that owns the only writable schema.

Callers hand it small transactions and wait. Those that arrive together share one commit (group
commit), and those of one kind may share their statements (`submit_all`). A failing one leaves the
others alone.
"""

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from syncd.exceptions import DamagedStateError, StateWriteError
from syncd.one_cpu import ONE_CPU
from syncd.state.database import schema
from syncd.state.database.connection import Database
from syncd.state.database.savepoint import is_of_the_disk, savepoint

T = TypeVar("T")
Item = TypeVar("Item")
log = logging.getLogger(__name__)

#: Transactions in one commit: enough for a burst, few enough that nobody waits long.
GROUP_SIZE = 256
#: Failed commits in a row after which the state cannot be trusted to this process any more.
FATAL_FAILURES = 2


@dataclass(slots=True, eq=False)
class _Job:
    #: takes the database alone, or with the items of several jobs
    work: Callable[..., Any]
    future: "Future[Any]"
    #: what is handed to `work` together with the items of other jobs; None for a job on its own
    item: Any = None

    def run(self, db: Database) -> Any:
        """Do this job alone; return its result."""
        return self.work(db) if self.item is None else self.work(db, [self.item])[0]


class Writer:
    """Runs transactions one after another; `changed` is set after each commit, as a hint.

    `failed` turns true when two commits in a row failed, or when the database is damaged: the
    daemon then ends with code 1, so that the service manager starts it anew on what the disk really
    holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: Database | None = None
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="syncd-writer", daemon=True)
        self._closed = False
        self._door = threading.Lock()
        self._failures = 0
        #: whether the last commit of something failed
        self.in_trouble = False
        #: how often commits were taken again after some had failed: what was seen meanwhile is lost
        self.recoveries = 0
        self.changed = threading.Event()
        #: says why nothing may be written now; empty while it may
        self.refuses: Callable[[], str] = str
        self.failed = False
        #: why nothing is written any more; empty unless the database is damaged
        self.damage = ""
        #: when the thread last came round, on the monotonic clock: the watchdog's evidence
        self.last_alive = time.monotonic()
        #: changes with every commit, before anybody is told of it, and where one failed
        self.version = 0

    def start(self) -> None:
        """Open (and migrate) the database, then take transactions.

        Raise DamagedStateError when it is damaged, and StateError when it cannot be opened.
        """
        self._db = schema.open_writable(self._path, check=True)
        self._thread.start()

    def stop(self) -> None:
        """Commit what was handed in, close the database; safe to call twice."""
        with self._door:
            if self._closed:
                return
            self._closed = True
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        if self._db is not None:
            self._db.close()

    def write(self, work: Callable[[Database], T]) -> T:
        """Run `work` in a transaction and return its result once it is committed.

        Raise StateWriteError when the commit failed: its outcome is then unknown. What `work`
        itself raises is raised here, and nothing of it is written. `work` may run twice, so it must
        only read and write the database.
        """
        return self.submit(work).result()

    def submit(self, work: Callable[[Database], T]) -> "Future[T]":
        """Hand `work` in without waiting; see `write` for what the future then holds."""
        future: Future[T] = Future()
        self._hand_in([_Job(work, future)])
        return future

    def submit_all(
        self, work: Callable[[Database, Sequence[Item]], Sequence[T]], items: Sequence[Item]
    ) -> "list[Future[T]]":
        """Hand in one piece of work for each item, without waiting.

        `work` is called once for all items of one commit, also those of other callers, and returns
        a result for each. When it raises, it is called again for each item alone.
        """
        jobs = [_Job(work, Future(), item) for item in items]
        if jobs:
            self._hand_in(jobs)
        return [job.future for job in jobs]

    def _hand_in(self, jobs: list[_Job]) -> None:
        # A job behind the last one that `stop` lets in would never be answered.
        with self._door:
            if self._closed:
                raise StateWriteError("the state database is closed")
            self._jobs.put(jobs)

    def refuse_damaged(self, error: DamagedStateError) -> None:
        """Take no more transactions: the database is damaged, and its rows cannot be relied on."""
        if not self.damage:
            log.critical("%s", error)
        self.damage = str(error)
        self.failed = True

    def _run(self) -> None:
        with ONE_CPU.shared():
            while (jobs := self._gather()) is not None:
                self.last_alive = time.monotonic()
                if jobs:
                    self._commit(jobs)

    def _gather(self) -> list[_Job] | None:
        """Wait for work, then take all that is there; None at the end."""
        try:
            first = self._jobs.get(timeout=1.0)
        except queue.Empty:
            return []
        if first is None:
            return None
        jobs = list(first)
        while len(jobs) < GROUP_SIZE:
            try:
                more = self._jobs.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._jobs.put(None)
                break
            jobs += more
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        if why := self.damage or self.refuses():
            for job in jobs:
                job.future.set_exception(StateWriteError(why))
            return
        try:
            db = self._usable()
            before = db.conn.total_changes
            db.conn.execute("BEGIN IMMEDIATE")
            results = _run_together(db, jobs)
            db.conn.execute("COMMIT")
            written = db.conn.total_changes > before
        except Exception as error:  # no caller may wait for ever
            self._lost(jobs, error)
            return
        self.version += 1
        # A commit of nothing succeeds on any disk, and proves nothing.
        if written:
            self._recovered()
        for job, value, raised in results:
            if raised is None:
                job.future.set_result(value)
            else:
                job.future.set_exception(raised)
        self.changed.set()

    def _recovered(self) -> None:
        self._failures = 0
        if self.in_trouble:
            self.in_trouble = False
            self.recoveries += 1
            log.info("the state database takes commits again")

    def _usable(self) -> Database:
        if self._db is None:
            self._db = schema.open_writable(self._path)
        return self._db

    def _lost(self, jobs: list[_Job], error: Exception) -> None:
        """Tell every caller that the outcome is unknown, and reopen: believe only the disk."""
        self.version += 1
        if not _is_waiting(error):
            self._failures += 1
        self.failed = self.failed or self._failures >= FATAL_FAILURES
        why = f"cannot write {self._path}: {error}"
        if schema.is_damage(error):
            self.refuse_damaged(schema.damaged(self._path, error))
            why = self.damage
        elif not self.in_trouble:
            # Once: the callers come again and again until it heals.
            log.error("nothing is sent or deleted: %s", why)
        self.in_trouble = True
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.conn.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None
        for job in jobs:
            job.future.set_exception(StateWriteError(why))
        # A caller that retries at once meets a disk that is still full: do not let it spin.
        time.sleep(0.2)


def _run_together(db: Database, jobs: list[_Job]) -> list[tuple[_Job, Any, BaseException | None]]:
    """Run the jobs of one commit; one that fails is undone alone.

    First without savepoints, which cost as much as a small job does: only where one fails, all are
    undone and run again, each in a savepoint of its own.
    """
    try:
        return _run_shared(db, jobs)
    except BaseException as error:
        if is_of_the_disk(error):
            raise
    db.conn.execute("ROLLBACK")
    db.conn.execute("BEGIN IMMEDIATE")
    return [(job, *_attempt(db, job)) for job in jobs]


def _run_shared(db: Database, jobs: list[_Job]) -> list[tuple[_Job, Any, BaseException | None]]:
    """Run jobs, those of one kind in one call; they arrived together, so their order is free."""
    kinds: dict[Any, list[_Job]] = {}
    for job in jobs:
        kinds.setdefault(job if job.item is None else job.work, []).append(job)
    done: list[tuple[_Job, Any, BaseException | None]] = []
    for alike in kinds.values():
        if len(alike) == 1:
            results = [alike[0].run(db)]
        else:
            results = alike[0].work(db, [job.item for job in alike])
        done += [(job, value, None) for job, value in zip(alike, results, strict=True)]
    return done


def _attempt(db: Database, job: _Job) -> tuple[Any, BaseException | None]:
    try:
        with savepoint(db):
            return job.run(db), None
    except BaseException as error:
        if is_of_the_disk(error) or not db.conn.in_transaction:
            raise
        return None, error


def _is_waiting(error: Exception) -> bool:
    """Return whether `error` heals by itself: a full disk, or another process's lock."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
