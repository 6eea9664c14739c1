"""One pass: scan, send, follow what was sent to its end, and be done. For cron and CI."""

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from syncd.config import Config
from syncd.exceptions import StateError
from syncd.files_api import Aborted
from syncd.log import printable
from syncd.parts import Parts, opened
from syncd.state import due, holds, predecessor
from syncd.state.facts import LAST_ONCE
from syncd.state.retrying import forget_backoff
from syncd.state.store import Transaction, read_fact, set_fact
from syncd.state.texts import shown

log = logging.getLogger(__name__)

#: Attempts after which a file is left to the next pass.
PATIENT_ATTEMPTS = 5
#: Seconds without a byte or an outcome after which a pass gives up; it does not wait for what the
#: service processes.
STANDING_SECONDS = 600.0
#: Seconds, beside ten times the longest `settle_seconds`, after which files that do not settle are
#: left to the next pass: they are open, or change all the time.
SETTLING_SECONDS = 60.0
#: Seconds without an outcome after which nothing but files that do not settle is left.
STILL_SECONDS = 5.0
#: Seconds between two rounds when nothing says that something happened.
ROUND_SECONDS = 0.5
#: The shortest round: every upload sets the hint, and the rounds must not take its time.
SHORTEST_ROUND_SECONDS = 0.1
KEY_REFUSED_CODE = 77


@dataclass(frozen=True, slots=True)
class Tally:
    """How a pass stands: files by what became of them, bytes of the transfers in flight."""

    synced: int
    waiting: int
    failed: int
    #: of those that wait: not quiet yet, and in the service's hands
    settling: int = 0
    processing: int = 0
    sending: tuple[tuple[str, int, int], ...] = ()
    #: what first scans found, in words
    first_found: tuple[str, ...] = ()


def once(
    config: Config,
    *,
    stop: threading.Event,
    hurry: threading.Event | None = None,
    wait_deletions: bool = False,
    report: Callable[[Tally], None] = lambda _: None,
) -> int:
    """Make one pass; return the exit code: 0 done, 1 not all is well, 77 the key is refused.

    `report` is told how things stand, about twice a second. Once `stop` is set, transfers get
    `drain_seconds`, or until `hurry` is set, too. A deletion whose grace is not over is
    left to the next pass, unless `wait_deletions`.
    """
    with opened(config) as parts:
        # Whoever makes a pass wants it now: what failed in the last one is no reason to wait.
        parts.store.write(lambda db: forget_backoff(db, time.time()))
        parts.gate.try_now()
        parts.uploader.start()
        left = "it broke off"
        try:
            parts.watch.scan_all()
            patience = _Patience(
                settling=SETTLING_SECONDS + 10 * max(f.settle_seconds for f in config.folders)
            )
            left = _work_through(
                parts,
                stop,
                patience,
                wait_deletions=wait_deletions,
                stalled_after=config.processing.stalled_after,
                report=report,
            )
            while not stop.is_set() and parts.consumer.step() == 0.0:
                pass
        except Aborted:
            left = "it was interrupted"
        finally:
            _stop_uploads(parts, config.upload.drain_seconds if stop.is_set() else 0.0, hurry)
            parts.stop.set()
        try:
            parts.store.back_up_if_due(time.time())
        except StateError as error:
            log.error("%s", error)
        stalled_after = config.processing.stalled_after
        tally = _tally(parts, wait_deletions=wait_deletions, stalled_after=stalled_after)
        report(tally)
        if parts.store.failed:
            return 1
        if parts.gate.refused:
            _remember(parts, left)
            return KEY_REFUSED_CODE
        held = parts.store.read(holds.open_holds)
        left_out = _unscanned(parts)
        if tally.waiting and not left:
            left = "it was interrupted" if stop.is_set() else "something still waits"
        _remember(parts, left or left_out)
        return 1 if tally.failed or tally.waiting or held or left_out or stop.is_set() else 0


def _remember(parts: Parts, left: str) -> None:
    """Write down for `status` that a pass was made, and what it `left` undone."""
    now = time.time()

    def write(db: Transaction) -> None:
        before = read_fact(db, LAST_ONCE, json.loads)
        every = max(now - before["ended_at"], 0.0) if before else None
        # The command that this pass named is in its log: `status` names the next step itself.
        made = {"ended_at": now, "every": every, "left": left.partition(" (syncd ")[0]}
        set_fact(db, LAST_ONCE, json.dumps(made))

    with suppress(StateError):
        parts.store.write(write)


def _unscanned(parts: Parts) -> str:
    """Return the first directory that could not be scanned, and why; log that of each folder."""
    left_out = []
    for name, watched in parts.watch.folders.items():
        unreadable = watched.last_scan.unreadable if watched.last_scan else {}
        for directory, why in list(unreadable.items())[:1]:
            where = printable(directory) or "its root"
            left_out.append(f"{name}: not all was synced: {where}: {why}")
            log.error("%s (syncd doctor)", left_out[-1])
    return left_out[0] if left_out else ""


def _stop_uploads(parts: Parts, drain_seconds: float, hurry: threading.Event | None) -> None:
    """Give transfers under way `drain_seconds`, less where it is to hurry."""
    over = threading.Event()

    def hurry_up() -> None:
        while not over.wait(SHORTEST_ROUND_SECONDS):
            if hurry is not None and hurry.is_set():
                parts.uploader.hurry()
                return

    if drain_seconds and parts.uploader.busy:
        log.warning("interrupted; transfers get %g seconds, a second Ctrl-C none", drain_seconds)
    watcher = threading.Thread(target=hurry_up, daemon=True)
    watcher.start()
    parts.uploader.stop(drain_seconds)
    over.set()
    watcher.join()


class _Patience:
    """Says when a pass stops waiting for what does not move. Times are monotonic seconds."""

    def __init__(self, *, settling: float) -> None:
        self._began = self._moved_at = time.monotonic()
        self._settling = settling
        self._before: tuple[object, ...] = ()

    def gives_up(self, tally: Tally, progress_at: float) -> str:
        """Return why the pass ends though something waits; empty while it goes on."""
        now = time.monotonic()
        here = (tally.synced, tally.waiting, tally.failed, progress_at)
        if here != self._before or tally.processing:
            self._before, self._moved_at = here, now
        if now - self._moved_at > STANDING_SECONDS:
            return "nothing has moved for ten minutes (syncd status, syncd ls)"
        # Where files still get through, those that settle may just not have had their turn.
        stands = now - self._moved_at > STILL_SECONDS
        if stands and 0 < tally.waiting == tally.settling and now - self._began > self._settling:
            return "what is left is still being written (syncd ls --status settling)"
        return ""


def _work_through(
    parts: Parts,
    stop: threading.Event,
    patience: _Patience,
    *,
    wait_deletions: bool,
    stalled_after: float,
    report: Callable[[Tally], None],
) -> str:
    """Go round the stages until nothing is left that this pass can bring further.

    Return, in words, why it gave up; empty where it did not.
    """
    while not stop.is_set():
        parts.store.changed.clear()
        parts.watch.look_due()
        # Confirmed first: the reconciler learns from what is live.
        parts.confirmer.step()
        parts.reconciler.step()
        parts.uploader.step()
        parts.poller.step()
        parts.deleter.step()
        tally = _tally(parts, wait_deletions=wait_deletions, stalled_after=stalled_after)
        report(tally)
        why = _what_stops(parts)
        if not why and not tally.waiting and not parts.uploader.busy:
            return ""
        if why := why or patience.gives_up(tally, parts.uploader.progress_at):
            log.error("giving up for now: %s", why)
            return why
        stop.wait(SHORTEST_ROUND_SECONDS)
        parts.store.changed.wait(ROUND_SECONDS - SHORTEST_ROUND_SECONDS)
    return ""


def _what_stops(parts: Parts) -> str:
    """Return, in words, what no waiting within this pass ends; empty while nothing does."""
    if parts.store.failed:
        return "the state cannot be relied on"
    if ways_on := parts.store.read(predecessor.ways_on):
        return "another instance has sent these files: say with {}, or {}".format(*ways_on)
    if parts.store.read(holds.is_lost):
        return "nothing is sent before `syncd adopt` has run (syncd status)"
    if parts.introduction.unproven:
        return "the key may be of another organization (syncd status)"
    if parts.gate.resting and not parts.uploader.busy:
        return "a quota is used up (syncd status)"
    if parts.gate.refused:
        return "the Files API refuses the key (syncd doctor)"
    if parts.gate.state == "unreachable":
        cause = parts.gate.cause or "it did not answer"
        return f"the Files API cannot be reached: {cause} (syncd doctor)"
    return ""


def _tally(parts: Parts, *, wait_deletions: bool, stalled_after: float) -> Tally:
    stalled_before = time.time() - stalled_after
    held = parts.uploader.held_folders()
    counts = parts.store.read(
        lambda db: due.outstanding(
            db,
            now=time.time(),
            attempts=PATIENT_ATTEMPTS,
            deletions=wait_deletions,
            only=parts.policies,
            without=held,
            stalled_before=stalled_before,
        )
    )
    sending = tuple(
        (shown(transfer.path), transfer.sent, transfer.size)
        for transfer in parts.uploader.transfers()
    )
    first = tuple(w.first_found for w in parts.watch.folders.values() if w.first_found)
    return Tally(
        counts.synced,
        counts.waiting,
        counts.failed,
        counts.settling,
        counts.processing,
        sending,
        first,
    )
