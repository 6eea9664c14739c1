"""Objects that a proxy made by repeating one of our requests.

Only a person has them removed: for all the ledger knows, somebody may have copied our object while
our request was still running.
"""

from datetime import datetime

from syncd.state import copies, tokens
from syncd.state.database.connection import Database
from syncd.state.lifecycle import CopyStatus, Keep

#: The resolution of a service's clock, in seconds.
COARSE_SECONDS = 1.0


def is_repeat(
    db: Database, copy_id: int, token: str, created_at: str, own_created_at: datetime
) -> bool:
    """Return whether an object with a copy's token and size was made while its request ran.

    Only a direct upload that was answered can tell: no other request has a known end.
    """
    copy = copies.get(db, copy_id)
    if copy is None or copy.token != token or copy.sent_at is None or copy.stored_at is None:
        return False
    if copy.method != "direct" or copy.doubted_at is not None:
        return False
    if token.startswith("sy2-") and not tokens.is_of_size(db, token, copy.size):
        return False
    later = (datetime.fromisoformat(created_at) - own_created_at).total_seconds()
    return -COARSE_SECONDS <= later <= copy.stored_at - copy.sent_at + COARSE_SECONDS


def retire_repeat(db: Database, copy_id: int, file_uuid: str, now: float) -> bool:
    """Give such an object a row, so that it is deleted; return whether it got one."""
    copy = copies.existing(db, copy_id)
    if copies.where(db, "file_uuid = ?", (file_uuid,)):
        return False
    copies.insert(
        db,
        copy._replace(
            id=0,
            file_uuid=file_uuid,
            status=CopyStatus.RETIRING,
            wanted=False,
            in_flight=False,
            attempts=0,
            due_at=now,
            delete_sent_at=None,
            live_at=None,
            stored_at=None,
            consumed_at=None,
            kept=Keep.NO,
            reason="a repetition of our request made it; its removal was asked for",
            created_at=now,
        ),
    )
    return True
