"""What a person tells syncd to do: done by the daemon where one runs, else by the command itself.

Each takes the parts and its arguments as JSON has them, and yields JSON objects: first how far it
is, if it takes long, and at the end its result.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from syncd.parts import Parts
from syncd.state import reviews
from syncd.state.holds import ROOT_REPLACED
from syncd.state.reviews import Decision, ReviewError, Verdict

JsonObject = dict[str, Any]
Command = Callable[[Parts, JsonObject], Iterator[JsonObject]]


def approve_deletions(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:
    """Let what the hold `hold`, or each hold of `folder`, lists be deleted; yield what was decided.

    ReviewError where there is no such hold.
    """
    return _decide(parts, arguments, "approved")


def reject_deletions(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:
    """Keep the remote copies of what the hold `hold`, or each hold of `folder`, lists."""
    return _decide(parts, arguments, "rejected")


def _decide(parts: Parts, arguments: JsonObject, verdict: Verdict) -> Iterator[JsonObject]:
    if (number := arguments.get("hold")) is not None:
        wanted = [int(number)]
    else:
        folder = str(arguments["folder"])
        wanted = [hold.id for hold in parts.store.read(lambda db: reviews.of_folder(db, folder))]
    decisions = [_decide_one(parts, hold_id, verdict) for hold_id in wanted]
    parts.store.changed.set()
    yield {"verdict": verdict, "holds": [_decision(decision) for decision in decisions]}


def _decide_one(parts: Parts, hold_id: int, verdict: Verdict) -> Decision:
    now = time.time()
    decision = parts.store.write(lambda db: reviews.decide(db, hold_id, verdict, now))
    if decision.hold.reason == ROOT_REPLACED:
        folder = reviews.folder_of(decision.hold)
        watched = parts.watch.folders.get(folder)
        # Where it is not taken, the next look at the root holds it again.
        if watched is None or not watched.take_root():
            raise ReviewError(f"there is no folder {folder} now that could be taken for it")
    return decision


def _decision(decision: Decision) -> JsonObject:
    other = "reject" if decision.verdict == "approved" else "approve"
    return {
        "id": decision.hold.id,
        "reason": decision.hold.reason,
        "folder": reviews.folder_of(decision.hold),
        "files": decision.files,
        "undo": f"syncd deletes {other} {decision.hold.id}" if decision.files else None,
    }


#: By the name under which the command line and the control socket know them.
COMMANDS: dict[str, Command] = {
    "deletes.approve": approve_deletions,
    "deletes.reject": reject_deletions,
}
