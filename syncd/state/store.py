"""The state directory as a whole: lock, writer, readers, and this instance's own facts."""

import fcntl
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from sqlite_utils import Database

from syncd.exceptions import ForeignStateError, StateError, StateLockedError
from syncd.state import schema
from syncd.state.ledger import recover
from syncd.state.writer import Writer

T = TypeVar("T")
#: What a unit of work is handed: the database, inside its transaction.
Transaction = Database
LOCK_NAME = "lock"
#: The fact that says whether a listing of the service showed us one of our tokens.
ECHO = "echo"
PROVEN, NO_ECHO = "proven", "none"
#: Connections for reading; a query takes less than a millisecond, as a rule.
READERS = 4
#: A probe of the lock by another process is over in less: a start does not fail on it.
LOCK_SECONDS = 1.0


class Readers:
    """Read-only connections to the table, a few for all threads.

    They are opened before anything else may take the last open file: whoever wants to read waits
    for one to be free, and never for the system.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        #: None, for good, once they are closed
        self._free: queue.SimpleQueue[Database | None] = queue.SimpleQueue()
        self._open = 0

    def open(self) -> None:
        """Open every connection. StateError where that cannot be."""
        for _ in range(READERS):
            db = schema.open_readonly(self._path)
            # The first statement opens the WAL, too.
            db.conn.execute("SELECT 1 FROM service LIMIT 1").fetchone()
            self._open += 1
            self._free.put(db)

    def read(self, query: Callable[[Database], T]) -> T:
        """Run `query` on a free connection, on one consistent view; return its result."""
        within: Database | None = getattr(self._local, "db", None)
        if within is not None:
            # A query within a query shares its view.
            return query(within)
        db = self._free.get()
        if db is None:
            self._free.put(None)
            raise StateError("the state database is closed")
        try:
            self._local.db = db
            db.conn.execute("BEGIN")
            try:
                return query(db)
            finally:
                db.conn.execute("COMMIT")
        finally:
            self._local.db = None
            self._free.put(db)

    def close(self) -> None:
        """Close every connection; whoever still reads is waited for. Safe to call twice."""
        while self._open:
            db = self._free.get()
            if db is not None:
                db.close()
                self._open -= 1
        self._free.put(None)


class Store:
    """An open state directory. It is locked for as long as it is open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / schema.FILE_NAME
        self._lock_descriptor: int | None = None
        self._writer = Writer(self._path)
        self._readers = Readers(self._path)
        self.instance = ""

    def open(self, now: float) -> None:
        """Take the lock and open the database; what was in flight at the last end is in doubt.

        StateLockedError where another instance runs, ForeignStateError where the state is not
        ours to touch, StateError where it cannot be used.
        """
        # Whatever the umask: nobody else reads what we know of the folders.
        os.umask(0o077)
        prepare_directory(self.directory)
        self._lock_descriptor = _lock(self.directory / LOCK_NAME)
        try:
            schema.refuse_foreign(self._path)
            self._writer.start()
            self._writer.write(lambda db: recover(db, now))
            self._readers.open()
            self.instance = self._writer.write(_instance)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close everything and give the lock back; safe to call twice."""
        # The writer last: who closes the database last writes its log back, and a reader may not.
        self._readers.close()
        self._writer.stop()
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def write(self, work: Callable[[Database], T]) -> T:
        """Run `work` as a transaction; see `Writer.write`."""
        return self._writer.write(work)

    def submit(self, work: Callable[[Database], T]) -> "Future[T]":
        """Hand `work` in as a transaction, without waiting; see `Writer.submit`."""
        return self._writer.submit(work)

    def read(self, query: Callable[[Database], T]) -> T:
        """Run `query` on a read-only connection; see `Readers.read`."""
        return self._readers.read(query)

    @property
    def changed(self) -> threading.Event:
        """Set after each commit: a hint that something may be due."""
        return self._writer.changed

    @property
    def failed(self) -> bool:
        """Whether the state cannot be trusted to this process any more."""
        return self._writer.failed

    @property
    def writer_alive_at(self) -> float:
        """When the writer last came round, on the monotonic clock."""
        return self._writer.last_alive

    def fact(self, key: str) -> str | None:
        """Return one of the facts about the service that are kept, or None."""
        return self.read(lambda db: fact(db, key))

    def set_fact(self, key: str, value: str) -> None:
        """Keep a fact about the service."""
        self.write(lambda db: set_fact(db, key, value))

    def bind(self, key: str, value: str, *, advice: str) -> None:
        """Keep `value` at the first start; ForeignStateError where it was another one before."""
        known = self.write(lambda db: _bind(db, key, value))
        if known != value:
            raise ForeignStateError(
                f"the state in {self.directory} belongs to {key.replace('_', ' ')} {known}, "
                f"and not to {value}: {advice}"
            )


def fact(db: Database, key: str) -> str | None:
    """Return a fact kept about the service, or None."""
    row = db.conn.execute("SELECT value FROM service WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def set_fact(db: Database, key: str, value: str) -> None:
    """Keep a fact about the service."""
    db.conn.execute(
        "INSERT INTO service (key, value) VALUES (?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def prepare_directory(directory: Path) -> None:
    """Make the state directory, for its owner only; StateError where that cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(PermissionError):
            directory.chmod(0o700)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        raise StateError(
            f"cannot use the state directory {directory}: {error.strerror}; make it writable for "
            f"user {os.getuid()}, or set [state] directory",
        ) from error


def lock_holder(directory: Path) -> int | None:
    """Return the process id of the instance that holds the state directory, or None."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written_pid(descriptor)
    finally:
        os.close(descriptor)
    return None


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                holder = _written_pid(descriptor)
                os.close(descriptor)
                raise StateLockedError(
                    f"another syncd (process {holder}) uses {path.parent}; stop it, or give this "
                    "one its own [state] directory",
                ) from error
            time.sleep(0.05)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _written_pid(descriptor: int) -> int:
    text = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else 0


def _instance(db: Database) -> str:
    known = fact(db, "instance")
    if known is None:
        known = secrets.token_hex(4)
        set_fact(db, "instance", known)
    return known


def _bind(db: Database, key: str, value: str) -> str:
    known = fact(db, key)
    if known is None:
        set_fact(db, key, value)
        return value
    return known
