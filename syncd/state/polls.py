"""Queries for the videos that are followed, and for the released copies that are asked for."""

import json
from collections.abc import Collection, Sequence
from typing import NamedTuple

from syncd.state import copies
from syncd.state.copies import Copy
from syncd.state.database.connection import Database


class Answered(NamedTuple):
    """The workspaces whose listings tell of their videos, and up to when all of them did.

    A video there that became due later waits for the next listing.
    """

    workspaces: Collection[str | None] = ()
    until: float = 0.0


NONE_ANSWERED = Answered()
#: SQL: a listing does not answer for this copy.
_NOT_ANSWERED = (
    "(status = 'released' OR coalesce(workspace_uuid, '') NOT IN "
    "(SELECT value FROM json_each(:answered)))"
)


def due(db: Database, now: float, limit: int, answered: Answered = NONE_ANSWERED) -> list[Copy]:
    """Return the processing and released copies to ask for, the longest due first."""
    return copies.where(
        db,
        "status IN ('processing', 'released') AND due_at <= :now AND consumed_at IS NULL "
        f"AND (due_at <= :until OR {_NOT_ANSWERED}) ORDER BY due_at LIMIT :limit",
        {"now": now, "limit": limit, "until": answered.until, "answered": _names(answered)},
    )


def next_due(db: Database, now: float, answered: Answered = NONE_ANSWERED) -> float | None:
    """Return when the next of these copies is due."""
    parameters = {"now": now, "answered": _names(answered)}
    found = (
        db.value(
            f"SELECT due_at FROM copies WHERE status = '{status}' AND due_at > :now "
            f"AND {_NOT_ANSWERED} ORDER BY due_at LIMIT 1",
            parameters,
        )
        for status in ("processing", "released")
    )
    return min((at for at in found if at is not None), default=None)


def pending(db: Database, until: float) -> dict[str | None, int]:
    """Count the videos of each workspace that are to be asked for by `until`."""
    rows = db.conn.execute(
        "SELECT workspace_uuid, count(*) FROM copies WHERE status = 'processing' "
        "AND due_at <= ? GROUP BY 1",
        (until,),
    )
    return dict(rows)


def processing_among(db: Database, workspace: str | None, uuids: Sequence[str]) -> list[Copy]:
    """Return the copies in processing that are among the objects `uuids` of a workspace."""
    # The plus has SQLite use the index of uuids, and not that of the status.
    return copies.where(
        db,
        "+status = 'processing' AND workspace_uuid IS ? "
        "AND file_uuid IN (SELECT value FROM json_each(?))",
        (workspace, json.dumps(uuids)),
    )


def _names(answered: Answered) -> str:
    return json.dumps([workspace or "" for workspace in answered.workspaces])
