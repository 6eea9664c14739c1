"""Planted bugs: each takes one safeguard out of the product, and the simulation must notice.

They are the proof that the invariants are looked at. Nothing of them is in the product.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

from syncd.files_api import FileDetail, FilesApiError
from syncd.identity import RootIdentity
from syncd.state import attempts, confirming, copies, holds, tokens
from syncd.state.attempts import Attempt
from syncd.state.deletions import Deletions
from syncd.state.ledger import Ledger
from syncd.workers import deleter
from syncd.workers.preparation import Preparation
from syncd.workers.reconciler import Reconciler
from syncd.workers.rollback import RollbackCheck
from syncd.workers.search import Search
from syncd.workers.sending import Sending

from . import bugs
from .history import run
from .objects import Violation, Weather
from .plan import DAY_SECONDS, HOUR_SECONDS, Plan

CALM = Plan(seed=0, method="direct", change=0.0, crash=0.0, commit_error=0.0, events=1.0,
            unmounts=False, key_trouble=False)  # fmt: skip
RESTLESS = replace(CALM, change=0.1, steps=40)
FAULTY = replace(CALM, weather=Weather(trouble=0.3))
LATE = replace(
    CALM,
    steps=40,
    change=0.05,
    weather=Weather(trouble=0.1, late=0.3, late_seconds=0.6 * HOUR_SECONDS),
)
PUT_BACK = replace(CALM, steps=40, change=0.05, put_back=True)
#: Schedules after which a bug counts as not caught.
TRIES = 1000


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
    return None


BUGS = {
    "the old copy retires before the new one is live": Planted(
        replaced=(
            (Ledger, "_plan", bugs.retire_at_once),
            (Deletions, "begin_delete", bugs.promise_deletes_unseen),
            (Deletions, "still_deletable", bugs.judge_no_deletes_anew),
        ),
        plan=FAULTY,
        seen_as=("I5", "I7"),
    ),
    "a DELETE without a committed intent": Planted(
        replaced=(
            (Deletions, "begin_delete", bugs.promise_no_deletes),
            (Deletions, "still_deletable", bugs.judge_no_deletes_anew),
        ),
        seen_as=("I2",),
    ),
    "an upload without a committed intent": Planted(
        replaced=((Preparation, "_begin", bugs.promise_nothing),), seen_as=("I1",)
    ),
    "the old sweep": Planted(
        replaced=((Reconciler, "step", bugs.sweep),),
        plan=replace(CALM, colleagues=0.3),
        seen_as=("not ours", "two objects"),
    ),
    "one token for all attempts": Planted(
        replaced=((Ledger, "_token", bugs.share_one_token),),
        plan=LATE,
        seen_as=("one token", "orphan"),
    ),
    "a found attempt stays unanswered": Planted(
        replaced=((Ledger, "attempt_found", bugs.leave_the_found_unanswered),),
        plan=replace(LATE, colleagues=0.5),
        seen_as=("not ours", "two objects"),
    ),
    "no late look": Planted(
        replaced=((attempts, "every", bugs.never_look_late),), plan=LATE, seen_as=("orphan",)
    ),
    "the newest of several is taken": Planted(
        replaced=((Search, "look", bugs.take_the_newest),),
        plan=replace(LATE, colleagues=0.5),
        seen_as=("not ours",),
    ),
    "a size that is not told is a wrong one": Planted(
        replaced=((Search, "_fits", bugs.want_a_size),),
        plan=replace(LATE, method="presigned"),
        seen_as=("orphan",),
    ),
    "a 2xx of the storage is believed": Planted(
        replaced=((confirming, "begin_all", bugs.believe_the_storage),),
        plan=replace(CALM, method="presigned", change=0.05, steps=40, weather=Weather(lie=0.3)),
        seen_as=("I5", "I7", "no live copy", "differ"),
    ),
    "a state that was put back is not noticed": Planted(
        replaced=((RollbackCheck, "step", bugs.notice_no_older_state),),
        plan=PUT_BACK,
        seen_as=("it could be seen",),
    ),
    "the MAC is not checked": Planted(
        replaced=(
            (tokens, "is_genuine", bugs.believe_any_token),
            (tokens, "is_of_size", bugs.believe_any_token),
        ),
        plan=replace(PUT_BACK, colleagues=0.5),
        seen_as=("not ours",),
    ),
    "a token counts anywhere in a name": Planted(
        replaced=((FileDetail, "token", property(bugs.find_a_token_anywhere)),),
        plan=replace(PUT_BACK, colleagues=0.5),
        seen_as=("not ours",),
    ),
    "what adopt took is deleted": Planted(
        replaced=((copies, "insert", bugs.keep_nothing),), plan=PUT_BACK, seen_as=("adopt took",)
    ),
    "a page of a proxy proves a deletion": Planted(
        replaced=((FilesApiError, "is_the_services", property(lambda _: True)),),
        plan=replace(FAULTY, steps=40, change=0.05),
        seen_as=("not gone", "no live copy"),
    ),
    "what is found after days is deleted": Planted(
        replaced=((Attempt, "is_old", bugs.never_old),),
        plan=replace(LATE, weather=Weather(trouble=0.1, late=0.5, late_seconds=5 * DAY_SECONDS)),
        seen_as=("more than a day",),
    ),
    "no look before it is sent again": Planted(
        replaced=((Ledger, "doubt", bugs.send_again_at_once),),
        plan=FAULTY,
        seen_as=("stored twice", "orphan"),
    ),
    "a rename takes over a path that merely changed": Planted(
        replaced=((Preparation, "_vacated", lambda _, sources: [file.id for file in sources]),),
        plan=RESTLESS,
        seen_as=("I5", "I7"),
    ),
    "a rename is decided by the inode": Planted(
        replaced=((Preparation, "_offer", bugs.trust_the_inode),),
        plan=RESTLESS,
        near=7,
        seen_as=("differ", "I6"),
    ),
    "two paths share a copy": Planted(
        replaced=((Ledger, "begin", bugs.share),), seen_as=("has no live copy", "differ")
    ),
    "a stale copy is sent": Planted(
        replaced=((Sending, "_gatekeeper", lambda *_: None),),
        plan=RESTLESS,
        seen_as=("I6",),
    ),
    "a 404 is believed whatever the key": Planted(
        replaced=((deleter, "may_list", lambda *_: True),),
        plan=replace(CALM, key_trouble=True, steps=40),
        near=19,
        seen_as=("orphan",),
    ),
    "what is not wanted any more goes live": Planted(
        replaced=((Deletions, "confirm_missing", bugs.want_for_ever),),
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
