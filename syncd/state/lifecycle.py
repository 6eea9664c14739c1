r"""The life of a file and of a copy: the words, and the only arrows between them.

    planned -> sending -> processing -> live -> retiring -> gone
                                          \        v
                                           `-> released (kept remotely, no longer mirrored)

A copy is *in doubt* while it is `sending` and no worker has it in flight: its request may or may
not have been delivered, and it is looked up before anything else happens to its path.
"""

import enum


class FileStatus(enum.StrEnum):
    """The last observation of a path on the disk."""

    #: seen, and not yet quiet for long enough to be read
    SETTLING = "settling"
    #: quiet: it may be hashed and sent
    READY = "ready"
    #: proven absent once; retired after a second look
    MISSING = "missing"
    #: there, or perhaps there, and not to be read: never taken for missing
    UNREADABLE = "unreadable"
    #: there, and excluded by a rule
    INELIGIBLE = "ineligible"
    #: taken away by syncd itself after its upload
    CONSUMED = "consumed"


class CopyStatus(enum.StrEnum):
    """The state of an object that syncd set out to create, or found to be its own."""

    #: wanted, nothing sent
    PLANNED = "planned"
    #: the intent to send is committed; sent or not, it may be there
    SENDING = "sending"
    #: stored, and the service still works on it
    PROCESSING = "processing"
    #: stored whole: the copy that its file is known by
    LIVE = "live"
    #: to be soft-deleted
    RETIRING = "retiring"
    #: proven gone, or never there
    GONE = "gone"
    #: kept remotely, no longer mirrored
    RELEASED = "released"
    #: refused for good, without an object; or failed in processing, with an object that is never
    #: live: its `processing_status` is "failed", which stays when the copy is released or retires
    FAILED = "failed"


class Keep(enum.IntEnum):
    """For how long syncd does not delete a copy that it released: the column `kept` of `copies`.

    `Verdict.KEPT` is about a file, and is the decision by which its copies are released.
    """

    NO = 0
    #: for ever: it was taken up by its token alone, is of an earlier root, or of a folder that is
    #: emptied after its uploads
    ALWAYS = 1
    #: until its file is back, which went missing where deletions are not mirrored
    WHILE_GONE = 2


class Verdict(enum.StrEnum):
    """The decision on a file, by a person on the hold that names it or by a rule."""

    #: named by a hold: nothing is deleted or sent of it before a person decides
    HELD = "held"
    #: do what was held: delete the copies of a missing file, or send the new content
    APPROVED = "approved"
    #: missing, and its remote copies are kept; by a person it can be taken back, unlike a `Keep`
    KEPT = "kept"
    #: it is not sent until it changes
    FORGOTTEN = "forgotten"


_S = CopyStatus
#: The arrows, and no others: a trigger in the schema refuses the rest.
ARROWS: dict[CopyStatus, frozenset[CopyStatus]] = {
    _S.PLANNED: frozenset({_S.SENDING, _S.GONE}),
    _S.SENDING: frozenset(
        {_S.LIVE, _S.PROCESSING, _S.PLANNED, _S.FAILED, _S.RETIRING, _S.RELEASED, _S.GONE},
    ),
    _S.PROCESSING: frozenset({_S.LIVE, _S.FAILED, _S.RETIRING, _S.RELEASED, _S.GONE}),
    _S.LIVE: frozenset({_S.RETIRING, _S.RELEASED, _S.GONE}),
    _S.RELEASED: frozenset({_S.LIVE, _S.RETIRING, _S.GONE}),
    _S.FAILED: frozenset({_S.PLANNED, _S.RETIRING, _S.RELEASED, _S.GONE}),
    _S.RETIRING: frozenset({_S.LIVE, _S.RELEASED, _S.GONE}),
    _S.GONE: frozenset(),
}


def arrows_trigger() -> str:
    """Return the SQL of the trigger that refuses every change of status not in `ARROWS`."""
    allowed = ", ".join(
        f"('{source}', '{target}')"
        for source, targets in ARROWS.items()
        for target in sorted(targets)
    )
    return f"""
        CREATE TRIGGER copies_arrows BEFORE UPDATE OF status ON copies
        WHEN OLD.status <> NEW.status
         AND (OLD.status, NEW.status) NOT IN (VALUES {allowed})
        BEGIN
          SELECT RAISE(ABORT, 'syncd: no such change of status');
        END
    """
