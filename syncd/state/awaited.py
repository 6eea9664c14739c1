"""How far the files of a selection are: what `wait` asks the table."""

from collections.abc import Sequence
from dataclasses import dataclass

from syncd.state import holds
from syncd.state.database.connection import Database
from syncd.state.holds import ROOT_MISSING, standstill
from syncd.state.manifest import COLUMNS, ROWS, WORD, Word, entry, ids_of_words
from syncd.state.selected import Selected, holding
from syncd.state.texts import JsonObject

#: A folder's name and a path in it, which includes what lies beneath; an empty path is the root.
Selection = Sequence[tuple[str, bytes]]
#: The words of files that are not at rest.
PENDING = (Word.SETTLING, Word.QUEUED, Word.UPLOADING, Word.PROCESSING, Word.HELD)
#: The reasons of holds on sending that may end by themselves: syncd tries again from time to time.
_HEALING = ", ".join(f"'{reason}'" for reason in (holds.QUOTA, holds.FORBIDDEN, holds.REFUSED))
#: SQL for files whose folder, part or whole sending is stopped until a person acts.
_HALTED = f"""
  EXISTS (SELECT 1 FROM parts AS p WHERE p.is_stopped AND p.folder = f.folder AND (p.path = x''
    OR (f.path > CAST(p.path || '/' AS BLOB) AND f.path < CAST(p.path || '0' AS BLOB))))
  OR EXISTS (SELECT 1 FROM holds AS h WHERE h.released_at IS NULL AND (
    (h.reason = '{ROOT_MISSING}' AND h.scope = f.folder)
    OR (h.stops = 'sending' AND h.scope IN ('{holds.EVERYWHERE}', 'copy ' || newest.id)
      AND h.reason NOT IN ({_HEALING}))))
"""
#: SQL for files whose folder is at a standstill that no time ends, such as a pause until `resume`.
_ENDLESS = standstill.condition("f.folder", and_also="until IS NULL")


@dataclass(frozen=True, slots=True)
class Awaited:
    """The files of a selection that `wait` waits for, because they are not at rest."""

    #: how many go on by themselves, by word
    going: dict[Word, int]
    #: how many do not before a person acts
    blocked: int = 0
    #: one of those that go on
    example: tuple[str, bytes] | None = None


def last_file_id(db: Database) -> int:
    """Return the greatest id of a file; files that are seen first later get greater ones."""
    return int(db.value("SELECT coalesce(max(id), 0) FROM files"))


def count(db: Database, selection: Selection, *, up_to: int) -> Awaited:
    """Count what is not at rest among the selected files with an id of at most `up_to`."""
    _choose(db, selection)
    words = ", ".join(f"'{word}'" for word in PENDING)
    rows = db.conn.execute(
        "SELECT word, halted OR (word = 'held' AND (verdict = 'held' OR endless)) "
        "AS blocked, "
        f"count(*) AS number, folder, min(path) AS path FROM (SELECT {WORD} AS word, {_HALTED} "
        f"AS halted, {_ENDLESS} AS endless, coalesce(d.verdict, '') AS verdict, f.folder, f.path "
        f"{ROWS} WHERE f.id IN ({ids_of_words(PENDING)}) AND is_chosen(f.folder, f.path) "
        f"AND f.id <= :up_to AND f.status <> 'missing' AND word IN ({words})) GROUP BY 1, 2",
        {"up_to": up_to},
    ).fetchall()
    going = [row for row in rows if not row["blocked"]]
    return Awaited(
        {Word(row["word"]): row["number"] for row in going},
        sum(row["number"] for row in rows if row["blocked"]),
        (going[0]["folder"], going[0]["path"]) if going else None,
    )


def page(
    db: Database, selection: Selection, *, up_to: int, after: tuple[str, bytes], limit: int
) -> list[tuple[tuple[str, bytes], JsonObject]]:
    """Return the next `limit` selected files after a folder and path, each as `ls --json` has it.

    Files that are gone come only where they are selected themselves.
    """
    _choose(db, selection)
    rows = db.conn.execute(
        f"SELECT {COLUMNS} {ROWS} WHERE f.id <= :up_to AND (f.folder, f.path) > (:folder, :path) "
        "AND is_chosen(f.folder, f.path) "
        "AND (f.status <> 'missing' OR is_named(f.folder, f.path)) "
        "ORDER BY f.folder, f.path LIMIT :limit",
        {"up_to": up_to, "folder": after[0], "path": after[1], "limit": limit},
    )
    return [((row["folder"], row["path"]), entry(row)) for row in rows]


def _choose(db: Database, selection: Selection) -> None:
    """Define `is_chosen(folder, path)` and `is_named(folder, path)` for the next query."""
    named = set(selection)
    is_chosen = holding(Selected(folder, path) for folder, path in selection)
    db.conn.create_function("is_chosen", 2, is_chosen)
    db.conn.create_function("is_named", 2, lambda folder, path: (folder, path) in named)
