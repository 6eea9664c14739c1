"""One pass: scan, send, follow what was sent to its end, and be done. For cron and CI."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from syncd.config import Config
from syncd.exceptions import StateError
from syncd.log import printable
from syncd.parts import Parts, opened
from syncd.state import due, holds
from syncd.state.retrying import forget_backoff
from syncd.state.texts import shown

log = logging.getLogger(__name__)

#: Attempts after which a file is left to the next pass.
PATIENT_ATTEMPTS = 5
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
        try:
            parts.watch.scan_all()
            _work_through(parts, stop, wait_deletions=wait_deletions, report=report)
            while not stop.is_set() and parts.consumer.step() == 0.0:
                pass
        finally:
            _stop_uploads(parts, config.upload.drain_seconds if stop.is_set() else 0.0, hurry)
            parts.stop.set()
        try:
            parts.store.back_up_if_due(time.time())
        except StateError as error:
            log.error("%s", error)
        tally = _tally(parts, wait_deletions=wait_deletions)
        report(tally)
        if parts.gate.refused:
            return KEY_REFUSED_CODE
        held = parts.store.read(holds.open_holds)
        left_out = _unscanned(parts)
        return 1 if tally.failed or tally.waiting or held or left_out or stop.is_set() else 0


def _unscanned(parts: Parts) -> int:
    """Return how many directories could not be scanned, and log the first of each folder."""
    left_out = 0
    for name, watched in parts.watch.folders.items():
        unreadable = watched.last_scan.unreadable if watched.last_scan else {}
        left_out += len(unreadable)
        for directory, why in list(unreadable.items())[:1]:
            where = printable(directory) or "its root"
            log.error("%s: not all was synced: %s: %s (syncd doctor)", name, where, why)
    return left_out


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


def _work_through(
    parts: Parts,
    stop: threading.Event,
    *,
    wait_deletions: bool,
    report: Callable[[Tally], None],
) -> None:
    """Go round the stages until nothing is left that this pass can bring further."""
    while not stop.is_set():
        parts.store.changed.clear()
        parts.watch.look_due()
        # Confirmed first: the reconciler learns from what is live.
        parts.confirmer.step()
        parts.reconciler.step()
        parts.uploader.step()
        parts.poller.step()
        parts.deleter.step()
        tally = _tally(parts, wait_deletions=wait_deletions)
        report(tally)
        if parts.store.read(holds.is_lost):
            log.error("giving up: the state was lost, and `syncd adopt` has not run")
            return
        if parts.introduction.unproven:
            log.error("giving up: the key may be of another organization (syncd status)")
            return
        if parts.gate.resting and not parts.uploader.busy:
            log.error("giving up for now: a quota is used up (syncd status)")
            return
        if parts.gate.refused:
            log.error("giving up for now: the Files API refuses the key (syncd doctor)")
            return
        if parts.gate.state == "unreachable":
            log.error("giving up for now: the Files API cannot be reached (syncd doctor)")
            return
        if not tally.waiting and not parts.uploader.busy:
            return
        stop.wait(SHORTEST_ROUND_SECONDS)
        parts.store.changed.wait(ROUND_SECONDS - SHORTEST_ROUND_SECONDS)


def _tally(parts: Parts, *, wait_deletions: bool) -> Tally:
    held = parts.uploader.held_folders()
    counts = parts.store.read(
        lambda db: due.outstanding(
            db,
            now=time.time(),
            attempts=PATIENT_ATTEMPTS,
            deletions=wait_deletions,
            only=parts.policies,
            without=held,
        )
    )
    sending = tuple(
        (shown(transfer.path), transfer.sent, transfer.size)
        for transfer in parts.uploader.transfers()
    )
    first = tuple(w.first_found for w in parts.watch.folders.values() if w.first_found)
    return Tally(counts.synced, counts.waiting, counts.failed, sending, first)
