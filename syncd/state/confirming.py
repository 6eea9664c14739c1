"""The verbs of confirming: a copy that a storage took goes live once the service reports it.

A copy is confirming while it is `sending` with a uuid and no worker has it in flight: its bytes
were handed to a storage, and whether they arrived is asked of the service until its time is over.
"""

from collections.abc import Sequence
from typing import NamedTuple

from syncd.state import copies
from syncd.state.batches import batched, values
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.facts import fact, set_fact

#: The fact that says whether the service tells the sizes of what it holds: `TOLD`, `UNTOLD`, or
#: how many copies in a row ended without one.
SIZES = "sizes"
TOLD, UNTOLD = "told", "untold"
#: Copies that end without a size before it is learned that sizes are never told.
UNTOLD_AFTER = 3


#: Why a copy is confirming: its bytes were taken by what answered like an object store, or not.
BY_STORAGE, BY_SOMETHING = "taken by a storage", "taken by something that answered for a storage"


class Taken(NamedTuple):
    """A copy, by its id, whose content a storage took; whether it answered with an ETag."""

    copy_id: int
    remote_file_path: str | None
    now: float
    has_etag: bool


def begin_all(db: Database, taken: Sequence[Taken]) -> list[str]:
    """Record that a storage took the content of copies; return what became of each."""
    for some in batched(taken):
        rows = [
            (copy_id, path, now, BY_STORAGE if has_etag else BY_SOMETHING)
            for copy_id, path, now, has_etag in some
        ]
        db.conn.execute(
            "UPDATE copies SET in_flight = 0, due_at = new.column3, doubted_at = new.column3, "
            "remote_file_path = new.column2, reason = new.column4, error_status = NULL, "
            "error_code = NULL, error_message = NULL, error_request_id = NULL "
            f"FROM ({values(rows)}) AS new WHERE copies.id = new.column1 "
            "AND copies.status = 'sending'",
            [value for row in rows for value in row],
        )
    return ["confirming"] * len(taken)


def due(db: Database, now: float, limit: int) -> list[Copy]:
    """Return the copies to be confirmed, the longest due first."""
    return copies.where(
        db,
        "status = 'sending' AND due_at <= ? AND in_flight = 0 AND file_uuid IS NOT NULL "
        "ORDER BY due_at LIMIT ?",
        (now, limit),
    )


def next_due(db: Database) -> float | None:
    """Return when the next copy is to be confirmed, in seconds since the epoch."""
    next_at: float | None = db.value(
        "SELECT min(due_at) FROM copies WHERE status = 'sending' AND due_at IS NOT NULL "
        "AND in_flight = 0 AND file_uuid IS NOT NULL"
    )
    return next_at


def samples(db: Database, copy: Copy) -> list[Copy]:
    """Return copies of the same workspace that are stored for certain: they came by the API."""
    return copies.where(
        db,
        "status = 'live' AND workspace_uuid IS ? AND method = 'direct' AND size > 0 "
        "AND file_uuid IS NOT NULL AND content_type NOT LIKE 'video/%' ORDER BY id DESC LIMIT 3",
        (copy.workspace_uuid,),
    )


def told(db: Database) -> None:
    """Learn that sizes are told: the service reported the size of what a storage took."""
    set_fact(db, SIZES, TOLD)


def ended_untold(db: Database, copy: Copy, *, is_certain: bool) -> bool:
    """Learn from a copy whose time ended without a size; return whether that is the rule by now.

    It is the rule if an object that is stored for certain (`is_certain`) has no size either, or
    after several copies. An answer without an ETag is no storage's: a portal or proxy in its place
    teaches nothing.
    """
    known = fact(db, SIZES) or "0"
    if known not in (TOLD, UNTOLD):
        seen = int(known) + is_by_storage(copy)
        known = UNTOLD if is_certain or seen >= UNTOLD_AFTER else str(seen)
        set_fact(db, SIZES, known)
    return known == UNTOLD


def is_by_storage(copy: Copy) -> bool:
    """Return whether a storage said that it took the whole content of a copy."""
    return copy.reason == BY_STORAGE and not copy.error_message


def may_be_believed(db: Database, copy: Copy) -> bool:
    """Return whether the storage's word has to do for a copy, because sizes are never told."""
    return is_by_storage(copy) and fact(db, SIZES) == UNTOLD
