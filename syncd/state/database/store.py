"""The state directory as a whole: lock, writer, readers, and this instance's own facts."""

import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from syncd.exceptions import DamagedStateError, ForeignStateError, StateError
from syncd.state import binding, files, holds, predecessor, rollback, tokens
from syncd.state.binding import BASE_URL, KEY_MARK, ORGANIZATION, SANDBOX
from syncd.state.database import backups, directory as state_directory, instance, schema
from syncd.state.database.connection import Database
from syncd.state.database.directory import Places
from syncd.state.database.instance import Instance
from syncd.state.database.lock import LOCK_NAME, lock_holder
from syncd.state.database.readers import Readers
from syncd.state.database.writer import Writer
from syncd.state.facts import fact, read_fact, set_fact
from syncd.state.ledger import recover

__all__ = [
    "LOCK_NAME",
    "Store",
    "Transaction",
    "fact",
    "lock_holder",
    "read_fact",
    "set_fact",
]

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
#: The database, as a unit of work gets it: inside its transaction.
Transaction = Database


class Store:
    """An open state directory. It is locked for as long as it is open."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / schema.FILE_NAME
        self._lock_descriptor: int | None = None
        #: directory, database and lock, while they are open
        self._places = Places(())
        self.writer = Writer(self._path)
        self.writer.refuses = lambda: self.displaced
        self._readers = Readers(self._path)
        #: the instance file as last read or written; None before that
        self._remembered: Instance | None = None
        self.instance = ""
        #: what was read last, each with the writer's version before
        self._recalled: dict[Hashable, tuple[int, Any]] = {}

    def open(self, now: float) -> None:
        """Take the lock and open the database; what was in flight at the last end is in doubt.

        A ledger that has lost something holds everything. Raise StateLockedError when another
        instance runs, ForeignStateError when the state is not ours to touch, DamagedStateError
        when the database is damaged, and StateError when it cannot be used.
        """
        # The folders' contents are private to this user.
        os.umask(0o077)
        state_directory.refuse_locked(self.directory)
        state_directory.prepare(self.directory)
        self._lock_descriptor = state_directory.take_lock(self.directory)
        try:
            known = instance.read(self.directory)
            unreadable = known is None and instance.exists(self.directory)
            schema.refuse_foreign(self._path, ours_before=known is not None)
            self.writer.start()
            self.writer.write(lambda db: recover(db, now))
            self._readers.open()
            self._identify(known, now, unreadable=unreadable)
            self._places = Places((self.directory, self._path, self.directory / LOCK_NAME))
        except DamagedStateError:
            self._foretell_loss()
            self.close()
            raise
        except BaseException:
            self.close()
            raise

    def _identify(self, known: Instance | None, now: float, *, unreadable: bool) -> None:
        """Learn or keep who we are, and hold everything when the ledger has lost something.

        An instance file that is `unreadable` beside a new database proves that an old one existed.
        """

        def compare(db: Database) -> Instance:
            own = fact(db, "instance")
            if own is None:
                set_fact(db, "instance", known.id if known else secrets.token_hex(4))
            is_own = known is not None and own in (None, known.id)
            tokens.keep_secret(db, known.secret if known and is_own else None, now)
            if known is not None and is_own:
                _take_up(db, known.bound_to)
            here = _here(db)
            loss = ""
            if own is None and (known is not None or unreadable):
                loss = f"the state database in {self.directory} is gone"
            elif known is not None and own == known.id and here.progress < known.progress:
                loss = f"an older state database was put into {self.directory}"
            if loss and not holds.is_ledger_incomplete(db):
                hold_everything(db, loss, now)
            return here

        here = self.writer.write(compare)
        if known is not None and known.id != here.id:
            raise ForeignStateError(
                f"{self._path} is the state of instance {here.id}, and {instance.FILE_NAME} beside "
                f"it of {known.id}: put the right one of the two back, or remove "
                f"{instance.FILE_NAME} to go on with the database as it is"
            )
        self.instance = here.id
        self._remembered = known
        self.remember()

    def _foretell_loss(self) -> None:
        """Have the next start hold everything, whatever is put back: no backup is that far."""
        known = instance.read(self.directory)
        if known is not None:
            with suppress(OSError):
                ahead = known._replace(progress=known.progress + instance.UNSEEN)
                instance.write(self.directory, ahead)

    def recovered(self, db: Database, now: float) -> None:
        """Within a transaction: end the hold of a loss, now that the ledger is whole again."""
        known = instance.read(self.directory)
        # Any older database that turns up from now on is behind this one.
        instance.advance_to(db, (known.progress if known else 0) + instance.UNSEEN)
        holds.release(db, stops="sending", scope=holds.EVERYWHERE, reason=holds.STATE_LOST, now=now)

    def remember(self) -> None:
        """Write down how far the ledger has come, unless it lost something.

        This is called about once a minute, and at the end.
        """
        if self.displaced:
            return
        here = self.read(lambda db: None if holds.is_ledger_incomplete(db) else _here(db))
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
        """Take on the id of an earlier instance; return False when this one has sent something.

        The earlier ledger is lost, so everything is held until it is rebuilt.
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
        """Back the database up once a day, unless it holds nothing yet or has lost something.

        A copy of nothing protects nothing, and the first files would wait a day for their own.
        Raise DamagedStateError when the database is damaged: no copy of it displaces a good one.
        """
        if backups.is_due(self.directory, now) and not self.read(holds.is_ledger_incomplete):
            try:
                self.read(lambda db: schema.refuse_damaged(db, self._path))
            except DamagedStateError as error:
                self.writer.refuse_damaged(error)
                raise
            if self.read(instance.progress) or self.read(files.has_skipped):
                backups.make(self._path, now)

    def close(self) -> None:
        """Close everything and release the lock; safe to call twice."""
        if self.instance and self.writer.damage and not self.displaced:
            self._foretell_loss()
        elif self.instance and not self.writer.failed and not self.displaced:
            with suppress(StateError, sqlite3.Error):
                self.remember()
        self.instance = ""
        self._places = Places(())
        # The writer last: who closes the database last writes its log back, and a reader may not.
        self._readers.close()
        self.writer.stop()
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None

    def write(
        self, verb: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a verb with these arguments as a transaction; see `Writer.write`."""
        return self.submit(verb, *args, **kwargs).result()

    def submit(
        self, verb: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> "Future[T]":
        """Hand a verb in as a transaction, without waiting; see `Writer.submit`."""
        return self.writer.submit(lambda db: verb(db, *args, **kwargs))

    def read(
        self, query: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query with these arguments on a read-only connection; see `Readers.read`."""
        try:
            return self._readers.read(lambda db: query(db, *args, **kwargs))
        except sqlite3.DatabaseError as error:
            if schema.is_damage(error):
                self.writer.refuse_damaged(schema.damaged(self._path, error))
            raise

    def recall(self, key: Hashable, query: Callable[[Database], T]) -> T:
        """Return what `query` returns, read at most once between two commits; `key` names it."""
        version = self.writer.version
        known: tuple[int, T] | None = self._recalled.get(key)
        if known is None or known[0] != version:
            known = self._recalled[key] = version, self.read(query)
        return known[1]

    @property
    def changed(self) -> threading.Event:
        """Set after each commit: a hint that something may be due."""
        return self.writer.changed

    @property
    def failed(self) -> bool:
        """Whether the state cannot be trusted to this process any more."""
        return self.writer.failed or bool(self.displaced)

    @property
    def displaced(self) -> str:
        """Return what is not at its path any more, for good; empty while everything is.

        This is asked before each commit, and so before each request that changes anything:
        what is written into a removed database is lost, and a second daemon may run in its place.
        """
        return self._places.displaced

    def fact(self, key: str) -> str | None:
        """Return one of the facts about the service that are kept, or None."""
        return self.read(lambda db: fact(db, key))

    def set_fact(self, key: str, value: str) -> None:
        """Keep a fact about the service."""
        self.write(lambda db: set_fact(db, key, value))

    def bind(self, base_url: str, now: float, *, advice: str, sandbox: bool | None = False) -> None:
        """Keep whose the state is; raise ForeignStateError once another service may hold some."""
        service = binding.Service(base_url, bool(sandbox))
        known = self.write(binding.bind, service, now)
        if known != service:
            raise ForeignStateError(
                f"the state in {self.directory} belongs to base url {known}, and not to "
                f"{service}: {advice}"
            )
        self.remember()


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
    known = {key: fact(db, key) for key in (BASE_URL, SANDBOX, ORGANIZATION, KEY_MARK)}
    bound_to = {key: value for key, value in known.items() if value is not None}
    return Instance(
        fact(db, "instance") or "", instance.progress(db), bound_to, fact(db, tokens.SECRET)
    )


def _take_up(db: Database, bound_to: dict[str, str]) -> None:
    """Keep what the ledger belonged to, unless it has turned to another service since."""
    if fact(db, BASE_URL) in (None, bound_to.get(BASE_URL)):
        for key, value in bound_to.items():
            if fact(db, key) is None:
                set_fact(db, key, value)


def _become(db: Database, instance_id: str, now: float) -> bool:
    if rollback.has_sent(db):
        return False
    set_fact(db, "instance", instance_id)
    tokens.distrust(db)
    hold_everything(db, f"the ledger of instance {instance_id} is lost", now)
    predecessor.release(db, now)
    return True
