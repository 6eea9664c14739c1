"""Planted bugs: each takes one safeguard out of the product, and the simulation must notice.

They are the proof that the invariants are looked at. Nothing of them is in the product.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from syncd.identity import RootIdentity
from syncd.state import copies, files, holds
from syncd.state.advance import retire
from syncd.state.deletions import Deletions
from syncd.state.ledger import Declined, Ledger, rename_sources
from syncd.state.lifecycle import CopyStatus
from syncd.workers.deleter import Deleter
from syncd.workers.passage import Passage
from syncd.workers.reconciler import Reconciler

from .history import Plan, run
from .server import Violation, Weather

CALM = Plan(seed=0, method="direct", change=0.0, crash=0.0, commit_error=0.0, events=1.0,
            unmounts=False, key_trouble=False)  # fmt: skip
RESTLESS = replace(CALM, change=0.1, steps=40)
FAULTY = replace(CALM, weather=Weather(trouble=0.3))
#: Schedules after which a bug counts as not caught.
TRIES = 400

_begin = Ledger.begin
_plan = Ledger._plan
_confirm_missing = Deletions.confirm_missing
_offer = Passage._offer


@dataclass(frozen=True)
class Planted:
    """A bug: what it replaces, and the plan of schedules in which it does harm."""

    replaced: tuple[tuple[Any, str, Callable[..., Any]], ...] = ()
    plan: Plan = CALM
    #: the first seed to try where time is short: one at which it is known to do harm soon
    near: int = 0
    #: words of the violations by which it may be noticed
    seen_as: tuple[str, ...] = field(default=("liveness",))

    @contextmanager
    def planted(self) -> Iterator[None]:
        with ExitStack() as stack:
            for target, name, value in self.replaced:
                stack.enter_context(mock.patch.object(target, name, value))
            yield


def caught(
    bug: Planted, base: Path, *, first: int = 0, tries: int = TRIES
) -> tuple[int, Violation] | None:
    """Return how many schedules it took to notice the bug, and what was seen; None if it was not.

    A violation of another kind than the bug's own does not count.
    """
    with bug.planted():
        for seed in range(first, first + tries):
            try:
                run(replace(bug.plan, seed=seed), base)
            except Violation as violation:
                if any(word in str(violation) for word in bug.seen_as):
                    return seed - first + 1, violation
                raise
    return None


def _retire_at_once(self, db, file, offer, now):
    for copy in copies.where(db, "file_id = ? AND status = 'live'", (file.id,)):
        retire(db, copy, now, reason="planted: a newer one will come")
    return _plan(self, db, file, offer, now)


def _begin_delete_unseen(self, db, copy_id, now):
    copy = copies.get(db, copy_id)
    if copy is None or copy.status is not CopyStatus.RETIRING:
        return None
    copies.update(db, copy_id, in_flight=1, delete_sent_at=now, due_at=None)
    return copies.get(db, copy_id)


def _begin_delete_unwritten(self, db, copy_id, now):
    copy = copies.get(db, copy_id)
    return copy if copy and copy.status is CopyStatus.RETIRING else None


def _send_again_at_once(self, db, copy_id, failure, look_at):
    copies.move(db, copies.get(db, copy_id), CopyStatus.PLANNED, due_at=look_at)


def _trust_the_inode(self, file, descriptor):
    offer = _offer(self, file, descriptor)
    if offer is None or file.sha256 is not None:
        return offer
    moved = self._store.read(
        lambda db: files.where(
            db,
            "inode = ? AND size = ? AND status = 'missing' AND sha256 IS NOT NULL",
            (file.fingerprint.inode, file.size),
        )
    )
    return replace(offer, sha256=moved[0].sha256) if moved else offer


def _share(self, db, offer, now):
    file = files.get(db, offer.file_id)
    if file and rename_sources(db, file.id, offer.sha256, offer.fingerprint.size, None):
        files.update(db, file.id, sha256=offer.sha256, due_at=None)
        return Declined.SETTLED
    return _begin(self, db, offer, now)


class _UndoneError(Exception):
    """Carries what a transaction returned, and undoes it."""


def _promise_nothing(self, offer):
    now, future = self._clock(), Future()

    def work(db):
        raise _UndoneError(self._ledger.begin(db, offer, now))

    try:
        self._store.write(work)
    except _UndoneError as undone:
        future.set_result(undone.args[0])
    return future


def _want_for_ever(self, db, file_id, now, **checks):
    said = _confirm_missing(self, db, file_id, now, **checks)
    db.conn.execute("UPDATE copies SET wanted = 1 WHERE file_id = ?", (file_id,))
    return said


BUGS = {
    "the old copy retires before the new one is live": Planted(
        replaced=(
            (Ledger, "_plan", _retire_at_once),
            (Deletions, "begin_delete", _begin_delete_unseen),
        ),
        plan=FAULTY,
        seen_as=("I5", "I7"),
    ),
    "a DELETE without a committed intent": Planted(
        replaced=((Deletions, "begin_delete", _begin_delete_unwritten),), seen_as=("I2",)
    ),
    "an upload without a committed intent": Planted(
        replaced=((Passage, "_begin", _promise_nothing),), seen_as=("I1",)
    ),
    "no late look": Planted(
        replaced=((Reconciler, "_look_late", lambda *_, **__: None),),
        plan=replace(CALM, weather=Weather(late=0.5, late_seconds=900.0)),
        seen_as=("orphan",),
    ),
    "no look before it is sent again": Planted(
        replaced=((Ledger, "doubt", _send_again_at_once),),
        plan=FAULTY,
        seen_as=("stored twice", "orphan"),
    ),
    "a rename takes over a path that merely changed": Planted(
        replaced=((Passage, "_vacated", lambda _, sources: [file.id for file in sources]),),
        plan=RESTLESS,
        seen_as=("I5", "I7"),
    ),
    "a rename is decided by the inode": Planted(
        replaced=((Passage, "_offer", _trust_the_inode),),
        plan=RESTLESS,
        near=7,
        seen_as=("differ", "I6"),
    ),
    "two paths share a copy": Planted(
        replaced=((Ledger, "begin", _share),), seen_as=("has no live copy", "differ")
    ),
    "a stale copy is sent": Planted(
        replaced=((Passage, "_gatekeeper", lambda *_: None),),
        plan=RESTLESS,
        seen_as=("I6",),
    ),
    "a 404 is believed whatever the key": Planted(
        replaced=((Deleter, "_key_is_good", lambda *_: True),),
        plan=replace(CALM, key_trouble=True, steps=40),
        near=19,
        seen_as=("orphan",),
    ),
    "what is not wanted any more goes live": Planted(
        replaced=((Deletions, "confirm_missing", _want_for_ever),),
        plan=replace(FAULTY, steps=40, weather=Weather(trouble=0.5)),
        near=14,
        seen_as=("is gone, and yet",),
    ),
    "any root is the right one": Planted(
        replaced=(
            (RootIdentity, "__eq__", lambda *_: True),
            (holds, "is_held", lambda *_: False),
        ),
        plan=replace(CALM, unmounts=True),
        near=27,
        seen_as=("I7", "I10"),
    ),
    "the last commits are lost with the power": Planted(
        plan=replace(CALM, crash=0.05, lost_commits=3),
        seen_as=("I1", "I2", "I5", "I7", "liveness"),
    ),
}
