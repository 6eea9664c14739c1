"""The document of `status --json`: what the table, the daemon's last beat and the lock say."""

import base64
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from syncd import __version__, heartbeat
from syncd.exceptions import NoStateError
from syncd.heartbeat import FolderHealth, Heartbeat
from syncd.report.rates import Rate, sending
from syncd.state import ages, hooks, overview, receipts, views
from syncd.state.ages import AgeStarts, OverdueState, Timing
from syncd.state.binding import bound_to
from syncd.state.confirming import SIZES
from syncd.state.database.connection import Database
from syncd.state.database.lock import lock_holder
from syncd.state.facts import LAST_ONCE, fact, read_fact
from syncd.state.holds import EVERYWHERE, PAUSED, workspace_of
from syncd.state.manifest import Word
from syncd.state.texts import argument, seconds, timestamp
from syncd.units import clock, counted, span

JsonObject = dict[str, Any]

#: With less than that for its state, the daemon counts as standing still.
LEAST_FREE_BYTES = 1 << 20
#: Seconds after a pass of `syncd once` in which the next need not have come; or twice as long as
#: the last one took to come.
_PASS_SECONDS = 86_400.0
_NUMBER = re.compile(r"\d+")


class Reason(str):
    """Why not all is well, in words; the `cause` stays while numbers and paths change."""

    __slots__ = ("cause",)
    cause: str

    def __new__(cls, cause: str, text: str) -> Self:
        """Return the reason for which `cause` stands."""
        reason = super().__new__(cls, text)
        reason.cause = cause
        return reason


def status(directory: Path, *, base_url: str) -> JsonObject:
    """Return the document of `status --json`, and a few facts more.

    `failures` are the newest failures, `obstacles` the reasons for which syncd cannot do its job,
    `overdue` what should have moved on, `waits` for how long the service asked to wait, `sizes`
    whether it tells the sizes of what it holds, `last_pass_at` when a `syncd once` ended last.
    """
    now = time.time()
    pid = lock_holder(directory)
    beat = heartbeat.read(directory) if pid is not None else None
    known = _read(directory, now, beat)
    holds = known["holds"] = [_with_next_try(hold, beat, now) for hold in known["holds"]]
    in_the_way = [
        *_other_service(known, pid, base_url),
        *_obstacles(known, pid, beat, now),
        *_disk_reasons(directory, runs=pid is not None),
    ]
    reasons = [*in_the_way, *_reasons(known, now)]
    return {
        "version": __version__,
        "well": not reasons,
        "reasons": reasons,
        "obstacles": in_the_way,
        "daemon": _daemon(pid, beat),
        "folders": list(_folders(known["folders"], beat)),
        "counts": known["counts"],
        "transfers": _transfers(beat),
        "sending": _sending(known, beat),
        "holds": holds,
        "paused": known["paused"],
        "bandwidth": beat.bandwidth if beat else None,
        "api": _api(known, beat, base_url),
        "failures": known["failures"],
        "overdue": [late | {"reason": _overdue(late, now)} for late in known["overdue"]],
        "waits": "; ".join(_waits(known, beat, now)),
        "sizes": known.get("sizes"),
        "last_pass_at": timestamp((known.get("last_pass") or {}).get("ended_at")),
    }


def _read(directory: Path, now: float, beat: Heartbeat | None) -> JsonObject:
    try:
        return views.read(directory, lambda db: _known(db, now, beat))
    except NoStateError:
        known = {"folders": [], "counts": {}, "holds": [], "failures": [], "echo": "unknown"}
        return known | {"no_state": True, "overdue": [], "unanswered": (0, 0.0), "paused": []}


def _known(db: Database, now: float, beat: Heartbeat | None) -> JsonObject:
    """Return what the table knows; what is overdue only while a daemon should see to it."""
    facts: JsonObject = {"base_url": bound_to(db), "sizes": fact(db, SIZES)}
    facts["receipts"] = receipts.obstacles(db)
    facts["hooks"] = hooks.failing(db)
    facts["last_pass"] = read_fact(db, LAST_ONCE, json.loads)
    if beat is None:
        return overview.overview(db, now) | facts | {"overdue": []}
    starts = AgeStarts(beat.undisturbed_since, beat.progress_at)
    known = overview.overview(db, now, timing=Timing(**beat.pace), starts=starts) | facts
    known["overdue"] += _stuck_transfers(beat, now)
    return known


def _stuck_transfers(beat: Heartbeat, now: float) -> Iterator[JsonObject]:
    """Yield each transfer that has not moved a byte for too long, as `ages.overdue` does."""
    for transfer in beat.transfers:
        moved_at = max(transfer.moved_at or transfer.since, beat.undisturbed_since)
        if now - moved_at >= ages.TRANSFER_SECONDS:
            yield {
                "state": OverdueState.UPLOADING,
                "folder": transfer.folder,
                "files": 1,
                "path": transfer.path,
                "since": timestamp(moved_at),
                "next_at": None,
                "error": f"{transfer.bytes} of {transfer.size} bytes",
            }


def _waits(known: JsonObject, beat: Heartbeat | None, now: float) -> Iterator[str]:
    """Yield what is waited for on purpose: as the service asked, or for a lost answer."""
    if beat is None:
        return
    if beat.asked_until is not None and beat.asked_until > now:
        asked = span(beat.asked_until - now)
        yield f"it asked to wait for {asked} more, tried again by {clock(beat.asked_until)}"
    number, since = known["unanswered"]
    if number:
        until = since + Timing(**beat.pace).resend_after + ages.LOOK_SECONDS
        uploads = f"{counted(number, 'upload')} without a sure answer"
        yield f"{uploads} looked for, tried again by {clock(max(until, now))}"


def _daemon(pid: int | None, beat: Heartbeat | None) -> JsonObject:
    return {
        "running": pid is not None,
        "pid": pid or None,
        "since": timestamp(beat.since) if beat else None,
    }


def _api(known: JsonObject, beat: Heartbeat | None, base_url: str) -> JsonObject:
    """Return how the service is; `base_url` is the one to name if the state knows none."""
    return {
        "base_url": known.get("base_url") or base_url,
        "state": beat.api_state if beat else "unknown",
        "echo": known["echo"],
        "last_success_at": timestamp(beat.last_success_at) if beat else None,
        "cause": (beat.api_cause or None) if beat else None,
        "next_try_at": timestamp(beat.api_next_try_at) if beat else None,
    }


def _with_next_try(hold: JsonObject, beat: Heartbeat | None, now: float) -> JsonObject:
    """Return a hold whose reason also says when it is tried again by itself."""
    at = beat.tries.get(hold["scope"], 0.0) if beat and hold["stops"] == "sending" else 0.0
    return hold | {"reason": f"{hold['reason']}; tried again by {clock(at)}"} if at > now else hold


def _folders(known: list[JsonObject], beat: Heartbeat | None) -> Iterator[JsonObject]:
    """Yield each folder's object: those that a running daemon watches, else all that are known."""
    for folder in known:
        if beat and folder["name"] not in beat.folders:
            continue
        seen = beat.folders[folder["name"]] if beat else FolderHealth(watch="")
        yield {
            "name": folder["name"],
            "path": folder["path"],
            "watch": seen.watch or None,
            "watch_reason": seen.watch_reason,
            "watched_directories": seen.watched_directories,
            "directories": seen.directories or folder["directories"],
            "last_event_at": timestamp(seen.last_event_at),
            "last_scan_at": folder["last_scan_at"],
            "counts": folder["counts"],
            "bytes_left": _bytes_left(folder, beat),
            "missing": folder["missing"],
            "oldest_queued_seconds": folder["oldest_queued_seconds"],
        }


def _transfers(beat: Heartbeat | None) -> list[JsonObject]:
    return [
        {
            "path": transfer.path,
            "bytes": transfer.bytes,
            "size": transfer.size,
            "since": timestamp(transfer.since),
        }
        for transfer in (beat.transfers if beat else ())
    ]


def _bytes_left(folder: JsonObject, beat: Heartbeat | None) -> int:
    """Return the bytes of a folder that are to be sent, without those that were sent by now."""
    name, left = folder["name"], int(folder["bytes_left"])
    sent = (t.bytes for t in (beat.transfers if beat else ()) if t.folder == name and not t.is_read)
    return max(left - sum(sent), 0)


def _sending(known: JsonObject, beat: Heartbeat | None) -> JsonObject:
    """Return how much is left to send, how fast that goes, and how long it takes."""
    files = sum(known["counts"].get(word, 0) for word in (Word.QUEUED, Word.UPLOADING))
    paused = {pause["folder"] for pause in known["paused"]}
    going = (folder for folder in known["folders"] if not paused & {None, folder["name"]})
    size = sum(_bytes_left(folder, beat) for folder in going)
    rate = Rate(beat.files_per_second, beat.bytes_per_second) if beat else Rate(0.0, 0.0)
    return sending(files, size, rate)


def contract(facts: JsonObject) -> JsonObject:
    """Return what the contract of `status --json` names of the document, and no more."""
    inside = ("failures", "obstacles", "overdue", "waits", "sizes", "last_pass_at")
    return {key: fact for key, fact in facts.items() if key not in inside}


def _other_service(known: JsonObject, pid: int | None, base_url: str) -> Iterator[Reason]:
    """Tell that the next start will be refused; a daemon that runs has another configuration."""
    if pid is None and known.get("base_url") not in (None, base_url):
        yield Reason(
            "other service",
            f"the state belongs to {known['base_url']}, and the configuration names {base_url}: "
            "set it back, or give the other service its own [state] directory",
        )


def _obstacles(
    known: JsonObject, pid: int | None, beat: Heartbeat | None, now: float
) -> Iterator[Reason]:
    """Yield, in words, each thing that keeps syncd from doing its job."""
    if known.get("no_state"):
        yield Reason("no state", "syncd has not run with this state directory yet")
    if pid is None:
        yield from _without_daemon(known.get("last_pass"), now)
    elif beat is None:
        yield Reason(
            "no beat",
            f"process {pid} does not report: it is a `syncd once`, or a daemon that is of another "
            "version, or just starting",
        )
    else:
        yield from _beat_reasons(beat, now)
    yield from _holds(known, "sending")
    yield from _holds(known, "folder")
    late = known["overdue"]
    yield from (_overdue_reason(entry, now) for entry in late if entry["state"] in _IN_THE_WAY)


def _without_daemon(last_pass: JsonObject | None, now: float) -> Iterator[Reason]:
    """Yield what is not well though `syncd once` may be all that is ever run."""
    if last_pass is None:
        yield Reason("no daemon", "no daemon is running (syncd run)")
    elif last_pass["left"]:
        left = f"the last pass left something undone: {last_pass['left']} (syncd once)"
        yield Reason("last pass", left)
    elif (age := now - last_pass["ended_at"]) > max(_PASS_SECONDS, 2 * (last_pass["every"] or 0.0)):
        ago = f"the last pass was {span(age)} ago, and no daemon is running (syncd once)"
        yield Reason("no daemon", ago)


def _reasons(known: JsonObject, now: float) -> Iterator[Reason]:
    """Yield, in words, what is not well beside that: it waits for a person."""
    yield from _holds(known, "deletions")
    late = known.get("overdue", ())
    yield from (_overdue_reason(entry, now) for entry in late if entry["state"] not in _IN_THE_WAY)
    for name, why in known.get("obstacles", {}).items():
        text = f"{name}: files are not taken away after their upload: {why}"
        yield Reason(f"not taken away {name}", text)
    for name, why in known.get("receipts", {}).items():
        yield Reason(f"receipts {name}", f"{name}: receipts cannot be written: {why}")
    for hook in known.get("hooks", ()):
        again = f"; tried again by {clock(hook['next_at'])}" if hook["next_at"] > now else ""
        yield Reason(f"hook {hook['name']}", f"hook {hook['name']}: {hook['error']}{again}")
    if failed := known["counts"].get(Word.FAILED):
        yield Reason("failed", f"{counted(failed, 'file')} failed (syncd ls --status failed)")


#: Overdue in these states keeps syncd from its job; in any other only those files suffer.
_IN_THE_WAY = (
    OverdueState.SETTLING,
    OverdueState.QUEUED,
    OverdueState.FAILING,
    OverdueState.UPLOADING,
)
_OVERDUE = {
    OverdueState.SETTLING: "should have settled",
    OverdueState.QUEUED: "wait to be sent, and nothing moves",
    OverdueState.FAILING: "could not be sent so far",
    OverdueState.UPLOADING: "is being sent, and no byte moves",
    OverdueState.IN_DOUBT: "got no answer, and cannot be looked up",
    OverdueState.PROCESSING: "still processed by the service",
    OverdueState.DELETING: "not deleted remotely so far",
}


def _overdue_reason(entry: JsonObject, now: float) -> Reason:
    return Reason(f"overdue {entry['state']} {entry['folder']}", _overdue(entry, now))


def _overdue(entry: JsonObject, now: float) -> str:
    """Return an overdue entry in words: which file, since when, why, and what to type."""
    path = f"{entry['folder']}/{entry['path']}"
    is_exact = "path_b64" not in entry
    name = os.fsencode(entry["path"]) if is_exact else base64.b64decode(entry["path_b64"])
    since = f", since {clock(seconds(entry['since']))}" if entry["since"] else ""
    is_to_come = entry["next_at"] and seconds(entry["next_at"]) > now
    again = f"; tried again by {clock(seconds(entry['next_at']))}" if is_to_come else ""
    error = f": {entry['error']}" if entry["error"] else ""
    files = counted(entry["files"], "file")
    command = f"syncd why {argument(os.fsencode(entry['folder']) + b'/' + name)}"
    return f"{files} {_OVERDUE[entry['state']]}: {path}{since}{error}{again} ({command})"


def _holds(known: JsonObject, stops: str) -> Iterator[Reason]:
    for hold in known["holds"]:
        code = hold["reason"].partition(":")[0]
        # A pause is what a person wants: it is shown, and nothing is wrong.
        if hold["stops"] == stops and code != PAUSED:
            text = f"{stopped(hold)} held: {hold['reason']}"
            yield Reason(f"hold {stops} {hold['scope']} {code}", text)


def stopped(hold: JsonObject) -> str:
    """Return what a hold stops, in words: `sending to workspace W`."""
    stops, scope = hold["stops"], hold["scope"]
    if scope == EVERYWHERE:
        return "everything" if stops == "folder" else f"{stops}"
    if stops == "deletions":
        return f"deletions of {scope}"
    if stops == "folder":
        return f"everything in {scope}"
    kind, _, which = scope.partition(" ")
    if kind in ("copy", "folder") and which:
        return f"sending of {which}" if kind == "folder" else "sending of one file"
    workspace = workspace_of(scope)
    return f"sending to workspace {workspace}" if workspace else "sending to the default workspace"


def _disk_reasons(directory: Path, *, runs: bool) -> Iterator[Reason]:
    """Tell of a disk on which the daemon cannot write its beats, and so not tell itself."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return
    free = disk.f_bavail * disk.f_frsize
    if free < LEAST_FREE_BYTES:
        then = "it goes on by itself" if runs else "start syncd again"
        yield Reason(
            "disk",
            f"the disk of {directory} has {free >> 10} KiB left: nothing is sent or deleted that "
            f"cannot be recorded; free some space, and {then}",
        )


def tried_again(beat: Heartbeat) -> str:
    """Return why the service is not reached and when it is tried again, to follow a sentence."""
    cause = f": {beat.api_cause}" if beat.api_cause else ""
    at = beat.api_next_try_at
    return cause + (f"; tried again at {clock(at)}" if at is not None else "")


def _beat_reasons(beat: Heartbeat, now: float) -> Iterator[Reason]:
    age = now - beat.beat_at
    if age > heartbeat.STALE_SECONDS:
        silent = f"the daemon (process {beat.pid}) has not reported for {age:.0f} s; it may hang"
        yield Reason("silent", silent)
    if beat.api_state == "refused":
        yield Reason("key refused", "the service refuses the key")
    elif beat.api_state == "unreachable":
        yield Reason("unreachable", f"the service cannot be reached{tried_again(beat)}")
    for name, folder in beat.folders.items():
        if folder.trouble:
            yield Reason(f"folder {name}", f"{name}: {folder.trouble}")
    for trouble in beat.troubles:
        yield Reason(f"trouble {_NUMBER.sub('', trouble.partition(':')[0])}", trouble)
