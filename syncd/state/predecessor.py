"""Recognizes that another instance of ours sent the files of a new ledger before.

Either its state was lost, or it still runs elsewhere: a person or a setting says which.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from syncd.state import adoption, files, folders, holds, rollback
from syncd.state.database.connection import Database
from syncd.state.facts import fact, set_fact
from syncd.state.files import File

_DECIDED = "begins_anew"
#: Files of a folder that have to match, at least, beside half of them.
LEAST_FILES = 20
#: Files of a folder whose contents are compared, at most.
SAMPLE = 2 * LEAST_FILES


class SentObject(NamedTuple):
    """The facts in the token of another instance's object, with 8 digits of each digest."""

    place: int
    content: int
    size: int | None


class Match(NamedTuple):
    """How many files of a folder another instance has sent."""

    instance: str
    folder: str
    matching: int
    files: int


def is_in_question(db: Database) -> bool:
    """Return whether this ledger is new, and nobody has said that it begins anew."""
    lost = holds.open_id(db, stops="sending", scope=holds.EVERYWHERE, reason=holds.STATE_LOST)
    return lost is None and not rollback.has_sent(db) and fact(db, _DECIDED) is None


def begin_anew(db: Database, now: float) -> bool:
    """Decide that this ledger continues no other; return whether that was in question."""
    if not is_in_question(db):
        return False
    set_fact(db, _DECIDED, "yes")
    release(db, now)
    return True


def hold(db: Database, match: Match, now: float) -> None:
    """Hold everything until a person has said whether this is that instance."""
    holds.place(
        db,
        stops="sending",
        scope=holds.EVERYWHERE,
        reason=holds.OTHER_INSTANCE,
        message=f"this ledger is new, and instance {match.instance} has sent {match.matching} of "
        f"the {match.files} files of {match.folder} before: say whether this is that instance, "
        "whose state was lost, or another one; nothing is sent until then",
        affects=match.matching,
        commands=(
            "it was this one; its files are taken up, and none is sent again:",
            f"syncd adopt --instance {match.instance}",
            "it is another one; every file is sent anew:",
            "syncd adopt --new",
        ),
        now=now,
    )


def release(db: Database, now: float) -> None:
    """End the hold."""
    holds.release(db, stops="sending", scope=holds.EVERYWHERE, reason=holds.OTHER_INSTANCE, now=now)


def ways_on(db: Database) -> list[str]:
    """Return the two commands that decide, while a person has yet to: this one, another one."""
    for held in holds.open_holds(db):
        if held.reason == holds.OTHER_INSTANCE:
            return [command for command in held.commands if command.startswith("syncd ")]
    return []


def are_scanned(db: Database, names: Collection[str]) -> bool:
    """Return whether each folder whose root is there was scanned once."""
    return all(
        folders.is_first_scan_over(db, name) or not folders.was_there(db, name) for name in names
    )


def best_match(
    db: Database,
    sent: Mapping[str, Sequence[SentObject]],
    names: Collection[str],
    *,
    least: int = LEAST_FILES,
) -> Match | None:
    """Return the instance that has sent most of a folder's files; None when none sent enough.

    That is half of the files, and at `least` as many.
    """
    matches = []
    for name in names:
        places = [int(digest[:8], 16) for digest, _ in adoption.places(db, name)]
        for instance, objects in sent.items():
            known = {item.place for item in objects}
            matching = sum(place in known for place in places)
            if matching >= max(least, len(places) / 2):
                matches.append(Match(instance, name, matching, len(places)))
    return max(matches, key=lambda match: match.matching, default=None)


def match_by_size(
    db: Database, instance: str, sent: Sequence[SentObject], name: str
) -> tuple[Match, list[File]] | None:
    """Match files of a folder by size; return the smallest as well, or None when too few match.

    A folder that was renamed has every file at another place. Empty files are left out.
    """
    left = Counter(item.size for item in sent if item.size)
    rows = db.conn.execute(
        f"SELECT id, size FROM files WHERE {adoption.PRESENT} AND folder = ? ORDER BY size, id",
        (name,),
    ).fetchall()
    found = []
    for file_id, size in rows:
        if left[size] > 0:
            left[size] -= 1
            found.append(file_id)
    if len(found) < max(LEAST_FILES, len(rows) / 2):
        return None
    sample = [files.existing(db, file_id) for file_id in found[:SAMPLE]]
    return Match(instance, name, len(found), len(rows)), sample


def narrow(match: Match, sample: Sequence[File], sent: Sequence[SentObject]) -> Match | None:
    """Narrow a match by size down to files of equal content; return None when they are too few.

    `sample` holds some of its files, with their SHA-256 if they could be read.
    """
    known = {(item.content, item.size) for item in sent}
    same = {(int(file.sha256[:8], 16), file.size) for file in sample if file.sha256} & known
    matching = match.matching * len(same) // len(sample)
    is_enough = len(same) >= LEAST_FILES and matching >= match.files / 2
    return match._replace(matching=matching) if is_enough else None
