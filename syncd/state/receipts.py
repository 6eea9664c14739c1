"""Receipts: which outcomes have none yet, and how far a folder's receipts have come.

The history holds the outcomes, in the order of their commits. A fact of each folder says up to
where in it the receipts are written.
"""

import json
from collections.abc import Collection
from typing import NamedTuple

from syncd.state.after_upload import MOVED, TAKEN_AWAY
from syncd.state.database.connection import Database
from syncd.state.facts import read_fact, set_fact
from syncd.state.texts import path_members, timestamp

#: The beginning of the facts' keys, before the folder's name.
_KEY = "receipts of "
#: SQL for the outcomes that get a receipt: beside the file, where it was moved to; elsewhere, once
#: it is live, and where a renamed file is live.
_BESIDE = f"event = 'consumed' AND (detail LIKE '{MOVED}%' OR detail = '{TAKEN_AWAY}')"
_ELSEWHERE = "(event IN ('synced', 'adopted') OR (event = 'moved' AND detail LIKE 'from %'))"
_OUTCOMES = """
  SELECT h.id, h.path, h.detail, h.folder, c.file_uuid, c.remote_file_path, c.sha256, c.size,
    c.live_at FROM history AS h JOIN copies AS c ON c.file_uuid = h.file_uuid
  WHERE {condition} AND +h.folder = :folder AND c.live_at IS NOT NULL AND {kind}
  ORDER BY h.id LIMIT :limit
"""


class ReceiptProgress(NamedTuple):
    """How far the receipts of one folder have come."""

    #: the line of the history up to which they are written
    after: int
    #: lines before it whose receipts could not be written
    again: tuple[int, ...] = ()
    #: why, for a person
    obstacle: str = ""


class Receipt(NamedTuple):
    """The facts of a receipt: a file that went live, or was moved away once it was live."""

    id: int
    path: bytes
    detail: str
    folder: str
    file_uuid: str
    remote_file_path: str | None
    sha256: str
    size: int
    live_at: float

    @property
    def content(self) -> bytes:
        """The bytes of the file."""
        facts = {
            "folder": self.folder,
            **path_members(self.path),
            "file_uuid": self.file_uuid,
            "remote_file_path": self.remote_file_path,
            "sha256": self.sha256,
            "size": self.size,
            "synced_at": timestamp(self.live_at),
        }
        return (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode()


def begin(db: Database, folders: Collection[str], *, forget: bool) -> None:
    """Have the receipts of folders that had none begin with what comes from now on.

    With `forget`, a folder that is not among them begins anew when it has receipts again.
    """
    newest = db.value("SELECT coalesce(max(id), 0) FROM history")
    for name in folders:
        if progress(db, name) is None:
            note(db, name, ReceiptProgress(newest))
    if forget:
        db.conn.execute(
            "DELETE FROM service WHERE substr(key, 1, ?) = ? "
            "AND key NOT IN (SELECT value FROM json_each(?))",
            (len(_KEY), _KEY, json.dumps([_KEY + name for name in folders])),
        )


def progress(db: Database, folder: str) -> ReceiptProgress | None:
    """Return how far the receipts of a folder have come; None if it had none so far."""
    known = read_fact(db, _KEY + folder, json.loads)
    return known and ReceiptProgress(known["after"], tuple(known["again"]), known["obstacle"])


def note(db: Database, folder: str, progress: ReceiptProgress) -> None:
    """Note how far the receipts of a folder have come."""
    set_fact(db, _KEY + folder, json.dumps(progress._asdict()))


def obstacles(db: Database) -> dict[str, str]:
    """Return why receipts cannot be written, by folder."""
    rows = db.conn.execute(
        "SELECT substr(key, ?), value FROM service WHERE substr(key, 1, ?) = ?",
        (len(_KEY) + 1, len(_KEY), _KEY),
    )
    found = {str(name): str(json.loads(value)["obstacle"]) for name, value in rows}
    return {name: obstacle for name, obstacle in found.items() if obstacle}


def failed(db: Database, folder: str, known: ReceiptProgress, *, beside: bool) -> list[Receipt]:
    """Return the receipts that could not be written before, the oldest first."""
    return _receipts(
        db,
        "h.id IN (SELECT value FROM json_each(:ids))",
        folder,
        beside=beside,
        ids=json.dumps(known.again),
        limit=-1,
    )


def due(
    db: Database, folder: str, known: ReceiptProgress, limit: int, *, beside: bool
) -> list[Receipt]:
    """Return the next receipts to write, the oldest first."""
    return _receipts(db, "h.id > :after", folder, beside=beside, after=known.after, limit=limit)


def earlier(db: Database, receipt: Receipt, limit: int) -> list[bytes]:
    """Return the receipts that the file's earlier copies had, the newest first."""
    rows = db.conn.execute(
        "SELECT ?, ?, '', ?, c.file_uuid, c.remote_file_path, c.sha256, c.size, c.live_at "
        "FROM copies AS c JOIN files AS f ON f.id = c.file_id WHERE f.folder = ? AND f.path = ? "
        "AND c.live_at IS NOT NULL AND c.file_uuid <> ? ORDER BY c.id DESC LIMIT ?",
        (
            *(receipt.id, receipt.path, receipt.folder),
            *(receipt.folder, receipt.path, receipt.file_uuid, limit),
        ),
    )
    return [Receipt(*row).content for row in rows]


def _receipts(
    db: Database, condition: str, folder: str, *, beside: bool, **values: object
) -> list[Receipt]:
    query = _OUTCOMES.format(condition=condition, kind=_BESIDE if beside else _ELSEWHERE)
    rows = db.conn.execute(query, values | {"folder": folder})
    return [Receipt(*row) for row in rows]
