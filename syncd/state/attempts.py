"""Requests that got no answer, beyond the copies that are in doubt now.

A copy whose request was not found is sent again under another token, and the first request may
still be carried out. Until a week has passed it is looked for: what carries its token, and fits, is
ours. An attempt has one object; the object that is found settles it.
"""

from typing import NamedTuple

from syncd.state.copies import Copy
from syncd.state.database.connection import Database

#: Seconds after it was sent at which an attempt is looked for.
LATE_LOOKS = (600.0, 3600.0, 86_400.0, 7 * 86_400.0)
#: Seconds for which an attempt is kept that nobody could look for.
KEPT_SECONDS = 14 * 86_400.0
#: Seconds after which what is found by its token alone is never deleted by syncd.
OLD_SECONDS = 86_400.0


class Attempt(NamedTuple):
    """A request that may have stored an object; times in seconds since the epoch."""

    token: str
    copy_id: int
    file_id: int
    generation: int
    workspace_uuid: str | None
    method: str
    content_type: str
    sha256: str
    size: int
    sent_at: float
    #: how many late looks were made, and when the next one is due
    looks: int = 0
    look_at: float = 0.0

    @classmethod
    def of(cls, copy: Copy) -> "Attempt":
        """Return the last attempt to send a copy that is in doubt."""
        sent_at = copy.sent_at if copy.sent_at is not None else copy.created_at
        if not copy.token.startswith("sy2-"):
            # All attempts of a copy had one token.
            sent_at = min(sent_at, copy.created_at)
        return cls(
            token=copy.token,
            copy_id=copy.id,
            file_id=copy.file_id,
            generation=copy.generation,
            workspace_uuid=copy.workspace_uuid,
            method=copy.method,
            content_type=copy.content_type,
            sha256=copy.sha256,
            size=copy.size,
            sent_at=sent_at,
        )

    def is_old(self, now: float) -> bool:
        """Return whether it was sent more than a day ago, so that syncd never deletes its object.

        The time of sending is not known after the clock was set back.
        """
        is_time_known = self.sent_at > OLD_SECONDS
        return self.looks >= 2 or (is_time_known and now > self.sent_at + OLD_SECONDS)

    @property
    def kind(self) -> str:
        """The kind of upload; how the service shows objects is learned for each kind."""
        return kind_of(self.method, is_video=self.content_type.startswith("video/"))


def kind_of(method: str, *, is_video: bool, processed: bool = False) -> str:
    """Return the kind of an upload; a processed video may be shown in another way."""
    return method + (" video" if is_video else "") + (", processed" if processed else "")


_COLUMNS = ", ".join(Attempt._fields)


def leave(db: Database, copy: Copy, now: float) -> None:
    """Remember the attempt of a copy that leaves `sending` without an answer."""
    attempt = Attempt.of(copy)
    look_at = max(attempt.sent_at + LATE_LOOKS[0], now)
    marks = ", ".join("?" * len(Attempt._fields))
    db.conn.execute(
        f"INSERT OR IGNORE INTO unanswered ({_COLUMNS}) VALUES ({marks})",
        attempt._replace(look_at=look_at),
    )


def every(db: Database) -> list[Attempt]:
    """Return all that is looked for, the longest due first."""
    return [
        Attempt(*row)
        for row in db.conn.execute(f"SELECT {_COLUMNS} FROM unanswered ORDER BY look_at")
    ]


def forget(db: Database, token: str) -> None:
    """Look for an attempt no more: its object was found, or its last look is over."""
    db.conn.execute("DELETE FROM unanswered WHERE token = ?", (token,))


def looked(db: Database, attempt: Attempt, now: float) -> None:
    """Record that an attempt was not found by a late look; after the last one it is forgotten."""
    looks = attempt.looks + 1
    if looks >= len(LATE_LOOKS):
        forget(db, attempt.token)
        return
    wait = LATE_LOOKS[looks] - LATE_LOOKS[looks - 1]
    db.conn.execute(
        "UPDATE unanswered SET looks = ?, look_at = ? WHERE token = ?",
        (looks, max(attempt.look_at + wait, now), attempt.token),
    )


def put_off(db: Database, attempt: Attempt, until: float) -> None:
    """Look for an attempt later, because nobody could look now."""
    db.conn.execute("UPDATE unanswered SET look_at = ? WHERE token = ?", (until, attempt.token))


def end_all(db: Database) -> int:
    """Forget every attempt: nothing more is taken for ours by these tokens. Return how many."""
    return db.conn.execute("DELETE FROM unanswered").rowcount


def prune(db: Database, now: float) -> None:
    """Forget attempts that nobody could look for."""
    db.conn.execute("DELETE FROM unanswered WHERE look_at < ?", (now - KEPT_SECONDS,))
