"""The daemon: starts the parts in order, repeats their steps, stops them in exact reverse."""

import logging
import os
import resource
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace

from syncd import __version__, mounts, sd_notify, vitals
from syncd.config import Config
from syncd.doctor import lost_with_container
from syncd.draining import Drain, end_in_time, leave
from syncd.exceptions import ConfigError, ForeignStateError
from syncd.log import printable, tell_repeats
from syncd.metrics import RELOADS
from syncd.parts import Parts, boottime, build, opened, settle_changes
from syncd.scheduler import Scheduler, StepReport
from syncd.server import Control, Listener
from syncd.settings import Settings
from syncd.signals import Signals
from syncd.state import history, holds, inventory, overview
from syncd.state.ages import Pace
from syncd.state.facts import LAST_ONCE, forget_fact
from syncd.units import clock
from syncd.vitals import Transfer, Vitals
from syncd.watch.watched import Watched
from syncd.workers.gate import Gate

log = logging.getLogger(__name__)

#: Seconds between two written beats at rest, where nobody can ask for the last one.
BEAT_SECONDS = 10.0
#: Seconds between two looks at how things are, and at what was asked for.
TICK_SECONDS = 1.0
#: Seconds by which a second on the main thread must be longer to count as standing still.
STOOD_STILL_SECONDS = 10.0
#: Times that the status line for the service manager took, until it is made again.
SUMMARY_SHARE = 50.0
#: Files that the daemon would like to be able to have open; what is permitted is taken.
OPEN_FILES = 65_536
#: Seconds after which the upload step or the writer counts as hanging.
HUNG_SECONDS = 60.0
#: Seconds after which a step that waits for disk or network is shown.
SLOW_SECONDS = 600.0
#: Seconds that what was dropped just before the end needs beside its `settle_seconds`.
SPARE_SECONDS = 3.0
#: Seconds that steps get at the end.
HUNG_STEP_SECONDS = 2.0
#: Seconds after which a step of a folder, or one that sends, runs at the latest: a net, for each is
#: woken when it has something to do.
NET_SECONDS, WORK_SECONDS = 60.0, 15.0
#: The shortest pause, in seconds, between two hints to the steps: many commits are one hint.
HINT_SECONDS = 0.1
#: Seconds between two looks at the key file while the key is refused.
KEY_SECONDS = 10.0
#: Seconds after a start until the table is backed up and pruned.
CALM_SECONDS = 60.0
#: Rows that are pruned in one transaction.
PRUNED_ROWS = 1000
HOUR_SECONDS, DAY_SECONDS = 3_600.0, 86_400.0
#: The step that never waits for disk or network: when it hangs, the daemon does. A service that
#: stalls or a disk that hangs is shown, and is no cause to restart.
_FEEDING_STEPS = frozenset({"upload"})


class Daemon:
    """The parts, repeated by a scheduler, until it is told to stop."""

    def __init__(
        self,
        *,
        config: Config,
        parts: Parts,
        stop: threading.Event,
        reload: threading.Event | None = None,
        load: Callable[[], Config] | None = None,
    ) -> None:
        """`load` reads the configuration anew, when `reload` is set or the key may have changed."""
        self._config = config
        self._parts = parts
        self._stop = stop
        self._reload = reload or threading.Event()
        self._load = load or (lambda: config)
        self._next: Parts | None = None
        #: from when ages count: see `vitals.Vitals`
        self._undisturbed_since = time.time()
        #: what scans were there when the state could be written again; empty once all are newer
        self._scans_before: dict[str, object] = {}
        self._recoveries = parts.store.recoveries
        self._mount_changes = 0
        #: steps that did not end
        self.hung: list[str] = []
        self._drain_seconds = config.upload.drain_seconds
        #: why the newest configuration is not used, for a person
        self._rejected = ""
        self._key_looked_at = time.monotonic()
        self._scheduler = Scheduler()
        self._listener = Listener(config=lambda: self._config, steps=self._step_reports)
        self._since = time.time()
        self._foreign: ForeignStateError | None = None
        self._beat_at = 0.0
        self._summary_at = 0.0
        #: what the service manager was told last
        self._summary = ""
        self._told = Vitals(__version__, os.getpid(), self._since, 0.0)
        #: the steps that a commit or an event may have given something to do
        self._hinted: list[str] = []

    @property
    def drain_seconds(self) -> float:
        """What transfers get at the end."""
        return self._config.upload.drain_seconds

    @property
    def page_url(self) -> str:
        """Where the status page is served; empty while it is not."""
        return f"http://{self._listener.address}/" if self._listener.address else ""

    def run(self, hurry: threading.Event) -> int:
        """Start everything in order, stay until told to stop, stop in reverse; return the code.

        ForeignStateError where the key turns out to be another organization's.
        """
        store = self._parts.store
        store.write(lambda db: forget_fact(db, LAST_ONCE))
        with ExitStack() as stack:
            self._control = Control(
                directory=store.directory,
                parts=lambda: self._parts,
                beat_at=lambda: self._told.beat_at,
            )
            self._control.start()
            stack.callback(self._control.stop)
            self._listener.start()
            stack.callback(self._listener.stop)
            self._parts.watch.start()
            stack.callback(self._stop_watching)
            self._run_parts(hurry)
            while self._next is not None:
                old, self._parts, self._next = self._parts, self._next, None
                self._parts.watch.inherit(old.watch)
                settle_changes(self._parts, removed_too=not self._config.folders_are_chosen)
                self._run_parts(hurry)
        self._last_beat()
        if self._foreign is not None:
            raise self._foreign
        return 1 if store.failed else 0

    def _run_parts(self, hurry: threading.Event) -> None:
        """Have the parts do their work until the end, or until others are to take their place."""
        parts = self._parts
        self._drain_seconds = self._config.upload.drain_seconds
        self._scheduler = Scheduler()
        self._add_steps()
        with ExitStack() as stack:
            for client in parts.clients:
                stack.callback(client.close)
            parts.uploader.start()
            stack.callback(self._stop_uploads, hurry)
            self._scheduler.start()
            stack.callback(self._stop_steps)
            # A look or a deletion under way ends at once, so that no step holds up the end.
            stack.callback(parts.stop_looking.set)
            stack.callback(parts.stop.set)
            stack.callback(self._pass_hints())
            self._beat()
            sd_notify.ready()
            self._announce()
            self._attend()
            if self._next is None:
                sd_notify.stopping()
                log.info("stopping; what is on its way gets %g seconds", self._drain_seconds)
                if self._foreign is None and not parts.store.failed:
                    drain = Drain(parts, self._scheduler)
                    self._drain_seconds = drain.run(self._drain_seconds, hurry)

    def _stop_steps(self) -> None:
        # A reload waits for every step: others take their place.
        self.hung = self._scheduler.stop(None if self._next else HUNG_STEP_SECONDS)
        if self.hung:
            log.warning("left behind, because it hangs: %s", ", ".join(self.hung))

    def _announce(self) -> None:
        for folder in self._config.folders:
            log.info("watching %s as %s", printable(str(folder.path)), folder.name)
        for folder in self._config.folders:
            if self._config.upload.drain_seconds < folder.settle_seconds + SPARE_SECONDS:
                log.warning(
                    "drain_seconds (%g) is too short for %s: what is dropped there just before the "
                    "end is not sent; set it to settle_seconds + %g = %g or more",
                    self._config.upload.drain_seconds,
                    folder.name,
                    SPARE_SECONDS,
                    folder.settle_seconds + SPARE_SECONDS,
                )
        if why := lost_with_container(self._parts.store.directory):
            log.warning("the state in %s: %s", self._parts.store.directory, why)
        log.info(
            "sending to %s, state in %s", self._config.api.base_url, self._parts.store.directory
        )
        for hold in self._parts.store.read(holds.open_holds):
            log.error("%s held since before: %s", hold.stops, hold.message)

    def _add_steps(self) -> None:
        parts, add = self._parts, self._scheduler.add
        self._hinted = ["upload", "confirm", "poll", "delete", "consume", "reconcile", "settle"]
        # Each folder for itself: one whose disk hangs keeps no other from being seen.
        for name, watched in parts.watch.folders.items():
            add(f"look at {name}", watched.look, every=NET_SECONDS, rest=HINT_SECONDS)
            add(f"scan {name}", watched.scan_if_due, every=NET_SECONDS, rest=HINT_SECONDS)
            add(f"check {name}", watched.check_all, every=HOUR_SECONDS)
        parts.watch.on_hint = self._wake_folder
        add("settle", self._settle, every=NET_SECONDS)
        add("upload", parts.uploader.step, every=WORK_SECONDS)
        add("confirm", parts.confirmer.step, every=WORK_SECONDS)
        add("poll", parts.poller.step, every=WORK_SECONDS)
        add("delete", parts.deleter.step, every=WORK_SECONDS)
        add("consume", parts.consumer.step, every=WORK_SECONDS)
        add("reconcile", self._reconcile, every=30.0)
        add("remember", parts.store.remember, every=60.0)
        # Both read much of the table: what waits to be sent goes first.
        add("back up", self._back_up, every=HOUR_SECONDS, after=CALM_SECONDS)
        add("prune", self._prune, every=DAY_SECONDS, after=CALM_SECONDS)

    def _wake_folder(self, name: str) -> None:
        self._scheduler.wake(f"look at {name}", f"scan {name}")

    def _settle(self) -> None:
        """Have files be looked at again when that is due, as commits have it by now."""
        now = time.time()
        for name, due_at in self._parts.store.read(inventory.next_looks).items():
            if name in self._parts.watch.folders:
                self._scheduler.wake(f"look at {name}", within=max(due_at - now, 0.0))

    def _reconcile(self) -> float | None:
        try:
            return self._parts.reconciler.step()
        except ForeignStateError as error:
            # Another organization's key: no waiting heals that.
            self._foreign = error
            self._stop.set()
            return None

    def _back_up(self) -> None:
        self._parts.store.back_up_if_due(time.time())

    def _prune(self) -> None:
        # A little at a time: everything else that is written waits for it.
        while not self._stop.is_set() and self._parts.store.write(
            lambda db: history.prune(db, time.time(), limit=PRUNED_ROWS)
        ):
            time.sleep(0)

    # Of the parts and the scheduler that are there by then: a reload brings others.

    def _step_reports(self) -> list[StepReport]:
        return self._scheduler.report()

    def _stop_watching(self) -> None:
        self._parts.watch.stop()

    def _pass_hints(self) -> Callable[[], None]:
        """Wake the steps after commits and events, a burst of them once; return how to end it."""
        changed, ended = self._parts.store.changed, threading.Event()
        scheduler, hinted = self._scheduler, self._hinted

        def pass_on() -> None:
            while not ended.is_set():
                changed.wait()
                changed.clear()
                scheduler.wake(*hinted)
                ended.wait(HINT_SECONDS)

        def end() -> None:
            ended.set()
            changed.set()
            thread.join()

        thread = threading.Thread(target=pass_on, name="syncd-hints", daemon=True)
        thread.start()
        return end

    def _stop_uploads(self, hurry: threading.Event) -> None:
        uploader, over = self._parts.uploader, threading.Event()

        def hurry_up() -> None:
            while not over.wait(HINT_SECONDS):
                # During a reload, the end may be asked for as well.
                if hurry.is_set() or (self._next is not None and self._stop.is_set()):
                    uploader.hurry()
                    return

        watcher = threading.Thread(target=hurry_up, daemon=True)
        watcher.start()
        uploader.stop(self._drain_seconds)
        over.set()
        watcher.join()

    def _attend(self) -> None:
        """Stay on the main thread: beat, feed the watchdog, see what hangs and what jumps."""
        seen_at = boottime()
        while not self._stop.wait(TICK_SECONDS):
            seen_at, stood_still = boottime(), boottime() - seen_at - TICK_SECONDS
            if stood_still > STOOD_STILL_SECONDS:
                log.warning("stood still for %.0f s; every folder is scanned", stood_still)
                self._undisturbed_since = time.time()
                self._parts.watch.ask_scans(f"the daemon stood still for {stood_still:.0f} s")
            self._scheduler.nudge()
            tell_repeats()
            if self._parts.store.failed:
                log.critical(
                    "the state cannot be relied on; ending, so that a restart opens it anew"
                )
                return
            self._mind_the_state()
            self._mind_the_mounts()
            try:
                self._beat()
            except Exception:
                # What cannot be written or read now is tried again in a second.
                log.debug("no beat", exc_info=True)
            if self._is_to_reload():
                self._next = self._reloaded()
                if self._next is not None:
                    return

    def _mind_the_state(self) -> None:
        """Scan every folder once the state can be written again: what was noticed is lost."""
        recoveries = self._parts.store.recoveries
        if recoveries > self._recoveries:
            self._recoveries = recoveries
            reason = "the state database takes commits again"
            folders = self._parts.watch.folders
            self._scans_before = {name: folders[name].last_scan for name in folders}
            self._parts.watch.ask_scans(reason)

    def _mind_the_mounts(self) -> None:
        """Have every root be checked when something was mounted, or is mounted no more."""
        with suppress(OSError):
            if (changes := mounts.changes()) != self._mount_changes:
                self._mount_changes = changes
                self._parts.watch.ask_checks()

    def _state_trouble(self) -> str:
        """Say whether the state cannot be written, or could not, and a scan is still to make up."""
        if self._parts.store.in_trouble:
            return "the state cannot be written: nothing is sent or deleted"
        folders = self._parts.watch.folders
        self._scans_before = {
            name: scan
            for name, scan in self._scans_before.items()
            if name in folders and (folders[name].last_scan is scan or not _is_whole(folders[name]))
        }
        waiting = ", ".join(self._scans_before)
        return (
            f"the state could not be written; a scan makes up for it: {waiting}" if waiting else ""
        )

    def _is_to_reload(self) -> bool:
        if self._reload.is_set():
            # A command holds the parts that it began with.
            return not self._control.busy
        return self._parts.gate.refused and self._has_another_key()

    def _has_another_key(self) -> bool:
        """Say whether the key file holds another key than the one that was refused."""
        now = time.monotonic()
        if now - self._key_looked_at < KEY_SECONDS:
            return False
        self._key_looked_at = now
        try:
            config = self._load()
        except Exception:
            return False
        return config.credentials != self._config.credentials

    def _reloaded(self) -> Parts | None:
        """Take up the configuration as it is now; return other parts, if it takes any.

        One that cannot be used changes nothing: the old one holds.
        """
        self._reload.clear()
        sd_notify.reloading()
        old = self._config
        try:
            config = self._load()
            _refuse_move(old, config)
            parts = build(config, self._parts.store)
        except Exception as error:
            self._rejected = "the configuration has changed and cannot be used: the old one holds"
            why = "; ".join(str(error).splitlines())
            log.error("not reloaded, the old configuration holds: %s", why)
            RELOADS.add("failed")
            sd_notify.ready()
            return None
        self._config, self._rejected = config, ""
        if (old.server, old.server_token) != (config.server, config.server_token):
            self._listener.stop()
            self._listener.start()
        if _without_surface(old) != _without_surface(config):
            log.info("reloaded; transfers get %g seconds", old.upload.drain_seconds)
            RELOADS.add("done")
            return parts
        for client in parts.clients:
            client.close()
        log.info("reloaded: nothing changed that touches files")
        RELOADS.add("done")
        sd_notify.ready()
        return None

    def _beat(self) -> None:
        """Leave a beat when it is time or something is new, and tell the service manager."""
        vitals_now = self._vitals(hung := self._hung())
        if not hung:
            sd_notify.watchdog()
        now = time.monotonic()
        news = replace(vitals_now, beat_at=0.0) != replace(self._told, beat_at=0.0)
        self._told = vitals_now
        # At rest the disk may sleep: whoever wants to know asks on the socket.
        if news or not (self._control.listens or now - self._beat_at < BEAT_SECONDS):
            self._beat_at = now
            vitals.write(self._parts.store.directory, vitals_now)
        self._tell_summary()

    def _tell_summary(self) -> None:
        """Tell the service manager how things stand, where that has changed."""
        now = time.monotonic()
        if now < self._summary_at or not sd_notify.is_listened_to():
            return
        summary = self._parts.store.recall("summary", overview.summary)
        # Among millions of files, it must not take a good part of each second.
        self._summary_at = now + SUMMARY_SHARE * (time.monotonic() - now)
        if summary != self._summary and sd_notify.status(summary):
            self._summary = summary

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
            f"{name} has been running for {seconds:.0f} s: its disk or the service is silent"
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
        gate, now = self._parts.gate, time.time()
        asked = gate.seconds_rested()
        if asked or gate.refused or gate.resting or gate.closed or gate.refusals.held:
            self._undisturbed_since = now
        return Vitals(
            version=__version__,
            pid=os.getpid(),
            since=self._since,
            beat_at=time.time(),
            folders=self._parts.watch.vitals(),
            transfers=[
                Transfer(
                    t.folder, printable(t.path), t.sent, t.size, t.since, t.moved_at, t.is_read
                )
                for t in self._parts.uploader.transfers()
            ],
            hung=bool(hung),
            api_state=gate.state,
            last_success_at=gate.last_success_at,
            api_cause=_cause(gate),
            asked_until=round(now + asked) if asked >= 1.0 else None,
            tries={scope: round(now + wait) for scope, wait in gate.next_tries().items()},
            progress_at=self._parts.uploader.progress_at,
            undisturbed_since=self._undisturbed_since,
            pace=asdict(_pace(self._config)),
            troubles=[
                trouble
                for trouble in (
                    *hung,
                    self._state_trouble(),
                    *self._slow(),
                    *failing,
                    self._listener.trouble,
                    self._rejected,
                )
                if trouble
            ],
        )

    def _last_beat(self) -> None:
        with suppress(OSError):
            (self._parts.store.directory / vitals.FILE_NAME).unlink()


def _is_whole(watched: Watched) -> bool:
    return watched.last_scan is not None and watched.last_scan.complete


def _cause(gate: Gate) -> str:
    """Say why the service is not reached, and when it is tried again; empty while it is."""
    if not gate.cause:
        return ""
    return f"{gate.cause}; tried again at {clock(time.time() + gate.seconds_until_probe())}"


def _pace(config: Config) -> Pace:
    folders = config.folders
    return Pace(
        settle={folder.name: folder.settle_seconds for folder in folders},
        grace={folder.name: folder.grace_seconds for folder in folders},
        rescan={folder.name: folder.rescan_seconds for folder in folders},
        resend_after=config.upload.resend_after_seconds,
        stalled_after=config.processing.stalled_after,
    )


def raise_limit_of_open_files() -> None:
    """Take as many open files as are permitted: the soft limit is for users of select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _refuse_move(old: Config, new: Config) -> None:
    """Raise ConfigError where `new` wants what only another start can do."""
    for setting, before, after in (
        ("[state] directory", old.state.directory, new.state.directory),
        ("[api] base_url", old.api.base_url, new.api.base_url),
    ):
        if before != after:
            raise ConfigError(
                f"{setting} is now {after}, and was {before}: restart syncd to have it move"
            )


def _without_surface(config: Config) -> Config:
    """Return what of a configuration the parts are built of."""
    blank = Settings.model_fields
    surface = {name: blank[name].default for name in ("server", "log")}
    return config.model_copy(update={**surface, "server_token": None, "warnings": ()})


def run(config: Config, load: Callable[[], Config]) -> int:
    """Run until told to stop; return the exit code. `load` reads the configuration anew."""
    signals = Signals()
    # A terminal that closes says so by SIGHUP: that is an end.
    signals.listen(reloads=not os.isatty(2))
    raise_limit_of_open_files()
    with opened(config) as parts:
        daemon = Daemon(
            config=config, parts=parts, stop=signals.stop, reload=signals.reload, load=load
        )
        threading.Thread(
            target=end_in_time, args=(lambda: daemon.drain_seconds, signals.stop), daemon=True
        ).start()
        code = daemon.run(signals.hurry)
    if daemon.hung:
        # The interpreter would wait for its threads.
        leave(code)
    return code
