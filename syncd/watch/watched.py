"""One watch folder: its root, watcher, rules and scanner, and the steps over them."""

import logging
import os
import random
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from pathlib import Path

from syncd.heartbeat import FolderHealth
from syncd.log import printable
from syncd.state.apply_plan import Policies
from syncd.state.database.store import Store
from syncd.units import counted, size
from syncd.watch.evidence import Looker
from syncd.watch.folder import WatchFolder
from syncd.watch.hints import Hints
from syncd.watch.ignore import IGNORE_FILE, Rules
from syncd.watch.inotify import Instances
from syncd.watch.observer import FolderObserver
from syncd.watch.polling import Polling
from syncd.watch.roots import Root
from syncd.watch.scan_pass import ScanReport
from syncd.watch.scanner import Scanner
from syncd.watch.standing import RootState, Standing

log = logging.getLogger(__name__)

#: The share by which the time between two scans varies, so that folders do not scan in step.
JITTER = 0.1
#: The largest share of the time that scans of a folder take, so that a slow disk with a short
#: `rescan_seconds` is not at work all the time.
SCANNING_PART = 0.2
#: Seconds for which a count of live watches is believed, at least; and the largest share of the
#: time that counting takes.
COUNTED_SECONDS, COUNTING_PART = 10.0, 0.001
#: The shortest pause after a scan before one that was asked for, in seconds; a long scan is
#: followed by as long a pause.
ASKED_SECONDS = 1.0
#: Seconds after a scan that failed before another.
FAILED_SECONDS = 10.0
#: Seconds between two checks of the root and the watcher, at first.
CHECK_SECONDS = 10.0
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
        instances: Instances | None = None,
        polling: Polling | None = None,
    ) -> None:
        self.folder = folder
        self._polling = polling or Polling()
        self._stopped = stopped
        self.hints = Hints(wake, clock=clock)
        self.observer = FolderObserver(
            folder=folder, hints=self.hints, instances=instances, monotonic=monotonic
        )
        self._clock = clock
        self._monotonic = monotonic
        self._rules = Rules(folder)
        self._root = Root(store=store, folder=folder, policies=policies, clock=clock)
        self._looker = Looker(
            store=store,
            folder=folder,
            rules=self._rules,
            open_files=self.observer.open_files,
            root=self._root,
            clock=clock,
        )
        self._scanner = Scanner(
            store=store,
            folder=folder,
            rules=self._rules,
            open_files=self.observer.open_files,
            root=self._root,
            clock=clock,
            stopped=self._is_stopped,
        )
        self._scanning = threading.Lock()
        self._seen: Standing | None = None
        self._checked_event_at: float | None = None
        self._check_seconds = CHECK_SECONDS
        self._scan_at = monotonic()
        self._rests_until = monotonic()
        #: directories in which events do not report every change, and those that cannot be read
        self._uncovered: list[bytes] = []
        self._unreadable: list[bytes] = []
        #: when they are polled next
        self._poll_at = monotonic()
        #: until when the count of live watches is believed
        self._counted = (monotonic(), 0)
        self.last_scan: ScanReport | None = None
        #: why the last scan failed; empty if it did not
        self._failed = ""
        #: what the first scan in the folder's life found, in words; empty if that was not here
        self.first_found = ""

    def _is_stopped(self) -> bool:
        return self._stopped()

    def rebind(self, other: "Watched") -> None:
        """Continue with the policies and the stop flag of `other`; call it between two steps."""
        self.hints.wake = other.hints.wake
        self._root.policies = other._root.policies  # noqa: SLF001 - of its own kind
        self._stopped = other._stopped  # noqa: SLF001
        if self.last_scan and not self.last_scan.complete:
            self.hints.ask_scan("the scan before was cut short")

    def start(self) -> None:
        """Check the root, begin to watch, and make a scan due."""
        self.check()
        self.observer.start()
        self._scan_at = self._monotonic()

    def check(self) -> RootState:
        """Check root and watcher; a root that is back, or another, is scanned at once."""
        seen = self._root.check()
        known, self._seen = self._seen, seen
        if known is not None and seen.state is not RootState.MISSING and known != seen:
            self.hints.ask_scan("the folder is another one, or what is mounted in it")
        return seen.state

    def take_root(self, scope: str) -> bool:
        """Take what is there now for the root, or the part, that a hold of that scope is about.

        Return False if nothing is there.
        """
        taken = self._root.take(scope)
        if taken:
            self.hints.ask_scan("another root was approved")
        return taken

    def check_all(self) -> float:
        """Check the root and the watcher; return the seconds until that is due again.

        At rest it is checked less and less often, and at last with each scan alone, so that its
        disk may sleep: whatever is sent or deleted looks at the root first.
        """
        before = self._seen, self._checked_event_at
        self.check()
        fault = self.observer.check()
        self._checked_event_at = self.hints.last_event_at
        is_right = self._seen is not None and self._seen.state is RootState.OK
        is_watched = self.observer.kind == "native" and not (fault or self.observer.trouble)
        if is_right and is_watched and before == (self._seen, self._checked_event_at):
            self._check_seconds = min(2 * self._check_seconds, self.folder.rescan_seconds)
        elif is_right and self.observer.kind == "polling":
            # Each of its scans looks at the root as well.
            self._check_seconds = max(CHECK_SECONDS, self._polling.pause(0.0))
        else:
            self._check_seconds = CHECK_SECONDS
        return self._check_seconds

    def look(self) -> float | None:
        """Look at what events hinted at, and again at what is due; return the seconds until more.

        None if nothing waits.
        """
        self.look_hints()
        due_at = self.look_due()
        return None if due_at is None else max(due_at - self._clock(), 0.0)

    def look_hints(self) -> int:
        """Look at the paths that events hinted at; return the rows changed."""
        if self.hints.take_check():
            self.check_all()
        hints = self.hints.take()
        if not hints:
            return 0
        ignore_changed = self.folder.syncdignore and any(map(is_ignore_file, hints))
        if ignore_changed or any(map(self._rules.knows, hints)):
            # Before any look, so that files that came with it are judged by the present rules.
            self._rules.forget()
        if ignore_changed:
            self.hints.ask_scan("a .syncdignore file changed")
        try:
            changed = self._looker.look(hints)
        except Exception:
            # These hints are lost and will not come again.
            self.hints.ask_scan("a look at what events told of was not recorded")
            raise
        if changed is None:
            self.hints.ask_scan("the folder changed under a look")
        return changed or 0

    def look_due(self) -> float | None:
        """Look again at what is due; return when more will be, in seconds since the epoch."""
        return self._looker.look_due()

    def look_at(self, paths: Collection[bytes]) -> ScanReport:
        """Look now at `paths` and all beneath them; an empty path is the whole folder.

        The report is complete if everything was recorded.
        """
        if b"" in paths:
            return self.scan()
        root = Path(os.fsdecode(self.folder.path))
        # A file does not wait for the end of a scan.
        directories = [path for path in paths if (root / os.fsdecode(path)).is_dir()]
        with self._scanning if directories else nullcontext():
            report = self._scanner.scan_directories(directories)
        if self._looker.look(dict.fromkeys(paths, False)) is None:
            report.complete = False
        return report

    def scan_if_due(self) -> float:
        """Scan if it is time; return the seconds until the next scan."""
        now = self._monotonic()
        due_at = self._rests_until if self.hints.scan_asked else self._scan_at
        if due_at <= now:
            self.scan()
        elif self._are_polled and self._poll_at <= now:
            self._poll()
        due_at = min(self._scan_at, self._poll_at) if self._are_polled else self._scan_at
        if self.hints.scan_asked:
            due_at = min(due_at, self._rests_until)
        return max(due_at - self._monotonic(), 0.0)

    @property
    def _are_polled(self) -> bool:
        return bool(self._uncovered or self._unreadable)

    def scan(self) -> ScanReport:
        """Scan now, whatever is due; never beside another scan of this folder."""
        with self._scanning:
            return self._scan()

    def _scan(self) -> ScanReport:
        # Taken before the scan, so that a request during it causes another.
        reason = self.hints.take_scan()
        coverage = self.observer.coverage()
        is_first = not self._scanner.ever_ended
        try:
            report = self._scanner.scan(coverage)
        except Exception as error:
            # Most likely nothing can be recorded now, so the scan must be repeated.
            self._failed = f"the last scan failed: {error}"
            self.hints.ask_scan(reason or "the scan before failed")
            self._rests_until = self._monotonic() + FAILED_SECONDS
            self._scan_at = max(self._scan_at, self._rests_until)
            raise
        self._failed = ""
        ended = self._monotonic()
        self._rests_until = ended + max(ASKED_SECONDS, report.seconds)
        self._scan_at = ended + self._pause(report)
        self._uncovered = report.uncovered
        self._unreadable = list(report.unreadable)
        self._poll_at = ended + self._polling.pause(report.seconds)
        self._tell_unreadable(report)
        self.last_scan = report
        self._log(report, reason)
        if is_first and report.complete:
            self.first_found = self._first_text(report)
            log.info("%s", self.first_found)
        return report

    def _poll(self) -> None:
        """Scan the directories that events do not cover, and those that could not be read."""
        began = self._monotonic()
        # Asked first, so that what is watched from now on is compared once more.
        coverage = self.observer.coverage()
        self.observer.watch_again([*self._uncovered, *self._unreadable])
        self._poll_unreadable()
        if self._uncovered and coverage is None:
            # Everything is covered by now, or nothing is: either asks for a whole scan.
            self._uncovered = []
            self.hints.ask_scan("the watching has changed")
        elif self._uncovered:
            report = self._scanner.scan_directories(self._uncovered, coverage)
            if report.complete:
                self._uncovered = list(dict.fromkeys(report.uncovered))
        ended = self._monotonic()
        self._poll_at = ended + self._polling.pause(ended - began)

    def _poll_unreadable(self) -> None:
        if not self._unreadable or self.last_scan is None:
            return
        report = self._scanner.scan_directories(self._unreadable)
        if not report.complete:
            return
        if b"" in self._unreadable and b"" not in report.unreadable:
            self.hints.ask_scan("the folder can be read again")
        self._unreadable = list(report.unreadable)
        self.last_scan.unreadable = report.unreadable

    def _tell_unreadable(self, report: ScanReport) -> None:
        before = self.last_scan.unreadable if self.last_scan else {}
        if report.unreadable.keys() - before.keys():
            log.warning("%s: %s", self.folder.name, _unreadable_text(report.unreadable))

    def health(self) -> FolderHealth:
        """Return how well the folder is seen."""
        report = self.last_scan
        return FolderHealth(
            watch=self.observer.kind,
            watch_reason=self.observer.reason or _overflow_text(self.observer.overflows),
            watched_directories=self._watched_directories(),
            directories=report.directories if report else 0,
            last_event_at=self.hints.last_event_at,
            trouble="; ".join(filter(None, self._troubles())),
        )

    def _watched_directories(self) -> int:
        """Return in how many directories events report every change."""
        now = self._monotonic()
        believed_until, watches = self._counted
        if now >= believed_until or self.observer.kind == "polling":
            watches = self.observer.live_watches
            took = self._monotonic() - now
            self._counted = now + max(COUNTED_SECONDS, took / COUNTING_PART), watches
        if self.last_scan is None or not watches:
            return watches
        # Excluded directories are watched, too, and are not counted.
        return min(watches, self.last_scan.directories - len(self._uncovered))

    def _troubles(self) -> list[str]:
        missing = self._seen is not None and self._seen.state is RootState.MISSING
        unreadable = self.last_scan.unreadable if self.last_scan else {}
        return [
            "the folder cannot be listed" if missing else "",
            self.observer.trouble,
            self._failed,
            _unreadable_text(unreadable),
        ]

    def _pause(self, report: ScanReport) -> float:
        if report.state is RootState.MISSING:
            return MISSING_SECONDS
        pause, is_polled = self.folder.rescan_seconds, self.observer.kind == "polling"
        self._polling.note(self.folder.name, is_polled=is_polled)
        if is_polled:
            pause = min(pause, self._polling.pause(report.seconds))
        pause = max(pause, report.seconds / SCANNING_PART - report.seconds)
        return pause * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 no secret

    def _first_text(self, report: ScanReport) -> str:
        found = f"{self.folder.name}: the first scan found"
        if not report.files:
            return f"{found} no file"
        what = (
            'left as they are until they change (existing = "skip")'
            if self.folder.skip_existing
            else "to be sent"
        )
        return f"{found} {counted(report.files, 'file')}, {size(report.size)}, {what}"

    def _log(self, report: ScanReport, reason: str) -> None:
        level = logging.INFO if report.changed or reason else logging.DEBUG
        log.log(
            level,
            "%s: scanned %s in %s in %.2f s: %d changed, %d missing%s%s",
            self.folder.name,
            counted(report.files, "file"),
            counted(report.directories, "directory", "directories"),
            report.seconds,
            report.changed,
            report.missing,
            "" if report.complete else ", not to the end",
            f" ({reason})" if reason else "",
        )


def is_ignore_file(path: bytes) -> bool:
    """Return whether `path` is one of the files that hold rules."""
    return path.rpartition(b"/")[2] == IGNORE_FILE.encode()


def _overflow_text(overflows: int) -> str:
    times = "once" if overflows == 1 else f"{overflows} times"
    return f"events were lost {times}, and a scan made up for it" if overflows else ""


def _unreadable_text(unreadable: Mapping[bytes, str]) -> str:
    if not unreadable:
        return ""
    path, why = next(iter(unreadable.items()))
    first = f"{printable(path) or 'its root'}: {why}"
    what = counted(len(unreadable), "directory", "directories")
    return f"{what} cannot be scanned ({first})"
