"""The files that a listing shows, in its order: their ids first, then page by page what they are.

A million ids take 8 MB, and no transaction stays open while a page is shown.
"""

import enum
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from syncd.state import selected
from syncd.state.database.connection import Database
from syncd.state.history import KEPT_SECONDS
from syncd.state.manifest import COLUMNS, ROWS, WORD, Word, candidates, entry
from syncd.state.selected import Selected
from syncd.state.texts import JsonObject

#: Files of a listing that are read at a time.
PAGE_FILES = 2000
_DAY = 86_400.0


class Order(enum.StrEnum):
    """By what a listing is sorted."""

    #: folder and path
    PATH = "path"
    #: the largest first
    SIZE = "size"
    #: the newest first
    TIME = "time"
    #: as in a file's life: settling first, ignored last
    STATUS = "status"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The choice of files that a listing shows."""

    #: None for every file
    selected: Sequence[Selected] | None = None
    #: the statuses to show; none given: every file that is not deleted
    words: frozenset[Word] = frozenset()
    #: only what was synced, or else changed or tried, since then
    since: float | None = None
    order: Order = Order.PATH
    reverse: bool = False
    #: only the newest of them
    recent: int | None = None


#: When a file was synced; if it is not, when it changed, or something was last done for it.
_TIME = """
  CASE WHEN word = 'synced' THEN coalesce(known.live_at, f.changed_at)
  ELSE max(f.changed_at, coalesce(newest.sent_at, 0), coalesce((
    SELECT max(at) FROM history WHERE history.folder = f.folder AND history.path = f.path), 0)) END
"""
#: By indexes, every file with such a time, and some others.
_SINCE = [
    (
        "SELECT files.id FROM history CROSS JOIN files USING (folder, path) "
        "WHERE (event = 'deleted') IN (0, 1) AND at >= :since"
    ),
    "SELECT id FROM folders CROSS JOIN files ON folder = name WHERE changed_at >= :since",
    "SELECT file_id FROM copies WHERE status NOT IN ('live', 'gone') AND sent_at >= :since",
]
_LIFE = " ".join(["", *Word, ""])
_ORDERS = {
    Order.PATH: "f.folder {way}, f.path {way}",
    Order.SIZE: "coalesce(known.size, -1) {other_way}, f.folder, f.path",
    Order.TIME: f"{_TIME} {{other_way}}, f.folder, f.path",
    Order.STATUS: f"instr('{_LIFE}', ' ' || word || ' ') {{way}}, f.folder, f.path",
}
#: A deleted file is shown where its status is asked for, or the file itself is named.
_SHOWN = """
  CASE WHEN :words = '[]'
    THEN word <> 'deleted' OR f.id IN (SELECT value FROM json_each(:named))
    ELSE word IN (SELECT value FROM json_each(:words)) END
"""
_AMONG = "f.id IN (SELECT value FROM json_each(:ids))"


def listing(
    read: Callable[[Callable[[Database], Any]], Any], wanted: Wanted, now: float
) -> Iterator[JsonObject]:
    """Yield each file that is wanted, with the keys of `ls --json`; `read` reads the database.

    A file whose status changed after the beginning is shown as it is now, if it is still wanted.
    """
    ids = read(partial(choose, wanted=wanted, now=now))
    for start in range(0, len(ids), PAGE_FILES):
        yield from read(partial(_page, ids=ids[start : start + PAGE_FILES], wanted=wanted))


def choose(db: Database, wanted: Wanted, now: float) -> "array[int]":
    """Return, in order, the ids of what may be wanted: `listing` looks at statuses once more."""
    if wanted.recent is None:
        return _sorted(db, wanted, now)
    newest: array[int] = array("q")
    # Recent files are found by indexes; all are compared only where these are too few.
    for seconds in (3600.0, _DAY, 30 * _DAY, None):
        since = wanted.since if seconds is None else max(wanted.since or 0.0, now - seconds)
        within = replace(wanted, since=since, order=Order.TIME, reverse=False)
        newest = _sorted(db, within, now, limit=wanted.recent)
        if len(newest) == wanted.recent or since == wanted.since:
            break
    return _sorted(db, replace(wanted, selected=None, since=None), now, among=newest)


def _sorted(
    db: Database,
    wanted: Wanted,
    now: float,
    *,
    limit: int | None = None,
    among: "array[int] | None" = None,
) -> "array[int]":
    few = candidates(wanted.words) or []
    narrow = [f"f.id IN ({' UNION ALL '.join(few)})"] if few else []
    if wanted.since is not None and wanted.since > now - KEPT_SECONDS:
        narrow.append(f"f.id IN ({' UNION ALL '.join(_SINCE)})")
    is_plain = wanted.order is Order.PATH and wanted.since is None and limit is None
    some = wanted.selected
    if some is not None and not narrow:
        among = array("q", selected.ids(db, some))
        if is_plain and not wanted.reverse:
            return among
    conditions = [*narrow, _AMONG] if among is not None else narrow
    source = "FROM files AS f"
    if not is_plain:
        source = f", {WORD} AS word {ROWS}"
        conditions.append(_SHOWN)
    if wanted.since is not None:
        conditions.append(f"{_TIME} >= :since")
    way, other_way = ("DESC", "ASC") if wanted.reverse else ("ASC", "DESC")
    order = _ORDERS[wanted.order].format(way=way, other_way=other_way)
    rows = db.conn.execute(
        f"SELECT f.id, f.folder, f.path {source} "
        f"WHERE {' AND '.join(conditions) or 'true'} ORDER BY {order}",
        _values(db, wanted) | {"since": wanted.since, "ids": _json(among or ())},
    )
    holds = selected.holding(some) if some is not None and narrow else lambda *_: True
    return array("q", islice((row[0] for row in rows if holds(row[1], row[2])), limit))


def _page(db: Database, ids: "array[int]", wanted: Wanted) -> list[JsonObject]:
    rows = db.conn.execute(
        f"SELECT f.id, {COLUMNS} {ROWS} WHERE {_AMONG} AND {_SHOWN}",
        _values(db, wanted) | {"ids": _json(ids)},
    )
    known = {row["id"]: entry(row) for row in rows}
    return [known[file_id] for file_id in ids if file_id in known]


def _values(db: Database, wanted: Wanted) -> dict[str, str]:
    named = selected.named(db, wanted.selected or ())
    return {"words": json.dumps(sorted(wanted.words)), "named": _json(named)}


def _json(ids: Sequence[int]) -> str:
    return json.dumps(list(ids))
