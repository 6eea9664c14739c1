"""What the table knows of one directory's files, for a comparison with its listing."""

from collections.abc import Iterator, Sequence

from syncd.state import inventory
from syncd.state.inventory import Known
from syncd.state.store import Store

#: Rows that are held at a time.
ROWS = 1000


class KnownDirectory:
    """The rows of one directory, and which of them the listing has met so far.

    The rows of an ordinary directory are read at once. Of a larger one, a batch is read at a time,
    and one bit a row remembers what was met: memory does not grow with the directory.
    """

    def __init__(self, store: Store, folder: str, directory: bytes) -> None:
        self._store = store
        self._folder = folder
        self._directory = directory
        rows = self._page(0)
        self._all = {row.path: row for row in rows} if len(rows) < ROWS else None
        #: rows that are added from now on are not compared
        self._last_id = 0 if self._all is not None else store.read(inventory.last_id)
        self._met = bytearray(self._last_id // 8 + 1)

    def at(self, paths: Sequence[bytes]) -> dict[bytes, Known]:
        """Return what is known at these paths, by path."""
        if self._all is not None:
            return self._all
        return self._store.read(lambda db: inventory.at(db, self._folder, paths))

    def meet(self, row: Known) -> None:
        """Note that the listing has this file."""
        if self._all is not None:
            del self._all[row.path]
        elif row.id <= self._last_id:
            self._met[row.id // 8] |= 1 << row.id % 8

    def unmet(self) -> Iterator[Known]:
        """Yield each file that the listing did not have."""
        if self._all is not None:
            yield from self._all.values()
            return
        after = 0
        while rows := self._page(after):
            after = rows[-1].id
            yield from (row for row in rows if row.id <= self._last_id and not self._is_met(row))

    def _is_met(self, row: Known) -> bool:
        return bool(self._met[row.id // 8] & 1 << row.id % 8)

    def _page(self, after: int) -> list[Known]:
        return self._store.read(
            lambda db: inventory.in_directory(
                db, self._folder, self._directory, after=after, limit=ROWS
            )
        )
