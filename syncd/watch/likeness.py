"""How much of what is known of a folder is in another directory that stands in its place."""

from dataclasses import dataclass, field
from functools import partial

from syncd import disk
from syncd.disk import Found
from syncd.identity import View, part_of
from syncd.state import inventory
from syncd.state.holds import FIRST
from syncd.state.planner import Limits
from syncd.state.store import Store
from syncd.watch.folder import WatchFolder

BATCH = 1000


@dataclass(slots=True)
class Likeness:
    """How a comparison came out."""

    #: synced files, and those of them that are there with their size and modification time
    known: int = 0
    there: int = 0
    missing: int = 0
    #: the first that are missing, by path
    first: list[bytes] = field(default_factory=list)
    #: whether a file is older than known: then it is from a backup
    is_older: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether every synced file is there."""
        return 0 < self.known == self.there

    def is_alike(self, limits: Limits) -> bool:
        """Say whether it may well be the same folder, which only lost or changed some files."""
        return (
            not self.is_older
            and 0 < self.known <= 2 * self.there
            and not limits.are_exceeded(self.missing, self.known)
        )


def compare(store: Store, folder: WatchFolder, view: View, part: bytes) -> Likeness:
    """Look for each synced file of a `part` of the folder; nothing is read."""
    found, after = Likeness(), b""
    while True:
        batch = partial(inventory.synced_in, folder=folder.name, directory=part, limit=BATCH)
        known = store.read(partial(batch, after=after))
        if not known:
            return found
        after = known[-1].path
        here = {file.path: file for file in known if part_of(view.parts, file.path) == part}
        for path, sight in sorted(disk.look(folder.path, here).items()):
            file, mark = here[path], sight.fingerprint
            found.known += 1
            if sight.found is Found.ABSENT:
                found.missing += 1
                found.first += [path] if len(found.first) < FIRST else []
            elif mark is not None:
                found.there += (mark.size, mark.mtime_ns) == (file.size, file.mtime_ns)
                found.is_older = found.is_older or mark.mtime_ns < file.mtime_ns
