"""The files of one directory as the table knows them, for a comparison with its listing."""

from collections.abc import Iterable, Iterator, Sequence

from syncd.state import scan_index
from syncd.state.database.store import Store
from syncd.state.scan_index import Entry, Known

#: Rows that are held at a time.
ROWS = 1000


class KnownDirectory:
    """The files of one directory as its listing shows them while nothing changes.

    The rows of an ordinary directory are read at once, and compared as a set. Of a larger one, a
    batch is read at a time, and one bit a row remembers which files the listing has: memory does
    not grow with the directory.
    """

    def __init__(
        self, store: Store, folder: str, directory: bytes, expected: set[Entry], *, skips: bool
    ) -> None:
        """`expected` is what the table tells of the first of its files."""
        self._store = store
        self._folder = folder
        self._directory = directory
        self._skips = skips
        self._expected = expected
        self._is_small = len(self._expected) < ROWS
        self._judged: set[bytes] = set()
        #: rows that are added from now on are not compared
        self._last_id = 0 if self._is_small else store.read(scan_index.last_id)
        self._met = bytearray(self._last_id // 8 + 1)

    @classmethod
    def read(
        cls, store: Store, folder: str, directories: Iterable[bytes], *, skips: bool
    ) -> "dict[bytes, KnownDirectory]":
        """Return what the table knows of these directories, in one look at it.

        `skips`: whether what was there before the first scan is left out until it changes.
        """
        found = store.read(scan_index.expected_in, folder, directories, skips=skips, limit=ROWS)
        return {
            directory: cls(store, folder, directory, expected, skips=skips)
            for directory, expected in found.items()
        }

    def unchanged(self, listed: set[Entry]) -> set[Entry]:
        """Return those of the listed files that the table knows as exactly that."""
        if self._is_small:
            # Mostly all of them: to compare is cheaper than to select.
            return listed if listed == self._expected else listed & self._expected
        return listed & self._ids(listed).keys()

    def meet_unchanged(self, entries: set[Entry]) -> None:
        """Note that the listing has these files, which are as the table knows them."""
        if self._is_small and len(entries) == len(self._expected):
            self._expected = set()
            return
        if self._is_small:
            self._expected -= entries
            return
        for number in self._ids(entries).values():
            self._note(number)

    def at(self, paths: Sequence[bytes]) -> dict[bytes, Known]:
        """Return all that is known at these paths, by path; of files that are gone, too."""
        if not paths:
            return {}
        return self._store.read(scan_index.at, self._folder, paths)

    def meet(self, row: Known) -> None:
        """Note that the listing has this file."""
        if self._is_small:
            self._judged.add(row.path)
        else:
            self._note(row.id)

    def unmet(self) -> Iterator[Known]:
        """Yield each file that the listing did not have."""
        if self._is_small:
            yield from self.at([e[0] for e in self._expected if e[0] not in self._judged]).values()
            return
        after = 0
        while rows := self._page(after):
            after = rows[-1].id
            yield from (row for row in rows if row.id <= self._last_id and not self._is_met(row))

    def _ids(self, entries: set[Entry]) -> dict[Entry, int]:
        paths = [entry[0] for entry in entries]
        return self._store.read(scan_index.expected_at, self._folder, paths, skips=self._skips)

    def _note(self, number: int) -> None:
        if number <= self._last_id:
            self._met[number // 8] |= 1 << number % 8

    def _is_met(self, row: Known) -> bool:
        return bool(self._met[row.id // 8] & 1 << row.id % 8)

    def _page(self, after: int) -> list[Known]:
        return self._store.read(
            scan_index.in_directory, self._folder, self._directory, after=after, limit=ROWS
        )
