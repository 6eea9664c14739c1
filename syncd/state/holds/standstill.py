"""Folders at a standstill: a hold that the table alone knows stops their sending.

No answer of the service places or ends such a hold, as it does the gate's. Due work, counts, words,
ages and the workers take up each reason in `REASONS` from here. The hold `stops` "sending", with
the scope `sending_scope`; a pause stops "folder": deletions and `after_upload` look for it, too.
"""

from collections.abc import Collection

from syncd.state.database.connection import Database
from syncd.state.holds import EVERYWHERE, PAUSED, sending_scope

#: The reasons of the holds that do so.
REASONS = (PAUSED,)
_HOLDS = "holds WHERE released_at IS NULL AND reason IN ({})".format(
    ", ".join(f"'{reason}'" for reason in REASONS)
)


def condition(folder: str, *, and_also: str = "1") -> str:
    """Return SQL that says whether a folder is at a standstill.

    `folder` is SQL for the folder's name; `and_also` limits the holds that count.
    """
    return (
        f"(EXISTS (SELECT 1 FROM {_HOLDS} AND stops = 'folder' "
        f"AND scope IN ('{EVERYWHERE}', {folder}) AND {and_also}) "
        # Not for each file anew: SQLite reads this once for a whole query.
        f"OR {folder} IN (SELECT substr(scope, {len(sending_scope('')) + 1}) FROM {_HOLDS} "
        f"AND stops = 'sending' AND {and_also}))"
    )


def scopes(db: Database) -> frozenset[str]:
    """Return the folders that are at a standstill, and `EVERYWHERE` if all of them are."""
    rows = db.conn.execute(f"SELECT stops, scope FROM {_HOLDS} AND stops <> 'deletions'")
    return frozenset(
        scope.removeprefix(sending_scope("")) if stops == "sending" else scope
        for stops, scope in rows
    )


def covers(stopped: Collection[str], folder: str) -> bool:
    """Say whether scopes, of which one may be `EVERYWHERE`, include a folder."""
    return folder in stopped or EVERYWHERE in stopped
