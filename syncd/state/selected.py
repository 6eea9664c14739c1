"""Files that a person names: a path, a directory, or what a pattern matches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from syncd.state.database.connection import Database


@dataclass(frozen=True, slots=True)
class Selected:
    """A path of a folder with everything beneath it; with `matches`, only the paths it accepts."""

    folder: str
    #: relative to the folder's root; empty for the whole folder
    path: bytes = b""
    matches: Callable[[bytes], bool] | None = None


def holding(some: Iterable[Selected]) -> Callable[[str, bytes], bool]:
    """Return the function that says whether a path of a folder is selected."""
    some = list(some)
    plain = {(one.folder, one.path) for one in some if one.matches is None}
    patterns = [(one.folder, one.matches) for one in some if one.matches is not None]

    def holds(folder: str, path: bytes) -> bool:
        above = path
        while above and (folder, above) not in plain:
            above = above.rpartition(b"/")[0]
        if (folder, above) in plain:
            return True
        return any(name == folder and matches(path) for name, matches in patterns)

    return holds


def is_known(db: Database, some: Sequence[Selected]) -> bool:
    """Return whether the table has a file that is selected."""
    return any(next(_ids(db, selected), None) is not None for selected in some)


def named(db: Database, some: Iterable[Selected]) -> list[int]:
    """Return the ids of missing files that are named themselves, and not a directory above."""
    query = "SELECT id FROM files WHERE folder = ? AND path = ? AND status = 'missing'"
    rows = (db.conn.execute(query, (one.folder, one.path)) for one in some if one.path)
    return [row[0] for found in rows for row in found]


def ids(db: Database, some: Sequence[Selected]) -> Iterator[int]:
    """Yield the id of each selected file once, by folder and path."""
    for _, of_folder in groupby(sorted(some, key=_place), key=lambda one: one.folder):
        for selected in _disjoint(list(of_folder)):
            yield from _ids(db, selected)


def _place(selected: Selected) -> tuple[str, bytes, bool]:
    return selected.folder, selected.path, selected.matches is not None


def _disjoint(some: list[Selected]) -> list[Selected]:
    """Return selections of one folder, in order, that hold the same files, each of them once."""
    if len(some) > 1 and any(one.matches for one in some):
        folder, holds = some[0].folder, holding(some)
        return [Selected(folder, b"", lambda path: holds(folder, path))]
    kept: list[Selected] = []
    covered: set[bytes] = set()
    for one in some:
        above = one.path
        while above and above not in covered:
            above = above.rpartition(b"/")[0]
        if above not in covered:
            covered.add(one.path)
            kept.append(one)
    return kept


def _ids(db: Database, selected: Selected) -> Iterator[int]:
    # Both use the index of folder and path, and nothing else.
    query, values = "SELECT id, path FROM files WHERE folder = ?", [selected.folder]
    rows: Iterator[tuple[int, bytes]] = iter(())
    if selected.path:
        exact = db.conn.execute(f"{query} AND path = ?", (*values, selected.path))
        beneath = db.conn.execute(
            f"{query} AND path > ? AND path < ? ORDER BY path",
            (*values, selected.path + b"/", selected.path + b"0"),
        )
        rows = (row for found in (exact, beneath) for row in found)
    else:
        rows = iter(db.conn.execute(f"{query} ORDER BY path", values))
    for file_id, path in rows:
        if selected.matches is None or selected.matches(path):
            yield file_id
