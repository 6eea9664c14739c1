"""The daemon: starts the parts in order, repeats their steps, stops them in exact reverse."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import FrameType

from syncd import __version__, sd_notify, vitals
from syncd.config import Config
from syncd.log import printable
from syncd.parts import Parts, boottime, opened
from syncd.scheduler import Scheduler
from syncd.state import history, sightings, views
from syncd.vitals import Transfer, Vitals

log = logging.getLogger(__name__)

#: Seconds between two beats at rest; while something moves there is one every second.
BEAT_SECONDS = 10.0
#: Seconds by which the wall clock must leave the monotonic one to count as set.
CLOCK_JUMP_SECONDS = 30.0
#: Seconds after which the upload step or the writer counts as hanging.
HUNG_SECONDS = 60.0
#: Seconds after which a step that waits for disk or network is shown.
SLOW_SECONDS = 600.0
#: The shortest pause, in seconds, between two hints to the steps: many commits are one hint.
HINT_SECONDS = 0.1
DAY_SECONDS = 86_400.0
#: The step that never waits for disk or network: when it hangs, the daemon does. A service that
#: stalls or a disk that hangs is shown, and is no cause to restart.
_FEEDING_STEPS = frozenset({"upload"})


class Signals:
    """SIGTERM, SIGINT and SIGHUP end the daemon; a second one hurries it. They only set flags."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.hurry = threading.Event()

    def listen(self) -> None:
        """Take the signals over; from the main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._received)

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        if self.stop.is_set():
            self.hurry.set()
        self.stop.set()


class Daemon:
    """The parts, repeated by a scheduler, until it is told to stop."""

    def __init__(self, *, config: Config, parts: Parts, stop: threading.Event) -> None:
        self._config = config
        self._parts = parts
        self._stop = stop
        self._scheduler = Scheduler()
        #: the steps that a commit or an event may have given something to do
        self._hinted = ["upload", "poll", "delete", "consume", "reconcile"]
        self._since = time.time()
        self._beat_at = 0.0
        self._told = Vitals(__version__, os.getpid(), self._since, 0.0)
        self._drift = time.time() - boottime()
        self._hints = threading.Thread(target=self._pass_hints, name="syncd-hints", daemon=True)

    def run(self, hurry: threading.Event) -> int:
        """Start everything in order, stay until told to stop, stop in reverse; return the code."""
        parts, drain = self._parts, self._config.upload.drain_seconds
        self._add_steps()
        with ExitStack() as stack:
            parts.uploader.start()
            stack.callback(self._stop_uploads, hurry, drain)
            parts.watch.start()
            stack.callback(parts.watch.stop)
            self._scheduler.start()
            stack.callback(self._scheduler.stop)
            # A look or a deletion under way ends at once, so that no step holds up the end.
            stack.callback(parts.stop.set)
            self._hints.start()
            stack.callback(self._end_hints)
            stack.callback(sd_notify.stopping)
            self._beat()
            sd_notify.ready()
            self._announce()
            self._attend()
            log.info("stopping; transfers get %g seconds", drain)
        self._last_beat()
        return 1 if parts.store.failed else 0

    def _announce(self) -> None:
        for folder in self._config.folders:
            log.info("watching %s as %s", printable(str(folder.path)), folder.name)
        log.info(
            "sending to %s, state in %s", self._config.api.base_url, self._parts.store.directory
        )

    def _add_steps(self) -> None:
        parts, add = self._parts, self._scheduler.add
        # Each folder for itself: one whose disk hangs keeps no other from being seen.
        for name, watched in parts.watch.folders.items():
            add(f"look at {name}", _without_wait(watched.look_hints), every=5.0)
            add(f"settle {name}", _until(watched.look_due), every=5.0)
            add(f"scan {name}", watched.scan_if_due, every=1.0)
            add(f"check {name}", _without_wait(watched.check_all), every=10.0)
            self._hinted += [f"look at {name}", f"settle {name}"]
        add("upload", parts.uploader.step, every=5.0)
        add("poll", parts.poller.step, every=5.0)
        add("delete", parts.deleter.step, every=5.0)
        add("consume", parts.consumer.step, every=5.0)
        add("reconcile", parts.reconciler.step, every=30.0)
        add("prune", self._prune, every=DAY_SECONDS)

    def _prune(self) -> None:
        self._parts.store.write(lambda db: history.prune(db, time.time()))

    def _pass_hints(self) -> None:
        """Wake the steps after commits and events; a burst of them is one hint."""
        changed = self._parts.store.changed
        while not self._stop.is_set():
            changed.wait()
            changed.clear()
            self._scheduler.wake(*self._hinted)
            self._stop.wait(HINT_SECONDS)

    def _end_hints(self) -> None:
        self._stop.set()
        self._parts.store.changed.set()
        self._hints.join()

    def _stop_uploads(self, hurry: threading.Event, drain_seconds: float) -> None:
        watcher = threading.Thread(target=self._hurry_up, args=(hurry,), daemon=True)
        watcher.start()
        self._parts.uploader.stop(drain_seconds)
        hurry.set()
        watcher.join()

    def _hurry_up(self, hurry: threading.Event) -> None:
        hurry.wait()
        self._parts.uploader.hurry()

    def _attend(self) -> None:
        """Stay on the main thread: beat, feed the watchdog, see what hangs and what jumps."""
        while not self._stop.wait(1.0):
            self._scheduler.nudge()
            try:
                self._mind_the_clock()
                self._beat()
            except Exception:
                # What cannot be written or read now is tried again in a second.
                log.debug("no beat", exc_info=True)
            if self._parts.store.failed:
                log.critical(
                    "the state database failed twice; ending, so that a restart reopens it"
                )
                return

    def _mind_the_clock(self) -> None:
        drift = time.time() - boottime()
        if abs(drift - self._drift) < CLOCK_JUMP_SECONDS:
            self._drift = drift
            return
        log.warning(
            "the clock was set by %+.0f s; every deletion's grace begins anew", drift - self._drift
        )
        grace = {folder.name: folder.grace_seconds for folder in self._config.folders}
        now = time.time()
        self._parts.store.write(lambda db: sightings.restart_grace(db, now, grace))
        self._drift = drift

    def _beat(self) -> None:
        """Leave a beat when it is time or something is new, and tell the service manager."""
        vitals_now = self._vitals(hung := self._hung())
        if not hung:
            sd_notify.watchdog()
        now = time.monotonic()
        news = replace(vitals_now, beat_at=0.0) != replace(self._told, beat_at=0.0)
        if not news and now - self._beat_at < BEAT_SECONDS:
            return
        self._beat_at, self._told = now, vitals_now
        sd_notify.status(self._parts.store.read(views.summary))
        with suppress(OSError):  # a full disk says so where it matters
            vitals.write(self._parts.store.directory, vitals_now)

    def _hung(self) -> list[str]:
        """Return what hangs that must not: the watchdog is fed only while nothing does."""
        now = time.monotonic()
        hung = [
            f"{name} has been running for {seconds:.0f} s"
            for name, seconds in self._running(now)
            if name in _FEEDING_STEPS and seconds > HUNG_SECONDS
        ]
        if now - self._parts.store.writer_alive_at > HUNG_SECONDS:
            hung.append("the state database has not answered for a minute")
        return hung

    def _slow(self) -> list[str]:
        """Return what takes long though nothing need be wrong: a slow service, a hung disk."""
        return [
            f"{name} has been running for {seconds:.0f} s"
            for name, seconds in self._running(time.monotonic())
            if name not in _FEEDING_STEPS and seconds > SLOW_SECONDS
        ]

    def _running(self, now: float) -> list[tuple[str, float]]:
        return [
            (report.name, now - report.running_since)
            for report in self._scheduler.report()
            if report.running_since is not None
        ]

    def _vitals(self, hung: list[str]) -> Vitals:
        failing = [
            f"{report.name} failed {report.failures} times in a row"
            for report in self._scheduler.report()
            if report.failures > 1
        ]
        return Vitals(
            version=__version__,
            pid=os.getpid(),
            since=self._since,
            beat_at=time.time(),
            folders=self._parts.watch.vitals(),
            transfers=[
                Transfer(t.folder, printable(t.path), t.sent, t.size, t.since)
                for t in self._parts.uploader.transfers()
            ],
            api_state=self._parts.gate.state,
            last_success_at=self._parts.gate.last_success_at,
            troubles=hung + self._slow() + failing,
        )

    def _last_beat(self) -> None:
        with suppress(OSError):
            (self._parts.store.directory / vitals.FILE_NAME).unlink()


def _until(step: Callable[[], float | None]) -> Callable[[], float | None]:
    """Turn the time at which a step is due next into the seconds until then."""

    def run() -> float | None:
        due_at = step()
        return None if due_at is None else max(due_at - time.time(), 0.0)

    return run


def _without_wait(step: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        step()

    return run


def run(config: Config) -> int:
    """Run until told to stop; return the exit code."""
    signals = Signals()
    signals.listen()
    with opened(config) as parts:
        return Daemon(config=config, parts=parts, stop=signals.stop).run(signals.hurry)
