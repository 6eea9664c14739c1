"""The state directory as a whole: lock, writer, readers, and this instance's own facts."""

import errno
import fcntl
import logging
import os
import queue
import secrets
import shlex
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from sqlite_utils import Database

from syncd.exceptions import (
    DamagedStateError,
    ForeignStateError,
    StateError,
    StateLockedError,
    StateWriteError,
)
from syncd.mounts import NETWORKS, kind_of
from syncd.state import (
    backups,
    damage,
    holds,
    instance,
    owner,
    predecessor,
    rollback,
    schema,
    tokens,
)
from syncd.state.facts import fact, read_fact, set_fact
from syncd.state.instance import Instance
from syncd.state.ledger import recover
from syncd.state.lock import LOCK_NAME, lock_holder, written_pid
from syncd.state.writer import Writer

__all__ = [
    "LOCK_NAME",
    "Readers",
    "Store",
    "Transaction",
    "fact",
    "lock_holder",
    "read_fact",
    "set_fact",
]

log = logging.getLogger(__name__)

T = TypeVar("T")
Item = TypeVar("Item")
#: What a unit of work is handed: the database, inside its transaction.
Transaction = Database
#: The file that says that damage was met: the next start examines every value and every index.
SUSPECT_NAME = "suspect"
#: The facts that say what the ledger belongs to: they outlive it.
BASE_URL, ORGANIZATION, KEY_MARK = "base_url", "organization", "key_mark"
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
        #: whether something was read that is damaged
        self.met_damage = False

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
        except sqlite3.Error as error:
            if damage.is_damage(error) and not self.met_damage:
                self.met_damage = True
                log.critical("nothing is sent or deleted: %s is damaged: %s", self._path, error)
            raise
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
        self._suspect = directory / SUSPECT_NAME
        self._lock_descriptor: int | None = None
        #: device and inode of directory, database and lock, while they are open
        self._places: dict[Path, tuple[int, int]] = {}
        self._displaced = ""
        self._writer = Writer(self._path)
        self._readers = Readers(self._path)
        #: the last written instance file; None where it must not be written
        self._remembered: Instance | None = None
        self.instance = ""
        #: what was read last, each with the writer's version before
        self._recalled: dict[Hashable, tuple[int, Any]] = {}

    def open(self, now: float) -> None:
        """Take the lock and open the database; what was in flight at the last end is in doubt.

        A damaged database is set aside and the newest backup put in its place. What was lost is
        a hold on everything. StateLockedError where another instance runs, ForeignStateError
        where the state is not ours to touch, StateError where it cannot be used.
        """
        # Whatever the umask: nobody else reads what we know of the folders.
        os.umask(0o077)
        if (pid := lock_holder(self.directory)) is not None:
            # It is in use, whoever owns it.
            _await_lock(self.directory, pid)
        prepare_directory(self.directory)
        self._lock_descriptor = _lock(self.directory / LOCK_NAME)
        try:
            known = instance.read(self.directory)
            unreadable = known is None and instance.exists(self.directory)
            loss = self._start_writer(known, now)
            self._suspect.unlink(missing_ok=True)
            self._writer.write(lambda db: recover(db, now))
            self._readers.open()
            self._introduce(known, loss, now, unreadable=unreadable)
            lock = self.directory / LOCK_NAME
            self._places = {path: _place(path) for path in (self.directory, self._path, lock)}
        except BaseException:
            self.close()
            raise

    def _start_writer(self, known: Instance | None, now: float) -> str:
        """Open the database, or its newest backup; return what was lost, in words."""
        try:
            schema.refuse_foreign(self._path, ours_before=known is not None)
            self._writer.start(thorough=self._suspect.exists())
        except DamagedStateError as error:
            if known is not None:
                # First, so that an end in between is noticed: no backup has come that far.
                instance.write(
                    self.directory, known._replace(progress=known.progress + instance.UNSEEN)
                )
            aside, backup = backups.put_back(self._path, now, is_whole=schema.is_whole)
            log.critical("%s; it is kept in %s", error, aside)
            self._writer.start()
            if backup is None:
                return f"the state database was damaged (it is kept in {aside}), without a backup"
            return (
                f"the state database was damaged (it is kept in {aside}); {backup} took its place"
            )
        return ""

    def _introduce(
        self, known: Instance | None, loss: str, now: float, *, unreadable: bool
    ) -> None:
        """Learn or keep who we are, and hold everything where the ledger has lost something.

        An instance file that is `unreadable` beside a new database tells at least of an old one.
        """

        def compare(db: Database) -> Instance:
            own = fact(db, "instance")
            if own is None:
                set_fact(db, "instance", known.id if known else secrets.token_hex(4))
            is_own = known is not None and own in (None, known.id)
            tokens.keep_secret(db, known.secret if known and is_own else None, now)
            if known is not None and is_own:
                for key, value in known.bound_to.items():
                    _bind(db, key, value)
            here = _here(db)
            said = loss
            if own is None and (known is not None or unreadable):
                said = loss or f"the state database in {self.directory} is gone"
            elif known is not None and own == known.id and here.progress < known.progress:
                said = loss or f"an older state database was put into {self.directory}"
            if said and not holds.is_lost(db):
                hold_everything(db, said, now)
            return here

        here = self._writer.write(compare)
        if known is not None and known.id != here.id:
            raise ForeignStateError(
                f"{self._path} is the state of instance {here.id}, and {instance.FILE_NAME} beside "
                f"it of {known.id}: put the right one of the two back, or remove "
                f"{instance.FILE_NAME} to go on with the database as it is"
            )
        self.instance = here.id
        self.remember()

    def recovered(self, db: Database, now: float) -> None:
        """Within a transaction: end the hold of a loss, now that the ledger is whole again."""
        known = instance.read(self.directory)
        # Whatever older database turns up from now on is behind this one.
        instance.advance_to(db, (known.progress if known else 0) + instance.UNSEEN)
        holds.release(db, stops="sending", scope=holds.EVERYWHERE, reason=holds.STATE_LOST, now=now)

    def remember(self) -> None:
        """Write down beside the database how far the ledger has come, unless it lost something.

        About once a minute, and at the end.
        """
        if self.displaced:
            return
        here = self.read(lambda db: None if holds.is_lost(db) else _here(db))
        if here is None or here == self._remembered:
            return
        try:
            instance.write(self.directory, here)
        except OSError as error:
            path = self.directory / instance.FILE_NAME
            log.warning("cannot write %s: %s", path, error.strerror or error)
        else:
            self._remembered = here

    def become(self, instance_id: str, now: float) -> bool:
        """Take on the id of an earlier instance; False where this one has sent something.

        Its ledger is lost, and everything is held until it is rebuilt.
        """
        if instance_id == self.instance:
            return True
        if self.read(rollback.has_sent):
            return False
        # First, so that an end in between leaves no file that contradicts the database.
        instance.forget(self.directory)
        if not self.write(lambda db: _become(db, instance_id, now)):
            return False
        self.instance = instance_id
        return True

    def back_up_if_due(self, now: float) -> None:
        """Back the database up once a day, unless the ledger has lost something.

        It is examined before, so that no damage displaces what would mend it: DamagedStateError.
        """
        if backups.is_due(self.directory, now) and not self.read(holds.is_lost):
            self.read(self._examine)
            backups.make(self._path, now)

    def _examine(self, db: Database) -> None:
        try:
            schema.refuse_damaged(db, self._path, thorough=True)
        except DamagedStateError:
            self._readers.met_damage = True
            raise

    def close(self) -> None:
        """Close everything and give the lock back; safe to call twice."""
        if self.instance and not self._writer.failed and not self.displaced:
            with suppress(StateError, sqlite3.Error):
                self.remember()
        if self._met_damage:
            with suppress(OSError):
                self._suspect.touch(0o600)
        self.instance = ""
        self._places = {}
        # The writer last: who closes the database last writes its log back, and a reader may not.
        self._readers.close()
        self._writer.stop()
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def write(self, work: Callable[[Database], T]) -> T:
        """Run `work` as a transaction; see `Writer.write`."""
        return self.submit(work).result()

    def submit(self, work: Callable[[Database], T]) -> "Future[T]":
        """Hand `work` in as a transaction, without waiting; see `Writer.submit`."""
        self._refuse_unreliable()
        return self._writer.submit(work)

    def submit_all(
        self, work: Callable[[Database, Sequence[Item]], Sequence[T]], items: Sequence[Item]
    ) -> "list[Future[T]]":
        """Hand in work for several items, without waiting; see `Writer.submit_all`."""
        self._refuse_unreliable()
        return self._writer.submit_all(work, items)

    def _refuse_unreliable(self) -> None:
        """Raise StateWriteError where the state on the disk cannot be relied on."""
        if why := self.displaced:
            raise StateWriteError(why)
        if self._met_damage:
            # Whatever was to be sent or deleted would go by what cannot be relied on.
            raise StateWriteError(f"the state database {self._path} is damaged")

    def read(self, query: Callable[[Database], T]) -> T:
        """Run `query` on a read-only connection; see `Readers.read`."""
        return self._readers.read(query)

    def recall(self, key: Hashable, query: Callable[[Database], T]) -> T:
        """Return what `query` returns, read at most once between two commits; `key` names it."""
        version = self._writer.version
        known: tuple[int, T] | None = self._recalled.get(key)
        if known is None or known[0] != version:
            known = self._recalled[key] = version, self.read(query)
        return known[1]

    @property
    def changed(self) -> threading.Event:
        """Set after each commit: a hint that something may be due."""
        return self._writer.changed

    @property
    def recoveries(self) -> int:
        """How often commits were taken again after some had failed."""
        return self._writer.recoveries

    @property
    def failed(self) -> bool:
        """Whether the state cannot be trusted to this process any more."""
        return self._writer.failed or self._met_damage or bool(self.displaced)

    @property
    def displaced(self) -> str:
        """Say what is not at its path any more, for good; empty while everything is.

        Asked before each transaction, and so before each request that changes anything: what is
        written into a removed database is lost, and a second daemon may have taken its place.
        """
        for path, place in () if self._displaced else tuple(self._places.items()):
            try:
                here = _place(path)
            except (FileNotFoundError, NotADirectoryError):
                here = None
            except OSError:
                # It cannot be seen now: that proves nothing.
                continue
            if here != place:
                gone = "is gone" if here is None else "was replaced by another"
                self._displaced = (
                    f"{path} {gone} while syncd was using it: nothing is sent or deleted any more; "
                    "put the state directory back and start syncd again"
                )
                log.critical("%s", self._displaced)
                break
        return self._displaced

    @property
    def in_trouble(self) -> bool:
        """Whether commits fail now: the disk is full, or does not work."""
        return self._writer.in_trouble

    @property
    def _met_damage(self) -> bool:
        return self._writer.met_damage or self._readers.met_damage

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
        """Keep `value` until something may be stored there; then ForeignStateError for another."""
        known = self.write(lambda db: _bind(db, key, value))
        if known != value:
            raise ForeignStateError(
                f"the state in {self.directory} belongs to {key.replace('_', ' ')} {known}, "
                f"and not to {value}: {advice}"
            )


def prepare_directory(directory: Path) -> None:
    """Make the state directory, for its owner only; raise StateError when that cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner.refuse_to_write(directory)
        with suppress(PermissionError):
            directory.chmod(0o700)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
        kind = kind_of(os.fsencode(directory))
        if kind in NETWORKS:
            raise StateError(
                f"the state directory {directory} is on a network filesystem ({kind}), where "
                "SQLite's locks cannot be relied on: set [state] directory to a local disk"
            )
    except (FileExistsError, NotADirectoryError) as error:
        raise StateError(
            f"the state directory {directory} is a file, or lies beneath one; set [state] "
            "directory to another place"
        ) from error
    except OSError as error:
        raise _unusable(directory, error) from error


def _place(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _unusable(directory: Path, error: OSError) -> StateError:
    user = os.getuid()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateError(
            f"the disk of the state directory {directory} is full: free some space, and start "
            "syncd again"
        )
    return StateError(
        f"cannot use the state directory {directory}: {error.strerror}; run syncd as the user it "
        f"belongs to, give it to user {user} (chown -R {user} {shlex.quote(str(directory))}), or "
        "set [state] directory"
    )


def _await_lock(directory: Path, pid: int) -> None:
    """Wait a moment for the lock to be free; raise StateLockedError when it is not."""
    deadline = time.monotonic() + LOCK_SECONDS
    while lock_holder(directory) is not None:
        if time.monotonic() > deadline:
            raise _locked(directory, pid)
        time.sleep(0.05)


def _locked(directory: Path, pid: int | None) -> StateLockedError:
    return StateLockedError(
        f"another syncd (process {pid}) uses {directory}; stop it, or give this one its own "
        "[state] directory"
    )


def _lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # A pass that was once made as another user leaves its files in a directory of ours.
        raise _unusable(path.parent, error) from error
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                holder = written_pid(descriptor)
                os.close(descriptor)
                raise _locked(path.parent, holder) from error
            time.sleep(0.05)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise _unusable(path.parent, error) from error
    return descriptor


def hold_everything(db: Database, loss: str, now: float) -> None:
    """Within a transaction: hold everything until `syncd adopt` has run."""
    holds.place(
        db,
        stops="sending",
        scope=holds.EVERYWHERE,
        reason=holds.STATE_LOST,
        message=f"{loss}: nothing is sent or deleted until `syncd adopt` has compared what is left "
        "with the remote files",
        commands=("syncd adopt", "syncd verify"),
        now=now,
    )


def _here(db: Database) -> Instance:
    known = {key: fact(db, key) for key in (BASE_URL, ORGANIZATION, KEY_MARK)}
    bound_to = {key: value for key, value in known.items() if value is not None}
    return Instance(
        fact(db, "instance") or "", instance.progress(db), bound_to, fact(db, tokens.SECRET)
    )


def _become(db: Database, instance_id: str, now: float) -> bool:
    if rollback.has_sent(db):
        return False
    set_fact(db, "instance", instance_id)
    tokens.distrust(db)
    hold_everything(db, f"the ledger of instance {instance_id} is lost", now)
    predecessor.release(db, now)
    return True


def _bind(db: Database, key: str, value: str) -> str:
    known = fact(db, key)
    if known is None or (known != value and not has_reached(db)):
        set_fact(db, key, value)
        return value
    return known


def has_reached(db: Database) -> bool:
    """Say whether the service may hold anything of this ledger's, or was seen to answer."""
    return holds.is_lost(db) or bool(
        db.conn.execute(
            "SELECT 1 FROM copies WHERE file_uuid IS NOT NULL OR status = 'sending' "
            "UNION ALL SELECT 1 FROM unanswered "
            "UNION ALL SELECT 1 FROM service WHERE key IN ('organization', 'probe left') "
            "OR key LIKE 'echo %' LIMIT 1"
        ).fetchone()
    )
