"""One pass over a folder, or over some of its directories, compared with the table.

It keeps no list of all files: at any time it holds a batch of one directory's rows, a batch of what
differs, and the names of the directories.
"""

import errno
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from syncd import disk, mounts
from syncd.descent import Descent
from syncd.disk import Fingerprint
from syncd.exceptions import UnreadableError
from syncd.identity import View
from syncd.log import printable
from syncd.state import scan_index
from syncd.state.database.store import Store
from syncd.state.lifecycle import FileStatus
from syncd.state.observations import Observation, Seen
from syncd.state.scan_index import Entry, Known
from syncd.watch.coverage import Coverage
from syncd.watch.evidence import BATCH, EXCLUDED, judge
from syncd.watch.folder import WatchFolder
from syncd.watch.ignore import IgnoreFiles, Rules
from syncd.watch.known_directory import KnownDirectory
from syncd.watch.open_files import OpenFiles
from syncd.watch.roots import Root
from syncd.watch.standing import RootState

log = logging.getLogger(__name__)

#: Entries of a directory that are compared at a time.
ENTRIES = 1000
#: Directories of which the table is asked at a time.
TOGETHER = 8
_ENCODING = sys.getfilesystemencoding()
#: The bits of a mode that say whether it is a file, a directory or something else.
_KIND = 0o170000
_PATH: Callable[[Entry], bytes] = itemgetter(0)
_SIZE: Callable[[Entry], int] = itemgetter(2)


@dataclass(slots=True)
class ScanReport:
    """The result of a scan; it is complete if every readable directory was listed to its end."""

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
    #: directories in which events do not report every change, if that was asked for
    uncovered: list[bytes] = field(default_factory=list)
    #: directories that could not be listed, and why; what is beneath them is unknown
    unreadable: dict[bytes, str] = field(default_factory=dict)
    seconds: float = 0.0
    complete: bool = False


class _EndedEarlyError(Exception):
    """The scan was stopped, or its root was replaced meanwhile: it can find out no more."""


@dataclass(slots=True, kw_only=True)
class ScanPass:
    """One scan under way."""

    store: Store
    folder: WatchFolder
    rules: Rules
    open_files: OpenFiles
    root: Root
    stopped: Callable[[], bool]
    report: ScanReport
    before: View
    coverage: Coverage | None
    #: directories still to be visited, with the rule files that stand above them
    waiting: list[tuple[bytes, IgnoreFiles]] = field(default_factory=list)
    listed: set[bytes] = field(default_factory=set)
    batch: list[Observation] = field(default_factory=list)
    #: known files that were not found so far
    nominated: list[bytes] = field(default_factory=list)
    #: the devices met, and whether their filesystems make up inodes
    inventing: dict[int, bool] = field(default_factory=dict)
    #: whether only the directories that events do not cover are scanned
    only_some: bool = False

    def run(self) -> None:
        report = self.report
        self.waiting.append((b"", ()))
        try:
            self._visit_all()
            self._vanished_directories()
            self._look_again()
            self._flush()
            self._insist_on_root()
        except _EndedEarlyError:
            report.state = self.root.check().state
            return
        report.complete = True

    def run_directories(self, directories: Sequence[bytes]) -> None:
        self.only_some = True
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
                self._visit_all()
                if directory not in self.listed and directory not in self.report.unreadable:
                    self._nominate(self._known([directory])[directory])
            self._look_again()
            self._flush()
        except _EndedEarlyError:
            return
        self.report.complete = True

    def _insist_on_root(self) -> None:
        """End early where the root was replaced: directories of the old one were still open."""
        if self.root.check().view != self.before:
            raise _EndedEarlyError

    def _visit_all(self) -> None:
        with Descent(self.folder.path) as descent:
            while self.waiting:
                # A part may be waiting twice: in its turn, and from the part above it.
                together = dict(reversed(self.waiting[-TOGETHER:]))
                del self.waiting[-TOGETHER:]
                known = self._known(together)
                for directory, above in together.items():
                    if directory not in self.listed and directory not in self.report.unreadable:
                        self._visit(directory, above, known.pop(directory), descent)

    def _visit(
        self, directory: bytes, above: IgnoreFiles, known: KnownDirectory, descent: Descent
    ) -> None:
        """List one directory to its end, and compare it with what is known of it."""
        try:
            descriptor = descent.enter(directory)
            if self._is_covered(descriptor, directory):
                self.listed.add(directory)
                return
            files = self.rules.read(descriptor, directory, above)
            with disk.entries_of(descriptor) as entries:
                device = os.fstat(descriptor).st_dev
                while batch := list(islice(entries, ENTRIES)):
                    self._compare(directory, batch, known, files, device)
        except UnreadableError as error:
            self.report.unreadable[directory] = str(error)
            return
        except OSError as error:
            # Removed meanwhile, or no directory any more: judged with the vanished ones.
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self.report.unreadable[directory] = str(error.strerror)
            return
        self.listed.add(directory)
        self.report.directories += 1
        self._nominate(known)

    def _compare(
        self,
        directory: bytes,
        batch: Sequence["os.DirEntry[str]"],
        known: KnownDirectory,
        files: IgnoreFiles,
        device: int,
    ) -> None:
        """Compare some entries of a directory with what is known of them."""
        if self.stopped():
            raise _EndedEarlyError
        prefix = directory + b"/" if directory else b""
        unchanged = self._unchanged(batch, prefix, known, files, device)
        self.report.files += len(unchanged)
        self.report.size += sum(map(_SIZE, unchanged))
        if len(unchanged) == len(batch):
            return
        met = {entry[0] for entry in unchanged}
        paths = ((prefix + os.fsencode(entry.name), entry) for entry in batch)
        others = [(path, entry) for path, entry in paths if path not in met]
        rows = known.at([path for path, _ in others])
        for path, entry in others:
            row = rows.get(path)
            found = self._found(path, entry, row, files)
            if found.is_met and row is not None:
                known.meet(row)
            if found.observation is not None:
                self._add(found.observation)

    def _unchanged(
        self,
        batch: Sequence["os.DirEntry[str]"],
        prefix: bytes,
        known: KnownDirectory,
        files: IgnoreFiles,
        device: int,
    ) -> set[Entry]:
        """Return the files that are eligible and as the table knows them.

        Most of a scan's time is spent here, so files are compared as sets; anything unusual is left
        to be judged one by one.
        """
        if self._invents(device):
            return set()
        try:
            listed: set[Entry] = {
                (
                    prefix + entry.name.encode(_ENCODING, "surrogateescape"),
                    status.st_ino,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
                for entry in batch
                if entry.is_file(follow_symlinks=False)
                # The mode decides: the entry's type may be of something that stood there before.
                and (status := entry.stat(follow_symlinks=False)).st_mode & _KIND == stat.S_IFREG
                and status.st_dev == device
            }
        except OSError:
            return set()
        unchanged = known.unchanged(listed)
        if unchanged and not self.rules.surely_let_in(
            prefix, map(_PATH, unchanged), map(_SIZE, unchanged), files
        ):
            return set()
        known.meet_unchanged(unchanged)
        return unchanged

    def _invents(self, device: int) -> bool:
        """Return what `mounts` knows; the root's parts are compared anyway, at the end."""
        if device not in self.inventing:
            self.inventing[device] = mounts.invents(device)
        return self.inventing[device]

    def _is_covered(self, descriptor: int, directory: bytes) -> bool:
        """Note a directory that events do not cover; return whether it can be left to them."""
        if self.coverage is None:
            return False
        covered = self.coverage.has(directory, os.fstat(descriptor))
        if not covered:
            self.report.uncovered.append(directory)
        return covered and self.only_some

    def _found(
        self, path: bytes, entry: "os.DirEntry[str]", row: Known | None, files: IgnoreFiles
    ) -> "_Judgement":
        """Judge one entry; a failure stops no other."""
        try:
            return self._judged(path, entry, row, files)
        except FileNotFoundError:
            return _NOTHING
        except OSError as error:
            reason = str(error.strerror)
        except Exception as error:
            log.exception("%s: cannot judge %s", self.folder.name, printable(path))
            reason = f"it cannot be judged: {error}"
        # Known to be unreadable, it has a time of its own to be looked at again.
        if row is not None and row.status == FileStatus.UNREADABLE:
            return _MET
        return _Judgement(Observation(path, Seen.UNREADABLE, reason=reason))

    def _judged(
        self, path: bytes, entry: "os.DirEntry[str]", row: Known | None, files: IgnoreFiles
    ) -> "_Judgement":
        is_dir = entry.is_dir(follow_symlinks=False)
        verdict = self.rules.entry(path, is_dir=is_dir, files=files)
        if is_dir:
            if not verdict.excluded:
                self.waiting.append((path, files))
            return _NOTHING
        if verdict.excluded:
            return _ineligible(path, row, f"{EXCLUDED}{verdict.rule}")
        # The mode decides: the entry's own type may be of something that stood there before.
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            return _NOTHING
        if not stat.S_ISREG(status.st_mode):
            return _ineligible(path, row, "not a regular file")
        too_large = self.rules.of_size(status.st_size)
        if too_large.excluded:
            return _ineligible(path, row, f"{EXCLUDED}{too_large.rule}")
        self.report.files += 1
        self.report.size += status.st_size
        fingerprint = Fingerprint.of(status)
        if row is not None and row.agrees_with(fingerprint, skips=self.folder.skip_existing):
            return _MET
        observation = Observation(
            path,
            Seen.PRESENT,
            fingerprint,
            is_open=self.open_files.has(path),
            own_clock=mounts.has_own_clock(status.st_dev),
        )
        return _Judgement(observation)

    def _nominate(self, known: KnownDirectory) -> None:
        """Remember known files that no listing showed: a look of their own has the evidence."""
        for row in known.unmet():
            if row.is_mirrored:
                self.nominated.append(row.path)
                if len(self.nominated) >= BATCH:
                    self._look_again()

    def _look_again(self) -> None:
        paths, self.nominated = self.nominated, []
        for path, sight in disk.look(self.folder.path, paths).items():
            observation = judge(self.rules, self.open_files, path, sight)
            self.report.missing += observation.seen is Seen.MISSING
            self._add(observation)

    def _vanished_directories(self) -> None:
        """Judge the known files of directories that this scan did not come to."""
        if b"" not in self.listed:
            raise _EndedEarlyError
        after = b""
        while parents := self._next_directories(after):
            after = parents[-1]
            for parent in parents:
                if parent not in self.listed:
                    self._vanished_directory(parent)

    def _vanished_directory(self, parent: bytes) -> None:
        try:
            verdict = self.rules.verdict(parent, is_dir=True)
        except UnreadableError as error:
            self.report.unreadable[parent] = str(error)
            return
        if not verdict.excluded:
            if not self._is_beneath_unreadable(parent):
                self._nominate(self._known([parent])[parent])
            return
        for row in self._known([parent])[parent].unmet():
            found = _ineligible(row.path, row, f"{EXCLUDED}{verdict.rule}")
            if found.observation is not None:
                self._add(found.observation)

    def _next_directories(self, after: bytes) -> list[bytes]:
        return self.store.read(scan_index.next_directories, self.folder.name, after, BATCH)

    def _is_beneath_unreadable(self, directory: bytes) -> bool:
        unreadable = self.report.unreadable
        while directory and unreadable and directory not in unreadable:
            directory = disk.split(directory)[0]
        return directory in unreadable

    def _known(self, directories: Iterable[bytes]) -> dict[bytes, KnownDirectory]:
        skips = self.folder.skip_existing
        return KnownDirectory.read(self.store, self.folder.name, directories, skips=skips)

    def _add(self, observation: Observation) -> None:
        self.batch.append(observation)
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


class _Judgement(NamedTuple):
    """The meaning of a directory entry: the observation to record, and whether it is that file."""

    observation: Observation | None
    #: whether the row of that path, if there is one, is accounted for
    is_met: bool = True


_MET = _Judgement(None)
#: This entry shows no file.
_NOTHING = _Judgement(None, is_met=False)


def _ineligible(path: bytes, row: Known | None, reason: str) -> _Judgement:
    if row is None or row.is_unmirrored:
        return _MET
    by_rule = reason.startswith(EXCLUDED)
    return _Judgement(Observation(path, Seen.INELIGIBLE, reason=reason, by_rule=by_rule))
