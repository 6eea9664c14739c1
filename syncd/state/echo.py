"""Learned facts: how the service shows what it stored, for each kind of upload.

Whether the sent name is echoed, whether sizes are told as sent, and how creation times relate to
our clock: all of it is learned from answered uploads of our own, and nothing is assumed before. A
kind is a method, with kinds of their own for videos and for processed videos.
"""

import json
from typing import NamedTuple

from syncd.state import copies
from syncd.state.attempts import kind_of
from syncd.state.copies import Copy
from syncd.state.database.connection import Database
from syncd.state.facts import fact, forget_fact, read_fact, set_fact
from syncd.state.lifecycle import CopyStatus

KINDS = tuple(
    kind_of(method, is_video=is_video, processed=processed)
    for method in ("direct", "presigned")
    for is_video, processed in ((False, False), (True, False), (True, True))
)
_STORED = (CopyStatus.LIVE, CopyStatus.PROCESSING)
_UPLOADER = "uploader"
#: The answers of `summary`.
PROVEN, NONE, UNKNOWN = "proven", "none", "unknown"


class Learned(NamedTuple):
    """How uploads of one kind are shown."""

    #: whether the token in the sent name comes back
    echo: bool
    #: whether the size is the one that was sent; None if it was not told
    sizes: bool | None = None
    #: by how many seconds creation times are ahead of the service's own clock, at least; None if it
    #: was not seen
    skew: float | None = None


def learned(db: Database, kind: str) -> Learned | None:
    """Return what is known of a kind; None if nothing is."""
    return read_fact(db, f"echo {kind}", lambda text: Learned(**json.loads(text)))


def learn(db: Database, kind: str, what: Learned) -> None:
    """Keep what an own upload of a kind showed."""
    set_fact(db, f"echo {kind}", json.dumps(what._asdict()))
    if is_complete(what):
        forget_fact(db, f"sample {kind}")


def is_complete(what: Learned | None) -> bool:
    """Return whether nothing more is to be learned of a kind."""
    return what is not None and (not what.echo or what.skew is not None)


def is_proven(db: Database, method: str, *, is_video: bool) -> bool:
    """Return whether an upload of that kind that was stored would be found by its token.

    A video may be processed before anybody looks, so it must be found in either state.
    """
    kinds = [kind_of(method, is_video=is_video)]
    if is_video:
        kinds.append(kind_of(method, is_video=True, processed=True))
    known = [learned(db, kind) for kind in kinds]
    return all(what is not None and what.echo and what.skew is not None for what in known)


def note_sample(db: Database, kind: str, copy_id: int) -> bool:
    """Remember a stored copy as one to learn from; return whether more is to be learned."""
    if is_complete(learned(db, kind)):
        return False
    set_fact(db, f"sample {kind}", str(copy_id))
    return True


def samples(db: Database) -> dict[str, Copy]:
    """Return, by kind, the stored copies to learn from."""
    found = {}
    for kind in KINDS:
        copy_id = fact(db, f"sample {kind}")
        copy = copies.get(db, int(copy_id)) if copy_id else None
        if copy is not None and copy.status in _STORED and copy.file_uuid is not None:
            found[kind] = copy
    return found


def find_sample(db: Database, method: str, *, is_video: bool) -> None:
    """Search the whole ledger for a copy to learn from, because doubts wait for it."""
    for processed in (False, True) if is_video else (False,):
        known = copies.where(
            db,
            "status IN ('live', 'processing') AND method = ? AND file_uuid IS NOT NULL "
            "AND stored_at IS NOT NULL AND (content_type LIKE 'video/%') = ? "
            f"{'AND status = ' + repr('live') if processed else ''} ORDER BY id DESC LIMIT 1",
            (method, is_video),
        )
        for copy in known:
            note_sample(db, kind_of(method, is_video=is_video, processed=processed), copy.id)


def may_probe(db: Database, kind: str) -> bool:
    """Return whether an upload may be made to learn about its kind; one at a time may."""
    before = fact(db, f"probe {kind}")
    probe = copies.get(db, int(before)) if before else None
    return probe is None or probe.status not in (*_STORED, CopyStatus.SENDING)


def note_probe(db: Database, copy: Copy) -> None:
    """Remember the upload that is made to learn about its kind."""
    set_fact(db, f"probe {kind_of(copy.method, is_video=copy.is_video)}", str(copy.id))


def uploader(db: Database, key_mark: str | None) -> str | None:
    """Return who the service says uploads with our key; None if that is not known."""
    known = read_fact(db, _UPLOADER, json.loads)
    return known["uuid"] if isinstance(known, dict) and known.get("key") == key_mark else None


def learn_uploader(db: Database, key_mark: str | None, uuid: str | None) -> None:
    """Keep who the service says uploads with our key."""
    if uuid is not None:
        set_fact(db, _UPLOADER, json.dumps({"uuid": uuid, "key": key_mark}))


def echoes(db: Database) -> dict[str, bool]:
    """Return, by kind, whether names are echoed, as far as it is known."""
    return {kind: what.echo for kind in KINDS if (what := learned(db, kind))}


def summary(db: Database) -> str:
    """Return in one word whether names are echoed: proven, none, unknown, or partly."""
    known = set(echoes(db).values())
    if not known:
        return UNKNOWN
    return "partly" if len(known) > 1 else PROVEN if known == {True} else NONE
