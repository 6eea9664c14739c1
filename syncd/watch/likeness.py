"""How much of a folder's known content is in the directory at its place.

That is asked of a different directory; of the known one, whether its disk is as it was earlier.
"""

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from syncd import disk
from syncd.disk import Found
from syncd.identity import View, part_of
from syncd.state import scan_index
from syncd.state.database.store import Store, Transaction
from syncd.state.folders import Part
from syncd.state.planner import Limits
from syncd.state.scan_index import Latest, Synced
from syncd.state.texts import shown
from syncd.watch.folder import WatchFolder

BATCH = 1000
#: Runs a query on the state.
Read = Callable[[Callable[[Transaction], list[Synced]]], list[Synced]]
#: How many of the files that changed last tell whether a disk is as it was earlier.
LATEST = 100
#: The most by which clocks that stamp one filesystem may differ, in nanoseconds.
SKEW_NS = 5 * 10**9


@dataclass(slots=True)
class Likeness:
    """How a comparison came out."""

    #: synced files, and those of them that are there with their size and modification time
    known: int = 0
    there: int = 0
    #: the ids of those that are missing
    missing: list[int] = field(default_factory=list)
    #: how many could not be looked at
    unreadable: int = 0
    #: whether a file is older than known: then it is from a backup
    is_older: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether every synced file is there."""
        return 0 < self.known == self.there

    def is_alike(self, limits: Limits) -> bool:
        """Return whether it may well be the same folder, which only lost or changed some files."""
        return (
            not self.is_older
            and 0 < self.known <= 2 * self.there
            and not limits.are_exceeded(len(self.missing), self.known)
        )


def lacking(read: Read, name: str, root: bytes, scope: str) -> Likeness | None:
    """Look for each synced file beneath the part of a folder that a hold of that `scope` is about.

    Return None if the scope does not tell which part that is.
    """
    text = scope.removeprefix(name).removeprefix("/")
    part = os.fsencode(text)
    return compare(read, name, root, (part,), part) if shown(part) == text else None


def compare(read: Read, name: str, root: bytes, parts: Collection[bytes], part: bytes) -> Likeness:
    """Look for each synced file of a `part` of the folder of that name; nothing is read of them."""
    found, after = Likeness(), b""
    while True:
        batch = partial(scan_index.synced_in, folder=name, directory=part, limit=BATCH)
        known = read(partial(batch, after=after))
        if not known:
            return found
        after = known[-1].path
        here = {file.path: file for file in known if part_of(parts, file.path) == part}
        for path, sight in sorted(disk.look(root, here).items()):
            file, mark = here[path], sight.fingerprint
            found.known += 1
            found.unreadable += sight.found is Found.UNREADABLE
            if sight.found is Found.ABSENT:
                found.missing.append(file.id)
            elif mark is not None:
                found.there += (mark.size, mark.mtime_ns) == (file.size, file.mtime_ns)
                found.is_older = found.is_older or mark.mtime_ns < file.mtime_ns


def is_put_back(
    store: Store, folder: WatchFolder, view: View, part: bytes, known: Part, now: float
) -> bool:
    """Return whether the disk of a known `part` is as it was earlier.

    An older image, a clone or a snapshot of a disk has its identity. What changed last in the
    folder tells: no file changes or goes without a later time of change, its own or that of a
    directory above it, which no program can set.
    """
    if not known.identity.inode:
        # A filesystem that makes up inodes makes up the times of changes, too; or another machine
        # answers.
        return False
    files = store.read(scan_index.latest, folder.name, part, known.believed_at, now, LATEST)
    return any(
        _is_earlier(folder.path, part, file)
        for file in files
        if file.fingerprint.ctime_ns and part_of(view.parts, file.path) == part
    )


def _is_earlier(root: bytes, part: bytes, file: Latest) -> bool:
    """Return whether a file, or its absence, is from before it was last known to change."""
    known, place, seen = file.fingerprint, os.path.join(root, part), None  # noqa: PTH118
    *directories, name = file.path[len(part) :].lstrip(b"/").split(b"/")
    try:
        changed_ns = [os.stat(place).st_ctime_ns]  # noqa: PTH116
        with suppress(FileNotFoundError, NotADirectoryError):
            for directory in directories:
                place = os.path.join(place, directory)  # noqa: PTH118
                changed_ns.append(os.lstat(place).st_ctime_ns)
            seen = os.lstat(os.path.join(place, name))  # noqa: PTH118
    except OSError:
        return False
    # A directory that was moved there has changed by that. The first is always the same one: what
    # changed in it tells only of what is directly in it.
    newest_ns = max(changed_ns[1:], default=0)
    if seen is None:
        newest_ns = newest_ns or changed_ns[0]
    elif (seen.st_size, seen.st_mtime_ns) == (known.size, known.mtime_ns):
        return False
    else:
        newest_ns = max(seen.st_ctime_ns, 0 if seen.st_ino == known.inode else newest_ns)
    return newest_ns + SKEW_NS < known.ctime_ns
