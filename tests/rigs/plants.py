"""Bugs, planted into the product in a child of the launcher: a rig that misses one proves nothing.

Each function changes what is imported, in its own process alone. None of it is a switch of the
product's. `quicken` is no bug: it makes the same waits shorter.
"""

import time
from importlib import import_module
from typing import Any

from syncd.state import apply_plan, attempts, copies
from syncd.state.attempts import Attempt
from syncd.state.database import writer
from syncd.state.deletions import Deletions
from syncd.state.ledger import Ledger
from syncd.state.lifecycle import CopyStatus
from syncd.workers.preparation import Preparation
from syncd.workers.reconciler import Reconciler


def _plant(target: Any, name: str, value: Any) -> None:
    """Put `value` in the place of what the product has there: what is gone cannot be planted."""
    getattr(target, name)
    setattr(target, name, value)


def _set(place: str, value: Any) -> None:
    """Give `module.NAME` another value; AttributeError where the product has it no longer."""
    module, _, name = place.rpartition(".")
    found = import_module(module)
    getattr(found, name)
    setattr(found, name, value)


def quicken() -> None:
    """Wait tenths of seconds where the product waits seconds, and seconds for minutes."""
    for place, seconds in {
        "syncd.once.ROUND_SECONDS": 0.05,
        "syncd.once.SHORTEST_ROUND_SECONDS": 0.01,
        "syncd.workers.reconciler.LOOK_SECONDS": 0.1,
        "syncd.workers.echo_learning.SHORTEST_SECONDS": 0.1,
        "syncd.workers.echo_learning.LONGEST_SECONDS": 0.5,
        "syncd.workers.reconciler.RELOOK_SECONDS": 0.1,
        "syncd.workers.reconciler.HELD_LOOK_SECONDS": 0.5,
        "syncd.workers.deleter.LOOK_AGAIN_SECONDS": 0.1,
        "syncd.workers.gate.KEY_PROBE_SECONDS": 0.2,
        "syncd.state.backoff.FIRST_SECONDS": 0.05,
        "syncd.state.backoff.LONGEST_SECONDS": 0.5,
        "syncd.state.backoff.SHORTEST_ASKED_SECONDS": 0.05,
    }.items():
        _set(place, seconds)
    _set("syncd.state.attempts.LATE_LOOKS", (1.5, 3.0, 86_400.0, 7 * 86_400.0))


# The bugs. Each docstring is what the rig says of it.


def intent_after_the_call() -> None:
    """an intent counts as committed before it is"""

    def commit(self: Any, jobs: list[Any]) -> None:
        db = self._usable()
        db.conn.execute("BEGIN IMMEDIATE")
        for job, value, raised in writer._run_together(db, jobs):
            job.future.set_exception(raised) if raised else job.future.set_result(value)
        time.sleep(0.2)
        db.conn.execute("COMMIT")
        self.changed.set()

    _plant(writer.Writer, "_commit", commit)


def commits_unsynced() -> None:
    """a commit does not wait for the disk (synchronous=NORMAL)"""
    usable = writer.Writer._usable

    def unsynced(self: Any) -> Any:
        db = usable(self)
        db.conn.execute("PRAGMA synchronous = NORMAL")
        return db

    _plant(writer.Writer, "_usable", unsynced)


def failed_commit_swallowed() -> None:
    """a commit that failed counts as done"""

    def commit(self: Any, jobs: list[Any]) -> None:
        db = self._usable()
        results = []
        try:
            db.conn.execute("BEGIN IMMEDIATE")
            results = writer._run_together(db, jobs)
            db.conn.execute("COMMIT")
        except Exception:
            if db.conn.in_transaction:
                db.conn.execute("ROLLBACK")
        for job, value, raised in results:
            job.future.set_exception(raised) if raised else job.future.set_result(value)
        for job in jobs[len(results) :]:
            job.future.set_result(None)
        self.version += 1
        self.changed.set()

    _plant(writer.Writer, "_commit", commit)


def resent_without_a_look() -> None:
    """what is in doubt is sent again, and never looked for"""

    def settle(self: Any, _workspace: Any, doubts: Any, _late: Any) -> None:
        now = self.clock()
        for copy in doubts:
            if copy.file_uuid is None:
                self.store.write(lambda db, copy=copy: self.ledger.absent(db, copy, now))
            else:
                self._settle_reserved(copy)

    _plant(Reconciler, "_settle", settle)
    _plant(attempts, "leave", lambda *_: None)


def no_late_look() -> None:
    """what arrives after it was given up is not looked for"""
    _plant(attempts, "every", lambda _: [])


def old_copy_first() -> None:
    """the old copy retires before the new one is live"""
    begin = Ledger.begin

    def early(self: Any, db: Any, offer: Any, now: float) -> Any:
        begun = begin(self, db, offer, now)
        if isinstance(begun, copies.Copy):
            for old in copies.where(db, "file_id = ? AND status = 'live'", (begun.file_id,)):
                apply_plan.retire_unless_kept(db, old, now, reason="planted", wanted=0)
        return begun

    _plant(Ledger, "begin", early)


def delete_without_intent() -> None:
    """a DELETE is sent without its intent"""

    def begin(_self: Any, db: Any, retiring: Any, _now: float) -> Any:
        known = [copies.get(db, copy.id) for copy in retiring]
        return [copy for copy in known if copy and copy.status is CopyStatus.RETIRING]

    def judge(_self: Any, _db: Any, retiring: Any, now: float) -> Any:
        return {copy.id for copy in retiring}

    _plant(Deletions, "begin_delete", begin)
    _plant(Deletions, "still_deletable", judge)


def takes_over_what_changed() -> None:
    """a rename takes over the copy of a path that merely changed"""
    _plant(Preparation, "_vacated", lambda _self, sources: [source.id for source in sources])


def foreign_adopted() -> None:
    """equal content of somebody else is taken for our own"""

    def settle(self: Any, workspace: Any, doubts: Any, _late: Any) -> None:
        found: list[Any] = []
        listing = self.client.read_listing(found.append, workspace_uuid=workspace)
        for copy in doubts:
            alike = [item for item in found if item.file_size_bytes == copy.size]
            if alike:
                self._recover(copy, Attempt.of(copy), alike[0])
            else:
                self._not_found(copy, listing)

    _plant(Reconciler, "_settle", settle)
