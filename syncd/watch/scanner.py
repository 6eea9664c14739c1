"""The scan: one pass over a folder, compared with the table directory by directory.

Events are hints; the scan is the truth. It keeps no list of all files: at any time it holds one
directory's rows, a batch of what differs, and the names of the directories.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from syncd import disk, mounts
from syncd.disk import Fingerprint
from syncd.exceptions import UnreadableError
from syncd.identity import View
from syncd.state import folders, inventory
from syncd.state.inventory import Known
from syncd.state.lifecycle import FileStatus
from syncd.state.sightings import Seen, Sighting
from syncd.state.store import Store
from syncd.watch.coverage import Coverage
from syncd.watch.folder import WatchFolder
from syncd.watch.ignore import IgnoreFiles, Rules
from syncd.watch.looks import BATCH, EXCLUDED, judge
from syncd.watch.roots import Root, RootState, Standing
from syncd.watch.writing import Writing

#: Seconds for which the table's note of the last scan may lag behind, when nothing changed.
NOTE_SECONDS = 60.0


@dataclass(slots=True)
class ScanReport:
    """What a scan found. Complete: every directory that could be listed was, to its end."""

    state: RootState = RootState.MISSING
    #: eligible regular files
    files: int = 0
    #: rows of the table that changed
    changed: int = 0
    #: files found to be missing
    missing: int = 0
    #: of the eligible files together, in bytes
    size: int = 0
    directories: int = 0
    #: directories in which events do not tell of every change, where that was asked for
    uncovered: list[bytes] = field(default_factory=list)
    #: directories that could not be listed, and why: nothing is said of what is beneath them
    unreadable: dict[bytes, str] = field(default_factory=dict)
    seconds: float = 0.0
    complete: bool = False


class Scanner:
    """Scans one folder; a scan at a time."""

    def __init__(
        self,
        *,
        store: Store,
        folder: WatchFolder,
        rules: Rules,
        writing: Writing,
        root: Root,
        clock: Callable[[], float] = time.time,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._folder = folder
        self._rules = rules
        self._writing = writing
        self._root = root
        self._clock = clock
        self._stopped = stopped
        self._noted = (-NOTE_SECONDS, -1)

    def scan(self, coverage: Coverage | None = None) -> ScanReport:
        """Scan the folder from root to leaves, and record what differs from the table.

        With `coverage` the report also tells which directories it does not cover.
        """
        began = time.monotonic()
        # Read anew with each scan: where there are no events, nobody tells of a change in them.
        self._rules.forget()
        self._root.compare_anew()
        standing = self._root.check()
        report = ScanReport(state=standing.state)
        if standing.state.is_seen:
            self._pass(report, standing, coverage).run()
        report.seconds = time.monotonic() - began
        if report.complete:
            self._note(report)
        return report

    def scan_parts(self, directories: Sequence[bytes], coverage: Coverage) -> ScanReport:
        """Scan these directories, and those beneath them that `coverage` does not cover."""
        began = time.monotonic()
        self._rules.forget()
        standing = self._root.check()
        report = ScanReport(state=standing.state)
        if standing.state.is_seen:
            self._pass(report, standing, coverage).run_parts(directories)
        report.seconds = time.monotonic() - began
        return report

    @property
    def ever_ended(self) -> bool:
        """Whether a scan of this folder ever came to its end."""
        return self._store.read(lambda db: folders.is_first_scan_over(db, self._folder.name))

    def _pass(self, report: ScanReport, standing: Standing, coverage: Coverage | None) -> "_Pass":
        report.unreadable.update(dict.fromkeys(standing.stopped, "another disk is mounted there"))
        return _Pass(
            store=self._store,
            folder=self._folder,
            rules=self._rules,
            writing=self._writing,
            root=self._root,
            stopped=self._stopped,
            report=report,
            before=standing.view,
            coverage=coverage,
        )

    def _note(self, report: ScanReport) -> None:
        """Note the scan in the table; where it changed nothing, not more than once a minute."""
        now = time.monotonic()
        at, directories = self._noted
        if not report.changed and directories == report.directories and now < at + NOTE_SECONDS:
            return
        self._noted = now, report.directories
        tells_all = report.state is RootState.OK and not report.unreadable
        self._store.write(
            lambda db: folders.note_scan(
                db,
                self._folder.name,
                at=self._clock(),
                seconds=report.seconds,
                directories=report.directories,
                mirrored=self._folder.mirror_deletions if tells_all else None,
            )
        )


class _EndedEarlyError(Exception):
    """The scan was stopped, or its root is another one by now: nothing more can be said."""


@dataclass(slots=True, kw_only=True)
class _Pass:
    """One scan under way."""

    store: Store
    folder: WatchFolder
    rules: Rules
    writing: Writing
    root: Root
    stopped: Callable[[], bool]
    report: ScanReport
    before: View
    coverage: Coverage | None
    #: directories to come to, with the rules that bear on what is above them
    waiting: list[tuple[bytes, IgnoreFiles]] = field(default_factory=list)
    listed: set[bytes] = field(default_factory=set)
    batch: list[Sighting] = field(default_factory=list)
    #: known files that were not found so far
    nominated: list[bytes] = field(default_factory=list)
    #: whether only what events do not cover is scanned
    in_parts: bool = False

    def run(self) -> None:
        report = self.report
        self.waiting.append((b"", ()))
        try:
            self._come_to_all()
            self._vanished_directories()
            self._look_again()
            self._flush()
        except _EndedEarlyError:
            report.state = self.root.check().state
            return
        report.complete = True

    def run_parts(self, directories: Sequence[bytes]) -> None:
        self.in_parts = True
        try:
            for directory in directories:
                try:
                    if self.rules.excludes_directory(directory):
                        continue
                    above = self.rules.above(directory)
                except UnreadableError as error:
                    self.report.unreadable[directory] = str(error)
                    continue
                self.waiting.append((directory, above))
                self._come_to_all()
                if directory not in self.listed and directory not in self.report.unreadable:
                    self._nominate([p for p, k in self._known(directory).items() if k.is_mirrored])
            self._look_again()
            self._flush()
        except _EndedEarlyError:
            return
        self.report.complete = True

    def _come_to_all(self) -> None:
        while self.waiting:
            directory, above = self.waiting.pop()
            # A part may be come to twice: in its turn, and from the part above it.
            if directory not in self.listed and directory not in self.report.unreadable:
                self._directory(directory, above)

    def _directory(self, directory: bytes, above: IgnoreFiles) -> None:
        """List one directory to its end, and compare it with what is known of it."""
        known = self._known(directory)
        prefix = directory + b"/" if directory else b""
        try:
            with (
                disk.directory(self.folder.path, directory) as descriptor,
                disk.entries_of(descriptor) as entries,
            ):
                if self._is_covered(descriptor, directory):
                    self.listed.add(directory)
                    return
                files = self.rules.read(descriptor, directory, above)
                for entry in entries:
                    if self.stopped():
                        raise _EndedEarlyError
                    path = prefix + os.fsencode(entry.name)
                    self._entry(entry, path, known, files)
        except UnreadableError as error:
            self.report.unreadable[directory] = str(error)
            return
        except OSError as error:
            # Gone while we came to it, or no directory now: judged with the vanished ones.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return
            self.report.unreadable[directory] = str(error.strerror)
            return
        self.listed.add(directory)
        self.report.directories += 1
        self._nominate([path for path, row in known.items() if row.is_mirrored])

    def _is_covered(self, descriptor: int, directory: bytes) -> bool:
        """Note a directory that events do not cover; say whether it can be left to them."""
        if self.coverage is None:
            return False
        covered = self.coverage.has(directory, os.fstat(descriptor))
        if not covered:
            self.report.uncovered.append(directory)
        return covered and self.in_parts

    def _entry(
        self,
        entry: "os.DirEntry[str]",
        path: bytes,
        known: dict[bytes, Known],
        files: IgnoreFiles,
    ) -> None:
        """Compare one entry with what is known of it."""
        is_dir = entry.is_dir(follow_symlinks=False)
        verdict = self.rules.entry(path, is_dir=is_dir, files=files)
        if is_dir:
            if not verdict.excluded:
                self.waiting.append((path, files))
            return
        if verdict.excluded:
            self._ineligible(path, known.pop(path, None), f"{EXCLUDED}{verdict.rule}")
            return
        try:
            # The mode decides: the entry's own type may be of something that stood there before.
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            self._unreadable(path, known.pop(path, None), str(error.strerror))
            return
        if stat.S_ISDIR(status.st_mode):
            return
        row = known.pop(path, None)
        if not stat.S_ISREG(status.st_mode):
            self._ineligible(path, row, "not a regular file")
            return
        too_large = self.rules.of_size(status.st_size)
        if too_large.excluded:
            self._ineligible(path, row, f"{EXCLUDED}{too_large.rule}")
            return
        self.report.files += 1
        self.report.size += status.st_size
        fingerprint = Fingerprint.of(status)
        if row is None or not row.agrees_with(fingerprint, skips=self.folder.skip_existing):
            self._add(
                Sighting(
                    path,
                    Seen.PRESENT,
                    fingerprint,
                    is_open=self.writing.has(path),
                    own_clock=mounts.has_own_clock(status.st_dev),
                )
            )

    def _ineligible(self, path: bytes, row: Known | None, reason: str) -> None:
        if row is not None and not row.is_unmirrored:
            by_rule = reason.startswith(EXCLUDED)
            self._add(Sighting(path, Seen.INELIGIBLE, reason=reason, by_rule=by_rule))

    def _unreadable(self, path: bytes, row: Known | None, reason: str) -> None:
        # Known to be unreadable, it has a time of its own to be looked at again.
        if row is None or row.status != FileStatus.UNREADABLE:
            self._add(Sighting(path, Seen.UNREADABLE, reason=reason))

    def _nominate(self, paths: list[bytes]) -> None:
        """Remember known files that no listing showed: a look of their own has the evidence."""
        self.nominated += paths
        if len(self.nominated) >= BATCH:
            self._look_again()

    def _look_again(self) -> None:
        paths, self.nominated = self.nominated, []
        for path, sight in disk.look(self.folder.path, paths).items():
            sighting = judge(self.rules, self.writing, path, sight)
            self.report.missing += sighting.seen is Seen.MISSING
            self._add(sighting)

    def _vanished_directories(self) -> None:
        """Judge the known files of directories that this scan did not come to."""
        if b"" not in self.listed:
            raise _EndedEarlyError
        parents = self.store.read(lambda db: inventory.directories(db, self.folder.name))
        for parent in parents:
            if parent in self.listed:
                continue
            known = self._known(parent)
            try:
                verdict = self.rules.verdict(parent, is_dir=True) if parent else None
            except UnreadableError as error:
                self.report.unreadable[parent] = str(error)
                continue
            if verdict and verdict.excluded:
                for path, row in known.items():
                    self._ineligible(path, row, f"{EXCLUDED}{verdict.rule}")
            elif not self._beneath_unreadable(parent):
                self._nominate([path for path, row in known.items() if row.is_mirrored])

    def _beneath_unreadable(self, directory: bytes) -> bool:
        unreadable = self.report.unreadable
        return b"" in unreadable or any(
            directory == above or directory.startswith(above + b"/") for above in unreadable
        )

    def _known(self, directory: bytes) -> dict[bytes, Known]:
        return self.store.read(lambda db: inventory.in_directory(db, self.folder.name, directory))

    def _add(self, sighting: Sighting) -> None:
        self.batch.append(sighting)
        if len(self.batch) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        batch, self.batch = self.batch, []
        if not batch:
            return
        changed = self.root.record(batch, self.before)
        if changed is None:
            raise _EndedEarlyError
        self.report.changed += changed
