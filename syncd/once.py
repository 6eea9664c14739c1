"""One pass: scan, send, follow what was sent to its end, and be done. For cron and CI."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

from syncd.components import Components, opened
from syncd.config.loading import Config
from syncd.exceptions import StateError
from syncd.files_api import Aborted
from syncd.heartbeat import TransferReport
from syncd.log import printable
from syncd.state import due, folders, holds, hooks, past, predecessor, receipts
from syncd.state.database.store import Transaction, read_fact, set_fact
from syncd.state.facts import LAST_ONCE
from syncd.state.holds import Hold
from syncd.state.manual_retry import forget_backoff
from syncd.state.texts import hold_object, shown
from syncd.units import counted

log = logging.getLogger(__name__)

#: Attempts after which a file is left to the next pass.
PATIENT_ATTEMPTS = 5
#: Tries of a hook that fails, after which it is left to the next pass.
HOOK_ATTEMPTS = 3
#: Seconds without a byte or an outcome after which a pass gives up; it does not wait for what the
#: service processes.
STUCK_SECONDS = 600.0
#: Seconds, beside ten times the longest `settle_seconds`, after which files that do not settle are
#: left to the next pass: they are open, or change all the time.
SETTLING_SECONDS = 60.0
#: Seconds without an outcome after which nothing but files that do not settle is left.
STILL_SECONDS = 5.0
#: Seconds between two rounds when nothing says that something happened.
ROUND_SECONDS = 0.5
#: The shortest rest between two rounds, and in rounds: every upload sets the hint, and the rounds
#: must not take the time of the uploads.
SHORTEST_ROUND_SECONDS, REST_ROUNDS = 0.1, 20
KEY_REFUSED_CODE = 77
#: Failed files that a pass names.
MOST_FAILURES = 1000


@dataclass(frozen=True, slots=True)
class PassProgress(due.PassCounts):
    """How a pass stands: files by what became of them, and the transfers in flight."""

    sending: tuple[TransferReport, ...] = ()
    #: transfers that ended, and bytes sent
    sent: tuple[int, int] = (0, 0)
    #: what first scans found, in words
    first_found: tuple[str, ...] = ()

    def __str__(self) -> str:
        line = f"{self.synced:,} synced, {self.waiting:,} waiting, {self.failed:,} failed"
        return f"{line}, {self.held:,} held" if self.held else line


class Passed(NamedTuple):
    """The work that a pass did, and how it ended."""

    code: int
    #: why the code is not 0, in words
    reason: str
    progress: PassProgress
    did: past.Did
    #: files that failed, as `ls --json` has them, and the open holds
    failures: list[dict[str, Any]]
    holds: list[dict[str, Any]]


def once(
    config: Config,
    *,
    stop: threading.Event,
    hurry: threading.Event | None = None,
    wait_deletions: bool = False,
    report: Callable[[PassProgress], None] = lambda _: None,
    tell: Callable[[Passed], None] = lambda _: None,
) -> int:
    """Make one pass; return the exit code: 0 done, 1 not all is well, 77 the key is refused.

    `report` is told how things stand, about twice a second, and `tell` at the end what was done.
    Once `stop` is set, transfers get `drain_seconds`, or until `hurry` is set, too. A deletion
    whose grace is not over is left to the next pass, unless `wait_deletions`.
    """
    drain_seconds = config.upload.drain_seconds
    with opened(config) as components, _interruptible(components, stop, hurry, drain_seconds):
        last_number, began = components.store.read(past.last_number), time.time()
        # The user wants it now: failures of the last pass are no reason to wait.
        components.store.write(forget_backoff, time.time())
        if components.hooks:
            components.store.write(hooks.try_now)
        components.gate.try_now()
        components.uploader.start()
        left = "it broke off"
        try:
            components.watch.scan_all()
            patience = _Patience(
                settling=SETTLING_SECONDS + 10 * max(f.settle_seconds for f in config.folders)
            )
            left = _work_through(
                components,
                stop,
                patience,
                wait_deletions=wait_deletions,
                stalled_after=config.processing.stalled_after,
                report=report,
            )
            if not left:
                components.organization_check.bind()
            for last in (components.after_upload, components.receipts):
                while not stop.is_set() and last.step() == 0.0:
                    pass
            _tell_hooks(components, stop)
        except Aborted:
            left = "it was interrupted"
        finally:
            try:
                components.uploader.stop(drain_seconds if stop.is_set() else 0.0)
                with suppress(Aborted):
                    # Uploads that a storage took at the end count as sent, too.
                    components.confirmer.step()
            finally:
                components.stop.set()
        try:
            components.store.back_up_if_due(time.time())
        except StateError as error:
            log.error("%s", error)
        stalled_after = config.processing.stalled_after
        tally = _tally(components, wait_deletions=wait_deletions, stalled_after=stalled_after)
        held = components.store.read(holds.open_holds)
        _tell_pauses(held)
        named = sum(hold.affects for hold in held if hold.reason in holds.NAMING_FILES)
        tally = replace(tally, held=tally.held + named)
        report(tally)
        if components.store.failed:
            return 1
        if stop.is_set() and not left:
            left = "it was interrupted"
        code, left = _ended(components, tally, left, is_held=bool(held))
        did = components.store.read(past.did, last_number, began)
        failures = [*islice(_failures(components), MOST_FAILURES)] if tally.failed else []
        tell(Passed(code, left, tally, did, failures, [hold_object(hold) for hold in held]))
        return code


def _failures(components: Components) -> Iterator[dict[str, Any]]:
    """Yield each file that failed, also one that is left to the next pass, with its reason."""
    # Only here: where nothing failed, a pass starts without them.
    from syncd.state.chosen import Wanted, listing  # noqa: PLC0415
    from syncd.state.manifest import Word  # noqa: PLC0415

    wanted = Wanted(words=frozenset((Word.FAILED, Word.QUEUED)))
    for entry in listing(components.store.read, wanted, time.time()):
        if entry["error"] and entry["folder"] in components.policies:
            yield entry


def _ended(
    components: Components, tally: PassProgress, left: str, *, is_held: bool
) -> tuple[int, str]:
    """Remember the pass; return its exit code, and what it `left` undone, in words."""
    if components.gate.refused:
        _remember(components, left)
        return KEY_REFUSED_CODE, left
    left_out = _unscanned(components)
    untold = components.store.read(hooks.failing) if components.hooks else []
    for hook in untold:
        log.error("hook %s: %s (syncd status)", hook["name"], hook["error"])
    undone = _undone(components)
    if tally.waiting and not left:
        left = "something still waits"
    _remember(components, left or left_out)
    if left or left_out:
        return 1, left or left_out
    reasons = ((tally.failed, "files failed"), (is_held, "something is held"))
    why = [text for is_so, text in (*reasons, (untold, "a hook fails")) if is_so] + undone
    return (1 if why else 0), ", ".join(why)


def _undone(components: Components) -> list[str]:
    """Return, and log, what could not be done for files after they were sent."""
    undone = []
    for read, what in (
        (folders.obstacles, "files are not taken away after their upload"),
        (receipts.obstacles, "receipts cannot be written"),
    ):
        known = components.store.read(read)
        for name in known.keys() & components.policies.keys():
            log.error("%s: %s: %s (syncd doctor)", name, what, known[name])
            undone.append(f"{name}: {what}")
    return undone


def _tell_pauses(held: Sequence[Hold]) -> None:
    for hold in held:
        if hold.reason == holds.PAUSED:
            which = "all folders are" if hold.scope == holds.EVERYWHERE else f"{hold.scope} is"
            log.warning("%s paused: %s (%s)", which, hold.message, hold.commands[0])


def _tell_hooks(components: Components, stop: threading.Event) -> None:
    """Tell every hook what became of the files; one that keeps failing is left to the next pass."""
    if not components.hooks:
        return

    def end() -> None:
        stop.wait()
        components.stop.set()

    # An interruption also ends a delivery under way.
    threading.Thread(target=end, name="syncd-hooks-end", daemon=True).start()
    for hook in components.hooks:
        for _ in range(HOOK_ATTEMPTS):
            while (wait := hook.step()) == 0.0:
                pass
            if wait is None or stop.wait(wait):
                break


def _remember(components: Components, left: str) -> None:
    """Write down for `status` that a pass was made, and what it `left` undone."""
    now = time.time()

    def write(db: Transaction) -> None:
        before = read_fact(db, LAST_ONCE, json.loads)
        every = max(now - before["ended_at"], 0.0) if before else None
        # The command that this pass named is in its log: `status` names the next step itself.
        made = {"ended_at": now, "every": every, "left": left.partition(" (syncd ")[0]}
        set_fact(db, LAST_ONCE, json.dumps(made))

    with suppress(StateError):
        components.store.write(write)


def _unscanned(components: Components) -> str:
    """Return the first directory that could not be scanned, and why; log that of each folder."""
    left_out = []
    for name, watched in components.watch.folders.items():
        unreadable = watched.last_scan.unreadable if watched.last_scan else {}
        for directory, why in list(unreadable.items())[:1]:
            where = printable(directory) or "its root"
            left_out.append(f"{name}: not all was synced: {where}: {why}")
            log.error("%s (syncd doctor)", left_out[-1])
    return left_out[0] if left_out else ""


@contextmanager
def _interruptible(
    components: Components,
    stop: threading.Event,
    hurry: threading.Event | None,
    drain_seconds: float,
) -> Iterator[None]:
    """Within the block, an interruption is told at once, and ends what is under way in time."""
    over = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if over.wait(SHORTEST_ROUND_SECONDS):
                return
        deadline = time.monotonic() + drain_seconds
        if under_way := len(components.uploader.transfers.all()):
            files = counted(under_way, "transfer")
            get = "gets" if under_way == 1 else "get"
            log.warning(
                "interrupted; %s %s %g seconds, a second Ctrl-C none", files, get, drain_seconds
            )
        else:
            log.warning("interrupted; ending")
        components.stop_looking.set()
        while not (hurry is not None and hurry.is_set()) and time.monotonic() < deadline:
            if over.wait(SHORTEST_ROUND_SECONDS):
                return
        components.uploader.hurry()
        components.stop.set()

    watcher = threading.Thread(target=watch, name="syncd-interrupted", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


class _Patience:
    """Decides when a pass stops waiting for work that does not advance; monotonic seconds."""

    def __init__(self, *, settling: float) -> None:
        self._began = self._moved_at = time.monotonic()
        self._settling = settling
        self._before: tuple[object, ...] = ()

    def gives_up(self, tally: PassProgress, progress_at: float) -> str:
        """Return why the pass ends though something waits; empty while it goes on."""
        now = time.monotonic()
        here = (tally.synced, tally.waiting, tally.failed, progress_at)
        if here != self._before or tally.processing:
            self._before, self._moved_at = here, now
        if now - self._moved_at > STUCK_SECONDS:
            return "nothing has moved for ten minutes (syncd status, syncd ls)"
        # While files still get through, those that settle may just not have had their turn.
        stands = now - self._moved_at > STILL_SECONDS
        if stands and 0 < tally.waiting == tally.settling and now - self._began > self._settling:
            return "what is left is still being written (syncd ls --status settling)"
        return ""


def _work_through(
    components: Components,
    stop: threading.Event,
    patience: _Patience,
    *,
    wait_deletions: bool,
    stalled_after: float,
    report: Callable[[PassProgress], None],
) -> str:
    """Repeat the stages until nothing is left that this pass can advance.

    Return, in words, why it gave up; empty if it did not.
    """
    while not stop.is_set():
        began = time.monotonic()
        components.store.changed.clear()
        components.watch.look_due()
        # Confirmed first: the reconciler learns from what is live.
        components.confirmer.step()
        components.reconciler.step()
        components.uploader.step()
        components.poller.step()
        components.deleter.step()
        tally = _tally(components, wait_deletions=wait_deletions, stalled_after=stalled_after)
        report(tally)
        why = _what_stops(components)
        if not why and not tally.waiting and not components.uploader.busy:
            return ""
        if why := why or patience.gives_up(tally, components.uploader.progress_at):
            log.error("giving up for now: %s", why)
            return why
        rest = max(REST_ROUNDS * (time.monotonic() - began), SHORTEST_ROUND_SECONDS)
        stop.wait(min(rest, ROUND_SECONDS))
        components.store.changed.wait(max(ROUND_SECONDS - rest, 0.0))
    return ""


def _what_stops(components: Components) -> str:
    """Return, in words, what cannot end within this pass; empty while nothing stands still."""
    if components.store.failed:
        return "the state cannot be relied on"
    if ways_on := components.store.read(predecessor.ways_on):
        return "another instance has sent these files: say with {}, or {}".format(*ways_on)
    if components.store.read(holds.is_ledger_incomplete):
        return "nothing is sent before `syncd adopt` has run (syncd status)"
    if components.organization_check.unproven:
        return "the key may be of another organization (syncd status)"
    if components.gate.quota_used_up and not components.uploader.busy:
        return "a quota is used up (syncd status)"
    if components.gate.refused:
        return "the Files API refuses the key (syncd doctor)"
    if components.gate.state == "unreachable":
        cause = components.gate.cause or "it did not answer"
        return f"the Files API cannot be reached: {cause} (syncd doctor)"
    return ""


def _tally(components: Components, *, wait_deletions: bool, stalled_after: float) -> PassProgress:
    stalled_before = time.time() - stalled_after
    counts = components.store.read(
        due.pass_counts,
        now=time.time(),
        attempts=PATIENT_ATTEMPTS,
        deletions=wait_deletions,
        only=components.policies,
        closed=components.uploader.closed_folders(),
        stalled_before=stalled_before,
    )
    sending = tuple(
        TransferReport(t.folder, shown(t.path), t.sent, t.size, t.since, t.moved_at, t.is_read)
        for t in components.uploader.transfers.all()
    )
    first = tuple(w.first_found for w in components.watch.folders.values() if w.first_found)
    sent = components.uploader.transfers.sent()
    return PassProgress(**asdict(counts), sending=sending, sent=sent, first_found=first)
