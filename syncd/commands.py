"""The commands that change something: the daemon carries them out, or the command line itself.

Each takes the components and its arguments as JSON, and yields JSON objects: first how far it
is, if it takes long, and at the end its result.
"""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

from syncd.components import Components
from syncd.exceptions import SyncdError
from syncd.fetching import Fetching
from syncd.files_api import (
    FilesApiError,
    FilesClient,
    RateLimitedError,
    ServerError,
)
from syncd.questions import QUESTIONS, Question
from syncd.repair.adopt import AdoptError
from syncd.state import history, hooks, limits, overview
from syncd.state.batches import batched
from syncd.state.database.store import Store, Transaction
from syncd.state.holds import EVERYWHERE, ROOT_REPLACED, decisions, pauses
from syncd.state.holds.decisions import Decided, Decision, ReviewError
from syncd.state.limits import Limit
from syncd.state.texts import shown
from syncd.units import moment, rate, span
from syncd.watch.likeness import lacking
from syncd.workers.clock_seen import ClockWatch
from syncd.workers.gate import Gate
from syncd.workers.organization_check import UNPROVEN_MESSAGE, UNPROVEN_REMEDY
from syncd.workers.service_probe import ServiceProbe

JsonObject = dict[str, Any]
#: Takes the components and its arguments; yields its progress and its result.
Command = Callable[[Components, JsonObject], Iterator[JsonObject]]


def retry(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """Let `files`, or all that wait for their next try, be tried now; yield how many these are.

    With `failed`, what the service refused for good is tried again, too.
    """
    now = time.time()
    if (files := arguments.get("files")) is None:
        failed = bool(arguments.get("failed"))
        all_planned = components.gate.quota_used_up
        tried = components.store.write(
            components.retrying.all_waiting, now, failed=failed, all_planned=all_planned
        )
        components.store.write(hooks.try_now)
    else:
        places = [(file["folder"], base64.b64decode(file["path_b64"])) for file in files]
        tried = sum(
            components.store.write(components.retrying.files, some, now) for some in batched(places)
        )
    components.gate.try_now()
    components.store.changed.set()
    yield {"tried": tried}


def look(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """Look now at the paths in `folders`, by folder, or at all of them; yield what each showed.

    What is found settles and is sent as if a scan had found it.
    """
    known = components.watch.folders
    chosen: dict[str, list[str]] = arguments.get("folders") or {name: [""] for name in known}
    looked = {}
    for name, paths in chosen.items():
        yield {"step": "looking at", "folder": name}
        if name not in known:
            looked[name] = {"state": "unknown", "complete": True, "unreadable": {}}
            continue
        report = known[name].look_at([base64.b64decode(path) for path in paths])
        looked[name] = {
            "state": report.state,
            "complete": report.complete,
            "unreadable": {shown(path): why for path, why in report.unreadable.items()},
        }
    components.store.changed.set()
    yield {"looked": looked}


def adopt(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """Rebuild what the ledger has lost from the remote listing, sending no bytes.

    With `new`, go on as an instance beside those whose objects are there.
    AdoptError if a folder is not there to be compared with, or where the key may be another
    organization's; ForeignStateError if it is.
    """
    if arguments.get("new"):
        components.adopter.begin_anew(by=_operator(arguments))
        yield {"new": True, "instance": components.store.instance}
        return
    _see_whose_key_it_is(components)
    for name, watched in components.watch.folders.items():
        yield {"step": "scanning", "folder": name}
        report = watched.scan()
        if not report.complete:
            raise AdoptError(
                f"the folder {name} cannot be compared: it is not there, or cannot be listed to "
                "its end (syncd status); mount it, or mend its permissions, and try again"
            )
    yield from components.adopter.adopt(
        instance=arguments.get("instance"),
        check=bool(arguments.get("check", False)),
        by=_operator(arguments),
    )


def verify(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """Compare the ledger with the remote listing; yield what differs.

    What is gone remotely is recorded, and its files are treated as `remote_gone` says. AdoptError
    where the key may be another organization's; ForeignStateError if it is.
    """
    _see_whose_key_it_is(components)
    yield from components.verifier.verify(
        remove_duplicates=bool(arguments.get("remove_duplicates", False))
    )
    components.store.changed.set()


def probe(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:  # noqa: ARG001
    """Show what the service does by a few tiny objects; keep what is learned of it.

    FilesApiError or ProbeError if nothing can be asked now; ForeignStateError for a key of
    another organization.
    """
    _see_whose_key_it_is(components)
    workspaces = {policy.workspace_uuid for policy in components.policies.values()}
    yield from ServiceProbe(
        store=components.store,
        client=components.clients[2],
        gate=components.gate,
        objects=components.reconciler.probe_objects,
        learn=components.reconciler.lessons.learn,
        workspace=None if None in workspaces else next(iter(workspaces), None),
        clock=time.time,
        pause=components.stop.wait,
    ).run()


def fetch(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """Have the service fetch `urls`; yield what became of each."""
    return fetch_urls(
        components.store,
        components.clients[2],
        components.gate,
        components.workspace_uuid,
        arguments,
    )


def fetch_urls(
    store: Store, client: FilesClient, gate: Gate, workspace: str | None, arguments: JsonObject
) -> Iterator[JsonObject]:
    """Fetch `urls` with these parts alone; raise FilesApiError if nothing can be asked for now."""
    _refuse_too_early(gate)
    yield from Fetching(
        store=store, client=client, workspace=workspace, clock=time.time, failed=gate.failed
    ).run(arguments["urls"], again=bool(arguments.get("again")))


def pause(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """Pause `folder`, or everything, as `set_pause` says; drop what is on its way in it."""
    result = set_pause(components.store, components.clocks, arguments)
    components.gate.see_standstills()
    yield result


def set_pause(store: Store, clocks: ClockWatch, arguments: JsonObject) -> JsonObject:
    """Keep a pause in the state alone; return every pause that is in force.

    It lasts for some `seconds`, or `until` the clock shows a time, or until it is resumed.
    """
    scope, seconds = arguments.get("folder") or EVERYWHERE, arguments.get("seconds")
    clocks.look()
    now = time.time()
    until = arguments.get("until") if seconds is None else now + seconds
    root = base64.b64decode(arguments.get("root_b64", "")) or None
    end = "`syncd resume`" if until is None else moment(until)

    def keep(db: Transaction) -> None:
        pauses.pause(db, scope, until, now, is_span=seconds is not None, root=root)
        pauses.tell(db, history.PAUSED, scope, now, f"until {end}", _operator(arguments))

    store.write(keep)
    return {"paused": store.read(overview.paused, time.time())}


def resume(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """End the pause of `folder`, or every pause."""
    result = end_pause(components.store, arguments)
    components.gate.see_standstills()
    components.store.changed.set()
    yield result


def end_pause(store: Store, arguments: JsonObject) -> JsonObject:
    """End a pause in the state alone; return what was `resumed`, and what is still paused.

    SyncdError for a folder that is paused with all others.
    """
    now, folder = time.time(), arguments.get("folder")
    paused = {one["folder"] or EVERYWHERE for one in store.read(overview.paused, now)}
    if folder and folder not in paused and EVERYWHERE in paused:
        raise SyncdError(
            f"everything is paused, and not {folder} alone: end that with `syncd resume`, then "
            "pause the folders that are to wait"
        )

    def end(db: Transaction) -> list[str]:
        scopes = pauses.resume(db, folder, now)
        for scope in scopes:
            pauses.tell(db, history.RESUMED, scope, now, "before its time", _operator(arguments))
        return scopes

    resumed = store.write(end)
    return {
        "resumed": [None if scope == EVERYWHERE else scope for scope in resumed],
        "paused": store.read(overview.paused, time.time()),
    }


def limit(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """Limit the bandwidth of uploads as `set_limit` says; yield what is in force."""
    set_limit(components.store, components.clocks, arguments)
    components.bandwidth.step()
    components.store.changed.set()
    yield components.bandwidth.in_force.shown()


def set_limit(store: Store, clocks: ClockWatch, arguments: JsonObject) -> None:
    """Keep `rate` (None: no limit) as the limit, for some `seconds`; or none, with `configured`."""
    clocks.look()
    now, seconds = time.time(), arguments.get("seconds")
    until = None if seconds is None else now + seconds
    chosen = None if arguments.get("configured") else Limit(arguments["rate"], now, until)

    def keep(db: Transaction) -> None:
        if chosen is None:
            limits.forget(db)
        else:
            limits.set_limit(db, chosen)
        detail = "as configured" if chosen is None else rate(chosen.rate)
        detail += f" until {moment(until)}" if until else ""
        history.note(db, history.LIMITED, now, detail=detail, by=_operator(arguments))

    store.write(keep)


def _operator(arguments: JsonObject) -> str:
    return str(arguments.get("by", ""))


def approve_deletions(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """Approve what `holds` name: each is a hold's id and the number of the last row to approve.

    ReviewError if there is no such hold, or nothing left to decide on it.
    """
    return _decide(components, arguments, "approved")


def reject_deletions(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
    """Reject what `holds` name, as above."""
    return _decide(components, arguments, "rejected")


def _decide(
    components: Components, arguments: JsonObject, verdict: Decided
) -> Iterator[JsonObject]:
    holds = [(int(hold_id), int(newest)) for hold_id, newest in arguments["holds"]]
    by = _operator(arguments)
    done = [_decide_one(components, hold_id, verdict, newest, by) for hold_id, newest in holds]
    components.store.changed.set()
    yield {"verdict": verdict, "holds": [_decision(components, decision) for decision in done]}


def _decide_one(
    components: Components, hold_id: int, verdict: Decided, newest: int, by: str
) -> Decision:
    now = time.time()
    hold = components.store.read(decisions.find, hold_id)
    folder = decisions.folder_of(hold)
    watched = components.watch.folders.get(folder)
    lacks = None
    if watched and verdict == "approved" and decisions.is_about_root(hold):
        lacks = lacking(components.store.read, folder, watched.folder.path, hold.scope)
    number = None if lacks is None else len(lacks.missing)
    decision = components.store.write(
        decisions.decide, hold_id, verdict, now, up_to=newest, by=by, lacking=number
    )
    # If the root is not accepted, the next look at it holds it again.
    if hold.reason == ROOT_REPLACED and not (watched and watched.take_root(hold.scope)):
        raise ReviewError(f"there is no folder {hold.scope} now that could be taken for it")
    return decision


def _decision(components: Components, decision: Decision) -> JsonObject:
    hold = decision.hold
    other = "reject" if decision.verdict == "approved" else "approve"
    can_undo = components.store.read(decisions.is_changeable, hold.id)
    return {
        "id": hold.id,
        "reason": hold.reason,
        "folder": decisions.folder_of(hold),
        "files": decision.files,
        "undo": f"syncd deletes {other} {hold.id}" if can_undo else None,
    }


def _see_whose_key_it_is(components: Components) -> None:
    """Check whose key it is: under another organization's, all that is ours would seem gone."""
    if not (components.gate.organization_known and components.organization_check.is_bound):
        components.organization_check.make()
    if not components.gate.organization_known:
        raise AdoptError(f"{UNPROVEN_MESSAGE}; {UNPROVEN_REMEDY}")


def _asked(question: Question) -> Command:
    """Return the command by which a daemon asks the service, at a time that the service allows."""

    def ask(components: Components, arguments: JsonObject) -> Iterator[JsonObject]:
        _refuse_too_early(components.gate)
        yield question(components.clients[2], arguments)

    return ask


def obeyed(gate: Gate, told: Iterator[JsonObject]) -> Iterator[JsonObject]:
    """Yield what a command does; if the service asks it to wait, all requests wait so long."""
    try:
        yield from told
    except SyncdError as error:
        for failure in (error, error.__cause__):
            if isinstance(failure, FilesApiError) and _asks_to_wait(failure):
                gate.failed(failure)
        raise


def _asks_to_wait(error: FilesApiError) -> bool:
    return isinstance(error, RateLimitedError) or (
        isinstance(error, ServerError) and error.retry_after is not None
    )


def _obedient(command: Command) -> Command:
    return lambda components, arguments: obeyed(components.gate, command(components, arguments))


def _refuse_too_early(gate: Gate) -> None:
    if wait := gate.seconds_resting():
        raise SyncdError(f"the service asked to wait: ask again in {span(wait + 1)}")


#: By the name under which the command line and the control socket know them.
COMMANDS: dict[str, Command] = {
    name: _obedient(command)
    for name, command in {
        "retry": retry,
        "fetch": fetch,
        "adopt": adopt,
        "look": look,
        "probe": probe,
        "verify": verify,
        "limit": limit,
        "pause": pause,
        "resume": resume,
        "deletes.approve": approve_deletions,
        "deletes.reject": reject_deletions,
        **{name: _asked(question) for name, question in QUESTIONS.items()},
    }.items()
}
