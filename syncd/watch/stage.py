"""Stage 1 as the daemon sees it: steps that bring the table up to what the disks hold.

Each step does what is due now, and goes round the folders; none runs beside itself.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from syncd.state.advance import Policies
from syncd.state.store import Store
from syncd.vitals import FolderVitals
from syncd.watch.folder import WatchFolder
from syncd.watch.hints import Hints
from syncd.watch.ignore import Rules
from syncd.watch.looks import Looker
from syncd.watch.observer import FolderObserver
from syncd.watch.roots import Root, RootState, View
from syncd.watch.scanner import Scanner, ScanReport

log = logging.getLogger(__name__)

#: By how much of itself the time between two scans varies, so that folders do not scan in step.
JITTER = 0.1
#: Polling takes no more than this part of the time, and comes round no sooner than this.
POLLING_PART, POLLING_SECONDS = 0.05, 5.0
#: The shortest pause after a scan before another that was asked for, in seconds; and as long as
#: the scan took.
ASKED_SECONDS = 1.0
#: Seconds until the scan of a folder that is not there is tried again; its return asks for one.
MISSING_SECONDS = 10.0


class Watched:
    """One folder with its parts."""

    def __init__(
        self,
        *,
        store: Store,
        folder: WatchFolder,
        policies: Policies,
        wake: Callable[[], None],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        stopped: Callable[[], bool],
    ) -> None:
        self.folder = folder
        self._stopped = stopped
        self.hints = Hints(wake, clock=clock)
        self.observer = FolderObserver(folder=folder, hints=self.hints, monotonic=monotonic)
        self._monotonic = monotonic
        self._rules = Rules(folder)
        self._root = Root(store=store, folder=folder, policies=policies, clock=clock)
        self._looker = Looker(
            store=store, folder=folder, rules=self._rules, root=self._root, clock=clock
        )
        self._scanner = Scanner(
            store=store,
            folder=folder,
            rules=self._rules,
            root=self._root,
            clock=clock,
            stopped=self._is_stopped,
        )
        self._scanning = threading.Lock()
        self._seen: tuple[RootState, View] | None = None
        self._scan_at = monotonic()
        self._rests_until = monotonic()
        self.last_scan: ScanReport | None = None

    def _is_stopped(self) -> bool:
        return self._stopped()

    def rebind(self, other: "Watched") -> None:
        """Go on under the policies, and until the end, of `other`; between two steps only."""
        self._root.policies = other._root.policies  # noqa: SLF001 - of its own kind
        self._stopped = other._stopped  # noqa: SLF001

    def start(self) -> None:
        """Check the root, begin to watch, and have a scan be due."""
        self.check()
        self.observer.start()
        self._scan_at = self._monotonic()

    def check(self) -> RootState:
        """Check root and watcher; a root that is back, or another, is scanned at once."""
        state, seen = self._root.check()
        known, self._seen = self._seen, (state, seen)
        if known is None or state is RootState.MISSING:
            return state
        if (known[0], known[1].identity) != (state, seen.identity):
            self.hints.ask_scan("the folder is back, or another one is in its place")
        return state

    def take_root(self) -> bool:
        """Take what is there now for the folder's root; False where nothing is there."""
        taken = self._root.take()
        if taken:
            self.hints.ask_scan("another root was approved")
        return taken

    def check_all(self) -> None:
        """Check the root and the watcher; every 10 s or so."""
        self.check()
        self.observer.check()

    def look_hints(self) -> int:
        """Look at the paths that events hinted at; return the rows changed."""
        if self.hints.take_check():
            self.check_all()
        hints = self.hints.take()
        if not hints:
            return 0
        try:
            changed = self._looker.look(hints)
        except Exception:
            # What was hinted at is not recorded, and nobody will hint at it again.
            self.hints.ask_scan("a look at what events told of was not recorded")
            raise
        if changed is None:
            self.hints.ask_scan("the folder changed under a look")
        return changed or 0

    def look_due(self) -> float | None:
        """Look again at what is due; return when more will be, in seconds since the epoch."""
        return self._looker.look_due()

    def scan_if_due(self) -> float:
        """Scan if it is time; return the seconds until the next scan."""
        now = self._monotonic()
        due_at = self._rests_until if self.hints.scan_asked else self._scan_at
        if due_at > now:
            return due_at - now
        self.scan()
        return max(self._scan_at - self._monotonic(), 0.0)

    def scan(self) -> ScanReport:
        """Scan now, whatever is due; never beside another scan of this folder."""
        with self._scanning:
            return self._scan()

    def _scan(self) -> ScanReport:
        # Taken before the scan: what is asked for during it asks for another.
        reason = self.hints.take_scan()
        report = self._scanner.scan()
        ended = self._monotonic()
        self._rests_until = ended + max(ASKED_SECONDS, report.seconds)
        self._scan_at = ended + self._pause(report)
        self.last_scan = report
        if report.accepted:
            log.info("%s: the folder is the same, on another mount", self.folder.name)
            self.hints.ask_scan("another root was accepted")
        self._log(report, reason)
        return report

    def vitals(self) -> FolderVitals:
        """Return how well the folder is seen."""
        report = self.last_scan
        return FolderVitals(
            watch=self.observer.kind,
            watch_reason=self.observer.reason,
            watched_directories=self.observer.live_watches,
            directories=report.directories if report else 0,
            last_event_at=self.hints.last_event_at,
            trouble="; ".join(filter(None, self._troubles())),
        )

    def _troubles(self) -> list[str]:
        missing = self._seen is not None and self._seen[0] is RootState.MISSING
        unreadable = self.last_scan.unreadable if self.last_scan else {}
        return [
            "the folder cannot be listed" if missing else "",
            self.observer.trouble,
            f"{len(unreadable)} directories cannot be listed" if unreadable else "",
        ]

    def _pause(self, report: ScanReport) -> float:
        if report.state is RootState.MISSING:
            return MISSING_SECONDS
        pause = self.folder.rescan_seconds
        if not self.observer.sees_all:
            pause = min(pause, max(POLLING_SECONDS, report.seconds / POLLING_PART))
        return pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 no secret

    def _log(self, report: ScanReport, reason: str) -> None:
        level = logging.INFO if report.changed or reason else logging.DEBUG
        log.log(
            level,
            "%s: scanned %d files in %d directories in %.2f s: %d changed, %d missing%s%s",
            self.folder.name,
            report.files,
            report.directories,
            report.seconds,
            report.changed,
            report.missing,
            "" if report.complete else ", not to the end",
            f" ({reason})" if reason else "",
        )


class Watch:
    """All watch folders. Nothing runs before `start`; `stop` ends every thread."""

    def __init__(
        self,
        *,
        store: Store,
        folders: Sequence[WatchFolder],
        policies: Policies,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stop = threading.Event()
        self._stopped = stopped
        self.folders = {
            folder.name: Watched(
                store=store,
                folder=folder,
                policies=policies,
                wake=wake,
                clock=clock,
                monotonic=monotonic,
                stopped=lambda: self._stop.is_set() or stopped(),
            )
            for folder in folders
        }

    def start(self) -> None:
        """Check every root and begin to watch; the first scans are due then."""
        for watched in self.folders.values():
            watched.start()

    def stop(self) -> None:
        """End scans under way and every thread, in reverse; safe to call twice."""
        self._stop.set()
        for watched in reversed(self.folders.values()):
            watched.observer.stop()

    def inherit(self, old: "Watch") -> None:
        """Start in place of `old`: a folder that is the same is watched on, without a gap.

        The others of `old` are watched no more. No step of either may be running.
        """
        for name, watched in old.folders.items():
            if name in self.folders and self.folders[name].folder == watched.folder:
                watched.rebind(self.folders[name])
                self.folders[name] = watched
            else:
                watched.observer.stop()
        for name, watched in self.folders.items():
            if old.folders.get(name) is not watched:
                watched.start()

    def look_hints(self) -> int:
        """Step: look at what events hinted at; return the rows changed."""
        return sum(watched.look_hints() for watched in self.folders.values())

    def look_due(self) -> float | None:
        """Step: look again at what is due; return when more will be, in seconds since the epoch."""
        due = [watched.look_due() for watched in self.folders.values()]
        return min((at for at in due if at is not None), default=None)

    def scan_due(self) -> float | None:
        """Step: scan the folders whose time has come; return the seconds until the next is."""
        return min((watched.scan_if_due() for watched in self.folders.values()), default=None)

    def check_roots(self) -> None:
        """Step, every 10 s: check every root and every watcher."""
        for watched in self.folders.values():
            watched.check_all()

    def scan_all(self) -> list[ScanReport]:
        """Scan every folder now, for a single pass without watchers."""
        return [watched.scan() for watched in self.folders.values()]

    def vitals(self) -> dict[str, FolderVitals]:
        """Return how well each folder is seen."""
        return {name: watched.vitals() for name, watched in self.folders.items()}
