"""What a person tells syncd to do: done by the daemon where one runs, else by the command itself.

Each takes the parts and its arguments as JSON has them, and yields JSON objects: first how far it
is, if it takes long, and at the end its result.
"""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

from syncd.parts import Parts
from syncd.state.holds import ROOT_REPLACED, decisions
from syncd.state.holds.decisions import Decided, Decision, ReviewError
from syncd.workers.adopter import AdoptError
from syncd.workers.introduction import UNPROVEN_MESSAGE, UNPROVEN_REMEDY
from syncd.workers.service_probe import ServiceProbe

JsonObject = dict[str, Any]
#: The socket in the state directory on which a running daemon takes commands.
Command = Callable[[Parts, JsonObject], Iterator[JsonObject]]


def retry(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:
    """Forget the back-off, of `files` or of all; yield how many files are tried now.

    With `failed`, what the service refused for good is tried again, too.
    """
    now = time.time()
    if (files := arguments.get("files")) is None:
        failed = bool(arguments.get("failed"))
        resting = parts.gate.resting
        tried = parts.store.write(
            lambda db: parts.retrying.all_waiting(db, now, failed=failed, resting=resting)
        )
    else:
        places = [(file["folder"], base64.b64decode(file["path_b64"])) for file in files]
        tried = parts.store.write(lambda db: parts.retrying.files(db, places, now))
    parts.gate.try_now()
    parts.store.changed.set()
    yield {"tried": tried}


def adopt(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:
    """Rebuild what the ledger has lost from the remote listing, sending no bytes.

    With `new`, go on as an instance beside those whose objects are there.
    AdoptError where a folder is not there to be compared with, or where the key may be another
    organization's; ForeignStateError where it is.
    """
    if arguments.get("new"):
        parts.adopter.begin_anew()
        yield {"new": True, "instance": parts.store.instance}
        return
    _see_whose_key_it_is(parts)
    for name, watched in parts.watch.folders.items():
        yield {"step": "scanning", "folder": name}
        report = watched.scan()
        if not report.complete:
            raise AdoptError(
                f"the folder {name} cannot be compared: it is not there, or cannot be listed to "
                "its end (syncd status); mount it, or mend its permissions, and try again"
            )
    yield from parts.adopter.adopt(
        instance=arguments.get("instance"), check=bool(arguments.get("check", False))
    )


def verify(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:
    """Compare the ledger with the remote listing; yield what differs.

    What is gone remotely is recorded, and its files are treated as `remote_gone` says. AdoptError
    where the key may be another organization's; ForeignStateError where it is.
    """
    _see_whose_key_it_is(parts)
    yield from parts.verifier.verify(
        remove_duplicates=bool(arguments.get("remove_duplicates", False))
    )
    parts.store.changed.set()


def probe(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:  # noqa: ARG001
    """Show what the service does by a few tiny objects; keep what is learned of it.

    FilesApiError or ProbeError where nothing can be asked now; ForeignStateError for a key of
    another organization.
    """
    _see_whose_key_it_is(parts)
    workspaces = {policy.workspace_uuid for policy in parts.policies.values()}
    yield from ServiceProbe(
        store=parts.store,
        client=parts.clients[2],
        gate=parts.gate,
        objects=parts.reconciler.probe_objects,
        learn=parts.reconciler.learn,
        workspace=None if None in workspaces else next(iter(workspaces), None),
        clock=time.time,
        pause=parts.stop.wait,
    ).run()


def approve_deletions(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:
    """Approve what `holds` name: each is a hold's id and the number of the last row to approve.

    ReviewError where there is no such hold, or nothing left to decide on it.
    """
    return _decide(parts, arguments, "approved")


def reject_deletions(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:
    """Reject what `holds` name, as above."""
    return _decide(parts, arguments, "rejected")


def _decide(parts: Parts, arguments: JsonObject, verdict: Decided) -> Iterator[JsonObject]:
    holds = [(int(hold_id), int(newest)) for hold_id, newest in arguments["holds"]]
    done = [_decide_one(parts, hold_id, verdict, newest) for hold_id, newest in holds]
    parts.store.changed.set()
    yield {"verdict": verdict, "holds": [_decision(parts, decision) for decision in done]}


def _decide_one(parts: Parts, hold_id: int, verdict: Decided, newest: int) -> Decision:
    now = time.time()
    hold = parts.store.read(lambda db: decisions.find(db, hold_id))
    folder = decisions.folder_of(hold)
    watched = parts.watch.folders.get(folder)
    decision = parts.store.write(
        lambda db: decisions.decide(db, hold_id, verdict, now, up_to=newest)
    )
    # Where it is not taken, the next look at the root holds it again.
    if hold.reason == ROOT_REPLACED and not (watched and watched.take_root(hold.scope)):
        raise ReviewError(f"there is no folder {hold.scope} now that could be taken for it")
    return decision


def _decision(parts: Parts, decision: Decision) -> JsonObject:
    hold = decision.hold
    other = "reject" if decision.verdict == "approved" else "approve"
    can_undo = parts.store.read(lambda db: decisions.is_changeable(db, hold.id))
    return {
        "id": hold.id,
        "reason": hold.reason,
        "folder": decisions.folder_of(hold),
        "files": decision.files,
        "undo": f"syncd deletes {other} {hold.id}" if can_undo else None,
    }


def _see_whose_key_it_is(parts: Parts) -> None:
    """Under a key of another organization, all that is ours would read as gone."""
    if not (parts.gate.introduced and parts.introduction.is_bound):
        parts.introduction.make()
    if not parts.gate.introduced:
        raise AdoptError(f"{UNPROVEN_MESSAGE}; {UNPROVEN_REMEDY}")


#: By the name under which the command line and the control socket know them.
COMMANDS: dict[str, Command] = {
    "retry": retry,
    "adopt": adopt,
    "probe": probe,
    "verify": verify,
    "deletes.approve": approve_deletions,
    "deletes.reject": reject_deletions,
}
