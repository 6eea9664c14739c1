"""Scans a folder, or some of its directories. Events are hints; the scan is the truth."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncd.state import folders
from syncd.state.database.store import Store
from syncd.watch.coverage import Coverage
from syncd.watch.folder import WatchFolder
from syncd.watch.ignore import Rules
from syncd.watch.open_files import OpenFiles
from syncd.watch.roots import Root
from syncd.watch.scan_pass import ScanPass, ScanReport
from syncd.watch.standing import RootState

log = logging.getLogger(__name__)

#: Seconds for which the table's note of the last scan may lag behind, when nothing changed.
NOTE_SECONDS = 60.0


@dataclass(kw_only=True, eq=False)
class Scanner:
    """Scans one folder; a scan at a time."""

    store: Store
    folder: WatchFolder
    rules: Rules
    open_files: OpenFiles
    root: Root
    clock: Callable[[], float] = time.time
    stopped: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self._noted = (-NOTE_SECONDS, -1)

    def scan(self, coverage: Coverage | None = None) -> ScanReport:
        """Scan the folder from root to leaves, and record what differs from the table.

        With `coverage` the report also tells which directories it does not cover.
        """
        # Read anew with each scan: where there are no events, nobody tells of a change in them.
        self.rules.forget(all_are_read=True)
        self.root.compare_anew()
        report = self._pass(coverage, ScanPass.run)
        if report.complete:
            self._note(report)
        return report

    def scan_directories(
        self, directories: Sequence[bytes], coverage: Coverage | None = None
    ) -> ScanReport:
        """Scan these directories and those beneath them, without what `coverage` covers."""
        self.rules.forget()
        return self._pass(coverage, lambda scan: scan.run_directories(directories))

    @property
    def ever_ended(self) -> bool:
        """Whether a scan of this folder ever came to its end."""
        return self.store.read(folders.is_first_scan_over, self.folder.name)

    def _pass(self, coverage: Coverage | None, run: Callable[[ScanPass], None]) -> ScanReport:
        """Let `run` scan the folder, if its root is the right one."""
        began = time.monotonic()
        standing = self.root.check()
        report = ScanReport(state=standing.state)
        if standing.state.is_seen:
            stopped = dict.fromkeys(standing.stopped, "another disk is mounted there")
            report.unreadable.update(stopped)
            run(
                ScanPass(
                    store=self.store,
                    folder=self.folder,
                    rules=self.rules,
                    open_files=self.open_files,
                    root=self.root,
                    stopped=self.stopped,
                    report=report,
                    before=standing.view,
                    coverage=coverage,
                )
            )
        report.seconds = time.monotonic() - began
        return report

    def _note(self, report: ScanReport) -> None:
        """Note the scan in the table; where it changed nothing, not more than once a minute."""
        now = time.monotonic()
        at, directories = self._noted
        if not report.changed and directories == report.directories and now < at + NOTE_SECONDS:
            return
        tells_all = report.state is RootState.OK and not report.unreadable
        self.store.write(
            folders.note_scan,
            self.folder.name,
            at=self.clock(),
            seconds=report.seconds,
            directories=report.directories,
            mirrored=self.folder.mirror_deletions if tells_all else None,
        )
        self._noted = now, report.directories
