"""The URLs that `syncd fetch` had the service fetch: a note for each, without the URL itself.

A note is no part of the ledger of copies: syncd never deletes what it names. It is committed before
its request, so that a request that got no answer is looked for before another.
"""

import hmac
import json
from hashlib import sha256
from typing import NamedTuple

from syncd.state.database.connection import Database
from syncd.state.facts import fact, forget_fact, read_fact, set_fact
from syncd.state.tokens import SECRET

#: The fact of a note has this name and a digest: a URL may hold a secret.
_PREFIX = "fetch "
KEPT_SECONDS = 30 * 86_400.0


class Note(NamedTuple):
    """When a URL was last asked for, and the uuid in the answer; None while there was no answer."""

    asked_at: float
    file_uuid: str | None = None
    #: every uuid that was made of this URL
    known: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Note":
        found = json.loads(text)
        return cls(float(found["asked_at"]), found["file_uuid"], tuple(found["known"]))


def find(db: Database, url: str, workspace: str | None) -> Note | None:
    """Return the note of a URL in a workspace."""
    return read_fact(db, _key(db, url, workspace), Note.parse)


def begin(db: Database, url: str, workspace: str | None, now: float) -> None:
    """Note that a URL is about to be asked for; forget what is older than it is kept for."""
    note = find(db, url, workspace)
    _write(db, url, workspace, Note(now, None, note.known if note else ()))
    db.conn.execute(
        "DELETE FROM service WHERE substr(key, 1, ?) = ? AND json_extract(value, '$.asked_at') < ?",
        (len(_PREFIX), _PREFIX, now - KEPT_SECONDS),
    )


def answered(db: Database, url: str, workspace: str | None, file_uuid: str, now: float) -> None:
    """Note the uuid of a URL."""
    note = find(db, url, workspace) or Note(now)
    known = tuple(dict.fromkeys((*note.known, file_uuid)))
    _write(db, url, workspace, Note(note.asked_at, file_uuid, known))


def refused(db: Database, url: str, workspace: str | None, before: Note | None) -> None:
    """Put back what was noted `before` a request that made nothing."""
    if before is None:
        forget_fact(db, _key(db, url, workspace))
    else:
        _write(db, url, workspace, before)


def _write(db: Database, url: str, workspace: str | None, note: Note) -> None:
    set_fact(db, _key(db, url, workspace), json.dumps(note._asdict()))


def _key(db: Database, url: str, workspace: str | None) -> str:
    secret = (fact(db, SECRET) or "").encode()
    return _PREFIX + hmac.new(secret, f"{workspace}\n{url}".encode(), sha256).hexdigest()
