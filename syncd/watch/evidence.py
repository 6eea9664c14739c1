"""Looks at single paths: those that events hint at, and those whose next look is due."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from syncd import disk
from syncd.disk import Found, Sight
from syncd.exceptions import UnreadableError
from syncd.identity import View
from syncd.log import printable
from syncd.state import due, scan_index
from syncd.state.database.store import Store
from syncd.state.observations import Observation, Seen
from syncd.watch.folder import WatchFolder
from syncd.watch.ignore import Rules
from syncd.watch.open_files import OpenFiles
from syncd.watch.roots import Root
from syncd.watch.standing import RootState

log = logging.getLogger(__name__)

_T = TypeVar("_T")
#: Observations in one transaction.
BATCH = 1000
#: Seconds until the next look while the root is not the right one.
UNSEEN_SECONDS = 5.0
#: How the reason begins why a file is ineligible by a rule.
EXCLUDED = "excluded: "


def judge(
    rules: Rules, open_files: OpenFiles, path: bytes, sight: Sight, *, removal_seen: bool = False
) -> Observation:
    """Return what a look at `path` means to the table, by the folder's rules."""
    try:
        verdict = rules.verdict(path, is_dir=False)
    except UnreadableError as error:
        # Without its rules, a file that should stay here might be sent.
        return Observation(path, Seen.UNREADABLE, reason=str(error))
    except Exception as error:
        log.exception("the rules cannot be applied to %s", printable(path))
        return Observation(path, Seen.UNREADABLE, reason=f"it cannot be judged: {error}")
    if not verdict.excluded and sight.fingerprint:
        verdict = rules.of_size(sight.fingerprint.size)
    if verdict.excluded:
        # Whether it is there or not: an excluded file is never deleted either.
        return Observation(path, Seen.INELIGIBLE, reason=f"{EXCLUDED}{verdict.rule}", by_rule=True)
    match sight.found:
        case Found.FILE:
            return Observation(
                path,
                Seen.PRESENT,
                sight.fingerprint,
                is_open=open_files.has(path),
                own_clock=sight.own_clock,
            )
        case Found.OTHER:
            return Observation(path, Seen.INELIGIBLE, reason=sight.error or "not a regular file")
        case Found.ABSENT:
            return Observation(path, Seen.MISSING, removal_seen=removal_seen)
        case Found.UNREADABLE:
            return Observation(path, Seen.UNREADABLE, reason=sight.error)


@dataclass(kw_only=True, eq=False)
class Looker:
    """Looks at paths of one folder and records what it saw."""

    store: Store
    folder: WatchFolder
    rules: Rules
    open_files: OpenFiles
    root: Root
    clock: Callable[[], float]

    def look(self, hints: Mapping[bytes, bool]) -> int | None:
        """Look at each path and, where a directory was, at the known files beneath it.

        `hints` says of each path whether an event told of its removal. Return the rows changed;
        None if the root is missing or was replaced meanwhile, because only a scan can tell then. A
        root that was replaced earlier is scanned when the right one is back.
        """
        standing = self.root.check()
        if not standing.state.is_seen:
            return None if standing.state is RootState.MISSING else 0
        changed = 0
        for batch in _batches(self._with_beneath(hints)):
            paths: dict[bytes, bool] = {}
            for path, removal_seen in batch:
                # A path may have its own event and lie in a removed directory; either is a removal.
                paths[path] = removal_seen or paths.get(path, False)
            recorded = self._look_at(paths, standing.view)
            if recorded is None:
                return None
            changed += recorded
        return changed

    def _with_beneath(self, hints: Mapping[bytes, bool]) -> Iterator[tuple[bytes, bool]]:
        """Yield each path, and the known files beneath it: it may have been a directory."""
        for path, removal_seen in hints.items():
            yield path, removal_seen
            for known in self._beneath(path):
                yield known, removal_seen

    def _beneath(self, directory: bytes) -> Iterator[bytes]:
        def read(after: bytes) -> list[bytes]:
            return self.store.read(
                scan_index.beneath, self.folder.name, directory, after=after, limit=BATCH
            )

        after = b""
        while paths := read(after):
            yield from paths
            after = paths[-1]

    def look_due(self) -> float | None:
        """Look again at each file whose next look is due.

        Return when the next one will be, in seconds since the epoch; None if nothing waits.
        """
        now = self.clock()
        next_at = self._next_look()
        if next_at is None or next_at > now:
            return next_at
        standing = self.root.check()
        if not standing.state.is_seen:
            # A scan finds what waits when the right root is back.
            return now + UNSEEN_SECONDS
        files = self.store.read(due.looks, now, self.folder.name, BATCH)
        recorded = self._look_at(dict.fromkeys((file.path for file in files), False), standing.view)
        next_at = self._next_look()
        if next_at is None or next_at > now or recorded:
            return next_at
        # An observation that was not recorded stays due; wait, to avoid spinning.
        return now + 1.0

    def _next_look(self) -> float | None:
        return self.store.read(scan_index.next_look, self.folder.name)

    def _look_at(self, paths: Mapping[bytes, bool], before: View) -> int | None:
        seen = [
            judge(self.rules, self.open_files, path, sight, removal_seen=paths[path])
            for path, sight in disk.look(self.folder.path, paths).items()
        ]
        return self.root.record(seen, before) if seen else 0


def _batches(paths: Iterator[_T]) -> Iterator[Sequence[_T]]:
    while batch := list(islice(paths, BATCH)):
        yield batch
