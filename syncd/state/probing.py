"""Objects that a probe of the service set out to make, noted before each request.

By these notes, the next probe or the daemon finds what an ended probe left behind.
"""

import json
from hashlib import sha256
from secrets import token_hex
from typing import NamedTuple

from syncd.state import tokens
from syncd.state.database.connection import Database
from syncd.state.facts import read_fact, set_fact

LEFT = "probe left"
FOLDER = "syncd-probe"


class ProbeObject(NamedTuple):
    """A request that may have stored an object, which is not deleted yet."""

    token: str
    size: int
    method: str
    workspace_uuid: str | None
    sent_at: float
    #: from the answer to the request, or of the one object that carries the token
    file_uuid: str | None = None


def every(db: Database) -> list[ProbeObject]:
    """Return all that may be there still."""
    return read_fact(db, LEFT, lambda text: [ProbeObject(*one) for one in json.loads(text)]) or []


def intend(
    db: Database, path: bytes, content: bytes, method: str, workspace_uuid: str | None, now: float
) -> ProbeObject:
    """Note that an object is about to be made, and return it with a token of its own.

    The token is of the kind that own uploads carry, so that it shows what becomes of those, but
    names an instance that does not exist: no ledger takes the object for its own.
    """
    token = tokens.issue(
        db,
        instance=token_hex(4),
        folder=FOLDER,
        path=path,
        content=sha256(content).hexdigest(),
        size=len(content),
        now=now,
    )
    made = ProbeObject(token, len(content), method, workspace_uuid, now)
    _keep(db, [*every(db), made])
    return made


def found(db: Database, token: str, file_uuid: str) -> None:
    """Note which object a request made."""
    _keep(
        db,
        [one._replace(file_uuid=file_uuid) if one.token == token else one for one in every(db)],
    )


def forget(db: Database, token: str) -> None:
    """Note that nothing is there of a request any more, or never was."""
    _keep(db, [one for one in every(db) if one.token != token])


def _keep(db: Database, left: list[ProbeObject]) -> None:
    set_fact(db, LEFT, json.dumps(left))
