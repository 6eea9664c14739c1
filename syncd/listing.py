"""The names in a directory, as evidence of which are not in it.

A leaf: it knows no root, no table and no network.
"""

import os
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from syncd import mounts


class Names:
    """The names in a directory, as eight bytes each: a large one fits into memory."""

    _RUN = 4096

    def __init__(self, names: Iterable[bytes]) -> None:
        self._runs = []
        hashes = map(hash, names)
        while run := sorted(islice(hashes, self._RUN)):
            self._runs.append(array("q", run))

    def __contains__(self, name: bytes) -> bool:
        wanted = hash(name)
        for run in self._runs:
            place = bisect_left(run, wanted)
            if place < len(run) and run[place] == wanted:
                return True
        return False

    @property
    def are_many(self) -> bool:
        """Whether it pays not to list them again."""
        return len(self._runs) > 1


class LargeListings:
    """The names in the large directories that were listed last, for as long as those do not change.

    Deleting many files of one directory looks at a few of them at a time: each look would list the
    whole directory. A change in a directory changes its times, once the clock has moved on.
    """

    _MOST, _TICK_NS = 4, 2_000_000_000

    def __init__(self, read: Callable[[int], Iterator[bytes]]) -> None:
        """`read` yields the names in an open directory."""
        self._read = read
        self._lock = threading.Lock()
        self._known: dict[tuple[int, ...], Names] = {}

    def names(self, descriptor: int) -> Names:
        """Return the names in an open directory; OSError."""
        before = self._state(descriptor)
        with self._lock:
            known = self._known.get(before) if before else None
        if known is not None:
            return known
        listed = Names(self._read(descriptor))
        if before and listed.are_many and self._state(descriptor) == before:
            with self._lock:
                if len(self._known) >= self._MOST:
                    del self._known[next(iter(self._known))]
                self._known[before] = listed
        return listed

    def _state(self, descriptor: int) -> tuple[int, ...] | None:
        """Return what changes with the directory; None if that cannot be relied on."""
        status = os.fstat(descriptor)
        changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        settled = changed_ns + self._TICK_NS < time.time_ns()
        if not settled or not mounts.has_own_clock(status.st_dev):
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


class LastListing:
    """The names of the directory asked for last: many that vanished together stood in one."""

    def __init__(self, listings: LargeListings) -> None:
        self._listings = listings
        self._directory: bytes | None = None
        self._names: Names | None = None

    def has(self, descriptor: int, directory: bytes, name: bytes) -> bool:
        """Return whether the open `directory` lists `name`; OSError."""
        if self._names is None or directory != self._directory:
            self._names, self._directory = self._listings.names(descriptor), directory
        return name in self._names
