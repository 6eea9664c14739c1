"""What a person decides on a hold: approved, its deletions are done; rejected, all is kept.

Either verdict can be changed into the other for as long as there is something left to change.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sqlite_utils import Database

from syncd.exceptions import SyncdError
from syncd.state import holds, remote_deletions, vanished
from syncd.state.holds import MANY_MISSING, REMOTE_GONE, ROOT_REPLACED, Hold

Verdict = Literal["approved", "rejected"]
#: The reasons of holds that name files to be deleted, or that were.
_ABOUT_FILES = (MANY_MISSING, REMOTE_GONE)


class ReviewError(SyncdError):
    """There is no such hold, or nothing to decide on it; the message says what can be done."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict that was carried out: on which hold, and on how many files."""

    hold: Hold
    verdict: Verdict
    files: int


def find(db: Database, hold_id: int) -> Hold:
    """Return a hold that can be reviewed, open or decided; ReviewError where there is none."""
    hold = holds.get(db, hold_id)
    if hold is None:
        raise ReviewError(f"there is no hold {hold_id}; `syncd deletes list` shows those there are")
    if hold.reason not in (*_ABOUT_FILES, ROOT_REPLACED):
        raise ReviewError(
            f"hold {hold_id} ({hold.reason}) is not to be approved or rejected: {hold.message}"
        )
    if hold.released_at is not None and hold.verdict is None:
        raise ReviewError(f"hold {hold_id} has ended by itself: its cause is gone")
    return hold


#: SQL for the ids of the files that a hold is about; see `files_of` for its values.
FILES = (
    "SELECT id FROM files WHERE (:about = 'decided' AND hold_id = :hold) "
    f"OR (:about = 'missing' AND {vanished.PENDING}) "
    "OR (:about = 'remote' AND folder = :folder AND verdict = 'gone')"
)


def files_of(hold: Hold) -> dict[str, object]:
    """Return the values for `FILES`."""
    if hold.verdict is not None:
        about = "decided"
    else:
        about = "remote" if hold.stops == "sending" else "missing"
    return {"hold": hold.id, "folder": folder_of(hold), "about": about}


def of_folder(db: Database, folder: str) -> list[Hold]:
    """Return a folder's open holds that can be reviewed; ReviewError where there is none."""
    found = [hold for hold in reviewable(holds.open_holds(db)) if folder_of(hold) == folder]
    if not found:
        raise ReviewError(f"no deletions of {folder} are held; `syncd status` shows how it is")
    return found


def reviewable(known: Iterable[Hold]) -> list[Hold]:
    """Return those holds on which a person can decide."""
    return [hold for hold in known if hold.reason in (*_ABOUT_FILES, ROOT_REPLACED)]


def folder_of(hold: Hold) -> str:
    """Return the folder whose files a hold names."""
    if hold.stops == "sending":
        return hold.scope.removeprefix(holds.of_folder(""))
    return hold.scope.partition("/")[0]


def decide(db: Database, hold_id: int, verdict: Verdict, now: float) -> Decision:
    """Carry a verdict out, or change the one there was, in the caller's transaction.

    What is approved is deleted after a last look, and just what is missing now. A replaced root is
    accepted by whoever has looked at it.
    """
    hold = find(db, hold_id)
    folder, approved = folder_of(hold), verdict == "approved"
    match hold.reason:
        case "remote_gone" if approved:
            number = remote_deletions.forget(db, folder, hold_id)
        case "remote_gone":
            number = remote_deletions.send_again(db, folder, hold_id, now)
        case "root_replaced":
            if not approved:
                raise ReviewError(
                    f"nothing beneath {folder} is taken for deleted while another folder is in "
                    "its place; bring the right one back, and hold "
                    f"{hold_id} ends by itself"
                )
            number = 0
        case _:
            carry_out = vanished.approve if approved else vanished.keep
            number = carry_out(db, folder, hold_id, now)
    if hold.verdict is not None and not number:
        raise ReviewError(
            f"hold {hold_id} was {hold.verdict}, and there is nothing left of it to change"
        )
    holds.decide(db, hold_id, verdict, now)
    return Decision(hold, verdict, number)
