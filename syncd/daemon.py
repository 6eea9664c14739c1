"""The daemon: starts its components, repeats their steps, and stops them in reverse order."""

import logging
import os
import resource
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from syncd import mounts, sd_notify
from syncd.alerts import Alerts, make_alerts
from syncd.catch_up import CatchUp
from syncd.components import Components, build, opened, settle_changes
from syncd.config.folder_settings import short_drains
from syncd.config.loading import Config
from syncd.draining import Drain, end_in_time, leave
from syncd.exceptions import DamagedStateError, ForeignStateError
from syncd.log import printable, tell_repeats
from syncd.metrics import RELOADS
from syncd.pulse import Pulse, Running
from syncd.reloading import KeyLookout, has_other_listener, needs_rebuild, refuse_move
from syncd.scheduler import Scheduler, StepReport
from syncd.server import Control, OptionalListener
from syncd.signals import Signals
from syncd.state import history, holds, scan_index
from syncd.state.database.directory import lost_with_container
from syncd.state.facts import LAST_ONCE, forget_fact
from syncd.workers.clock_seen import boottime

log = logging.getLogger(__name__)

#: Seconds between two looks at how things are, and at what was asked for.
TICK_SECONDS = 1.0
#: Seconds by which a second on the main thread must be longer to count as standing still.
STOOD_STILL_SECONDS = 10.0
#: Files that the daemon would like to be able to have open; what is permitted is taken.
OPEN_FILES = 65_536
#: Seconds that steps get at the end.
HUNG_STEP_SECONDS = 2.0
#: Seconds after which a step of a folder, or one that sends, runs at the latest, though not woken.
NET_SECONDS, WORK_SECONDS = 60.0, 15.0
#: The shortest pause, in seconds, between two hints to the steps: many commits are one hint.
HINT_SECONDS = 0.1
#: Seconds after a start until the table is backed up and pruned.
CALM_SECONDS = 60.0
#: Rows that are pruned in one transaction.
PRUNED_ROWS = 1000
HOUR_SECONDS, DAY_SECONDS = 3_600.0, 86_400.0


class Daemon:
    """Runs the components by a scheduler until it is told to stop."""

    def __init__(
        self,
        *,
        config: Config,
        components: Components,
        stop: threading.Event,
        reload: threading.Event | None = None,
        load: Callable[[], Config] | None = None,
    ) -> None:
        """`load` reads the configuration anew, when `reload` is set or the key may have changed."""
        self._config = config
        self._components = components
        self._stop = stop
        self._reload = reload or threading.Event()
        self._load = load or (lambda: config)
        self._keys = KeyLookout(self._load)
        self._next: Components | None = None
        self._catch_up = CatchUp(components)
        self._mount_changes = 0
        #: steps that did not end
        self.hung: list[str] = []
        self._drain_seconds = config.upload.drain_seconds
        #: why the newest configuration is not used, for a person
        self._rejected = ""
        self._pulse = Pulse()
        self._scheduler = Scheduler()
        self._alerts: Alerts | None = None
        self._listener = OptionalListener(config=lambda: self._config, steps=self._step_reports)
        self._foreign: ForeignStateError | None = None
        #: the steps that a commit or an event may have given something to do
        self._hinted: list[str] = []

    @property
    def drain_seconds(self) -> float:
        """Seconds that transfers get at the end."""
        return self._config.upload.drain_seconds

    @property
    def page_url(self) -> str:
        """The address of the status page; empty while it is not served."""
        return f"http://{self._listener.address}/" if self._listener.address else ""

    def run(self, hurry: threading.Event) -> int:
        """Start everything in order, stay until told to stop, stop in reverse; return the code.

        Raise ForeignStateError when the key turns out to be another organization's, and
        DamagedStateError when the database turns out to be damaged: no restart mends either.
        """
        store = self._components.store
        store.write(forget_fact, LAST_ONCE)
        with ExitStack() as stack:
            self._control = Control(
                directory=store.directory,
                components=lambda: self._components,
                beat_at=lambda: self._pulse.told.beat_at,
            )
            self._control.start()
            stack.callback(self._control.stop)
            self._listener.start()
            stack.callback(self._listener.stop)
            self._components.watch.start()
            stack.callback(self._stop_watching)
            self._run_until_replaced(hurry)
            while self._next is not None:
                old, self._components, self._next = self._components, self._next, None
                self._components.watch.inherit(old.watch)
                settle_changes(self._components, removed_too=not self._config.folders_are_chosen)
                self._run_until_replaced(hurry)
        self._pulse.end(self._components)
        if self._foreign is not None:
            raise self._foreign
        if store.writer.damage:
            raise DamagedStateError(store.writer.damage)
        return 1 if store.failed else 0

    def _run_until_replaced(self, hurry: threading.Event) -> None:
        """Run the components until the daemon stops or a reload replaces them."""
        components = self._components
        self._drain_seconds = self._config.upload.drain_seconds
        self._scheduler = Scheduler()
        self._add_steps()
        with ExitStack() as stack:
            for client in components.clients:
                stack.callback(client.close)
            components.uploader.start()
            stack.callback(self._stop_uploads, hurry)
            self._scheduler.start()
            stack.callback(self._stop_steps)
            # A look or a deletion under way ends at once, so that no step holds up the end.
            stack.callback(components.stop_looking.set)
            stack.callback(components.stop.set)
            stack.callback(self._pass_hints())
            self._beat()
            sd_notify.ready()
            self._announce()
            self._attend()
            if self._next is None:
                sd_notify.stopping()
                log.info("stopping; what is on its way gets %g seconds", self._drain_seconds)
                if self._foreign is None and not components.store.failed:
                    drain = Drain(components, self._scheduler)
                    self._drain_seconds = drain.run(self._drain_seconds, hurry)

    def _stop_steps(self) -> None:
        # A reload waits for every step: others take their place.
        self.hung = self._scheduler.stop(None if self._next else HUNG_STEP_SECONDS)
        if self.hung:
            log.warning("left behind, because it hangs: %s", ", ".join(self.hung))

    def _announce(self) -> None:
        for folder in self._config.folders:
            log.info("watching %s as %s", printable(str(folder.path)), folder.name)
        for warning in short_drains(self._config):
            log.warning("%s", warning)
        store = self._components.store
        if why := lost_with_container(store.directory):
            log.warning("the state in %s: %s", store.directory, why)
        log.info("sending to %s, state in %s", self._config.api.base_url, store.directory)
        for hold in store.read(holds.open_holds):
            level = logging.WARNING if hold.reason == holds.PAUSED else logging.ERROR
            log.log(level, "%s held since before: %s", hold.stops, hold.message)

    def _add_steps(self) -> None:
        components, add = self._components, self._scheduler.add
        self._hinted = ["upload", "confirm", "poll", "delete", "consume", "reconcile", "settle"]
        # A step for each folder: one whose disk hangs delays no other.
        for name, watched in components.watch.folders.items():
            add(f"look at {name}", watched.look, every=NET_SECONDS, rest=HINT_SECONDS)
            add(f"scan {name}", watched.scan_if_due, every=NET_SECONDS, rest=HINT_SECONDS)
            add(f"check {name}", watched.check_all, every=HOUR_SECONDS)
        components.watch.on_hint = self._wake_folder
        add("settle", self._settle, every=NET_SECONDS)
        add("upload", components.uploader.step, every=WORK_SECONDS)
        add("confirm", components.confirmer.step, every=WORK_SECONDS)
        add("poll", components.poller.step, every=WORK_SECONDS)
        add("delete", components.deleter.step, every=WORK_SECONDS)
        add("consume", components.after_upload.step, every=WORK_SECONDS)
        if components.receipts.folders:
            add("receipts", components.receipts.step, every=WORK_SECONDS)
            self._hinted.append("receipts")
        add("reconcile", self._reconcile, every=30.0)
        add("remember", components.store.remember, every=60.0)
        for hook in components.hooks:
            add(f"hook {hook.name}", hook.step, every=WORK_SECONDS)
            self._hinted.append(f"hook {hook.name}")
        self._alerts = make_alerts(self._config, components, self._scheduler.wake)
        for name, step, seconds in self._alerts.steps():
            add(name, step, every=seconds)
        # Both read much of the table: what waits to be sent goes first.
        add("back up", self._back_up, every=HOUR_SECONDS, after=CALM_SECONDS)
        add("prune", self._prune, every=DAY_SECONDS, after=CALM_SECONDS)

    def _wake_folder(self, name: str) -> None:
        self._scheduler.wake(f"look at {name}", f"scan {name}")

    def _settle(self) -> None:
        """Schedule the next looks at files, as the last commits left them."""
        now = time.time()
        for name, due_at in self._components.store.read(scan_index.next_looks).items():
            if name in self._components.watch.folders:
                self._scheduler.wake(f"look at {name}", within=max(due_at - now, 0.0))

    def _reconcile(self) -> float | None:
        try:
            return self._components.reconciler.step()
        except ForeignStateError as error:
            # Another organization's key: no waiting heals that.
            self._foreign = error
            self._stop.set()
            return None

    def _back_up(self) -> None:
        self._components.store.back_up_if_due(time.time())

    def _prune(self) -> None:
        # A little at a time: everything else that is written waits for it.
        while not self._stop.is_set() and self._components.store.write(
            history.prune, time.time(), limit=PRUNED_ROWS
        ):
            time.sleep(0)

    # These look up the components and the scheduler on each call: a reload replaces them.

    def _step_reports(self) -> list[StepReport]:
        return self._scheduler.report()

    def _stop_watching(self) -> None:
        self._components.watch.stop()

    def _pass_hints(self) -> Callable[[], None]:
        """Wake the steps after commits and events, a burst of them once; return how to end it."""
        changed, ended = self._components.store.changed, threading.Event()
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
        uploader, over = self._components.uploader, threading.Event()

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
                self._pulse.restart_ages()
                self._components.watch.ask_scans(f"the daemon stood still for {stood_still:.0f} s")
            self._scheduler.nudge()
            tell_repeats()
            if self._components.store.failed:
                log.critical(
                    "the state cannot be relied on; ending, so that a restart opens it anew"
                )
                return
            self._catch_up.step(self._components)
            self._mind_the_mounts()
            try:
                self._beat()
            except Exception:
                # The next beat comes in a second.
                log.debug("no beat", exc_info=True)
            if self._is_to_reload():
                self._next = self._reloaded()
                if self._next is not None:
                    return

    def _mind_the_mounts(self) -> None:
        """Have every root be checked when something was mounted, or is mounted no more."""
        with suppress(OSError):
            if (changes := mounts.changes()) != self._mount_changes:
                self._mount_changes = changes
                self._components.watch.ask_checks()

    def _is_to_reload(self) -> bool:
        if self._reload.is_set():
            # A command keeps the components that it started with.
            return not self._control.busy
        return self._components.gate.refused and self._keys.has_another(self._config)

    def _reloaded(self) -> Components | None:
        """Apply the configuration as it is now; return new components if it needs them.

        A configuration that cannot be used changes nothing: the old one stays in force.
        """
        self._reload.clear()
        sd_notify.reloading()
        old = self._config
        try:
            config = self._load()
            refuse_move(old, config)
            components = build(config, self._components.store)
        except Exception as error:
            why = "; ".join(str(error).splitlines())
            self._rejected = f"the configuration has changed and cannot be used: {why}"
            log.error("not reloaded, the old configuration holds: %s", why)
            RELOADS.add("failed")
            sd_notify.ready()
            return None
        self._config, self._rejected = config, ""
        if has_other_listener(old, config):
            self._listener.stop()
            self._listener.start()
        RELOADS.add("done")
        if needs_rebuild(old, config):
            log.info("reloaded; transfers get %g seconds", old.upload.drain_seconds)
            return components
        for client in components.clients:
            client.close()
        log.info("reloaded: nothing changed that touches files")
        sd_notify.ready()
        return None

    def _beat(self) -> None:
        """Leave a beat, with the troubles that only the daemon knows."""
        components = self._components
        running = Running(self._config, components, self._scheduler.report())
        alerts = self._alerts.troubles() if self._alerts else ()
        own = (self._catch_up.trouble(components), self._listener.trouble, self._rejected)
        self._pulse.beat(running, (*own, *alerts), is_asked=self._control.listens)


def raise_limit_of_open_files() -> None:
    """Take as many open files as are permitted: the soft limit is for users of select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run(config: Config, load: Callable[[], Config]) -> int:
    """Run until told to stop; return the exit code. `load` reads the configuration anew."""
    signals = Signals()
    # A terminal that closes says so by SIGHUP: that is an end.
    signals.listen(reloads=not os.isatty(2))
    raise_limit_of_open_files()
    with opened(config) as components:
        daemon = Daemon(
            config=config,
            components=components,
            stop=signals.stop,
            reload=signals.reload,
            load=load,
        )
        threading.Thread(
            target=end_in_time, args=(lambda: daemon.drain_seconds, signals.stop), daemon=True
        ).start()
        code = daemon.run(signals.hurry)
    if daemon.hung:
        # The interpreter would wait for its threads.
        leave(code)
    return code
