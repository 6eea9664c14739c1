"""Plans the next action for a path, as a pure function of the known facts.

`plan` names one action. Local actions are applied to the table at once, in the transaction that
made them due, until the next action needs the disk or the network, or nothing is left to do.
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Literal, NamedTuple

from syncd.state.copies import Copy
from syncd.state.files import File
from syncd.state.lifecycle import CopyStatus, FileStatus, Keep, Verdict


class Act(enum.StrEnum):
    """The actions that can be due for a path."""

    #: everything is as it should be
    NOTHING = "nothing"
    #: something is under way, or its time has not come
    WAIT = "wait"
    # Actions that need the disk or the network:
    #: read the file to know its content
    HASH = "hash"
    #: plan a copy of the content, and send it
    UPLOAD = "upload"
    #: send a planned copy
    SEND = "send"
    #: find out whether a copy in doubt has arrived
    LOOK_UP = "look_up"
    #: ask the service for a released or retiring copy that holds the content
    ASK = "ask"
    #: look a second time whether a missing file is gone
    LOOK_AGAIN = "look_again"
    # Actions that are applied to the table at once:
    #: forget a copy that has no stored object
    DROP = "drop"
    #: soft-delete a copy; a kept copy is released instead, and so is each in a folder that empties
    RETIRE = "retire"
    #: keep a copy remotely and mirror it no longer
    RELEASE = "release"


#: Why the copies of a missing file retire; the history has it, and deletions are counted by it.
FILE_GONE = "the file is gone"
_MOVED = "its folder has another workspace now"
LOCAL = frozenset({Act.DROP, Act.RETIRE, Act.RELEASE})


class Action(NamedTuple):
    """One thing to do: to which copy, why, and when (seconds since the epoch; None is now)."""

    act: Act
    copy: Copy | None = None
    reason: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How many of a folder's files may be deleted within an hour without asking a person.

    Deletions are held if they exceed both `files` and `percent`, or if they exceed `most`. None
    turns a limit off.
    """

    files: int | None = 20
    percent: float | None = 20.0
    most: int | None = 1000

    @property
    def are_off(self) -> bool:
        """Whether nothing is ever held."""
        return self.most is None and (self.files is None or self.percent is None)

    def are_exceeded(self, missing: int, of: int) -> bool:
        """Return whether `missing` of `of` synced files are too many to go on without asking."""
        if self.most is not None and missing > self.most:
            return True
        if self.files is None or self.percent is None:
            return False
        return missing > max(self.files, of * self.percent / 100)

    def enough(self, missing: int) -> int:
        """Return how many synced files there must be for `missing` of them not to be held."""
        return max(missing, ceil(missing * 100 / self.percent)) if self.percent else missing


@dataclass(frozen=True, slots=True)
class Policy:
    """The part of a folder's configuration that affects its copies."""

    workspace_uuid: str | None = None
    #: whether a missing file's copies are deleted; else they are kept
    mirror_deletions: bool = True
    after_upload: Literal["keep", "move", "delete"] = "keep"
    #: what to do with a file whose copy others deleted remotely
    remote_gone: Literal["hold", "reupload", "forget"] = "hold"
    limits: Limits = Limits()
    #: whether any directory at the folder's path counts as the folder
    any_root: bool = False
    #: for how long the old copy of a changed file is kept, in seconds
    superseded_grace: float = 0.0
    #: whether new content is held if most of the folder changes within an hour
    hold_changes: bool = False

    @property
    def empties(self) -> bool:
        """Whether files are taken away after their upload, and nothing remote is ever deleted."""
        return self.after_upload != "keep"

    @property
    def mirrors(self) -> bool:
        """Whether a missing file's copies are deleted."""
        return self.mirror_deletions and not self.empties

    def keeps(self, file: File) -> Keep:
        """Return how long a copy of `file` that is released now is kept, whatever is configured.

        A person's decision to keep a missing file does not count, because it can be taken back.
        """
        if self.empties:
            return Keep.ALWAYS
        by_rule = not self.mirrors or file.hold_id is None
        is_missing = file.status is FileStatus.MISSING and file.verdict is Verdict.KEPT
        return Keep.WHILE_GONE if is_missing and by_rule else Keep.NO


def plan(file: File, copies: Sequence[Copy], policy: Policy) -> Action:
    """Return the next action for `file`, given its copies that are not gone, oldest first."""
    action = _plan(file, copies, policy)
    if policy.empties and action.act is Act.RETIRE:
        return action._replace(act=Act.RELEASE)
    return action


def _plan(file: File, copies: Sequence[Copy], policy: Policy) -> Action:
    for copy in copies:
        if copy.in_flight:
            return Action(Act.WAIT, copy, "a request for it is under way")
    for copy in copies:
        if copy.in_doubt:
            return Action(Act.LOOK_UP, copy, "it may have arrived", copy.due_at)
    # Ignore copies kept by `after_upload`; they no longer belong to this path.
    copies = [copy for copy in copies if copy.consumed_at is None]
    here = [copy for copy in copies if copy.workspace_uuid == policy.workspace_uuid]
    for copy in copies:
        if copy.workspace_uuid != policy.workspace_uuid:
            # A new workspace is a new folder: copies in the old one stay there.
            act = _release_or_drop(copy, processing=False)
            if act is not None:
                return Action(act, copy, _MOVED)
    elsewhere = [copy for copy in copies if copy not in here]
    if file.present and (kept := _last_to_keep(file, elsewhere)) is not None:
        return Action(Act.RELEASE, kept, _MOVED)
    match file.status:
        case FileStatus.READY:
            return _plan_ready(file, here, policy)
        case FileStatus.MISSING:
            if file.confirmed_at is not None and (file.verdict is Verdict.KEPT or policy.empties):
                return _plan_kept(file, copies)
            return _plan_missing(file, here)
        case FileStatus.INELIGIBLE | FileStatus.CONSUMED:
            return _plan_unmirrored(file, copies)
        case _:
            # The file settles or is unreadable: its copies stay until more is known.
            return Action(Act.WAIT, None, f"the file is {file.status}", file.due_at)


def _release_or_drop(copy: Copy, *, processing: bool = True) -> Act | None:
    """Return the action that keeps a stored copy, or drops one that has no stored object."""
    match copy.status:
        case CopyStatus.LIVE:
            return Act.RELEASE
        case CopyStatus.PROCESSING if processing:
            return Act.RELEASE
        case CopyStatus.FAILED if copy.file_uuid is not None:
            return Act.RELEASE
        case CopyStatus.PLANNED | CopyStatus.FAILED:
            return Act.DROP
        case _:
            return None


def _plan_ready(file: File, copies: Sequence[Copy], policy: Policy) -> Action:
    if file.sha256 is None:
        return Action(Act.HASH, None, "its content is not known yet", file.due_at)
    right = [copy for copy in copies if copy.sha256 == file.sha256]
    live = _first(copies, CopyStatus.LIVE)
    if live is not None and live in right:
        if policy.empties:
            # Copies that were released earlier are kept beside the live one.
            copies = [copy for copy in copies if copy.status is not CopyStatus.RELEASED]
        return _tidy(copies, keep=live)
    held = next((copy for copy in right if _can_be_live_again(copy)), None)
    if held is not None:
        # It may be deleted: by someone else, or by a later state than this one, which was put back.
        return Action(Act.ASK, held, "the file holds its content again", held.due_at)
    for copy in copies:
        if copy.status is CopyStatus.PLANNED and copy not in right:
            return Action(Act.DROP, copy, "the file changed before it was sent")
        if copy.status is CopyStatus.FAILED and copy not in right and copy.file_uuid is None:
            return Action(Act.DROP, copy, "the file changed")
    if planned := _first(right, CopyStatus.PLANNED):
        return Action(Act.SEND, planned, "", planned.due_at)
    if processing := _first(right, CopyStatus.PROCESSING):
        return Action(Act.WAIT, processing, "the service processes it", processing.due_at)
    failures = [c for c in copies if c.status is CopyStatus.FAILED and c.file_uuid is not None]
    if len(failures) > 1 and failures[-1] in right:
        return Action(Act.RETIRE, failures[0], "a newer one failed likewise")
    if failed := _first(right, CopyStatus.FAILED):
        return Action(Act.NOTHING, failed, "it was refused; it is tried again when it changes")
    if file.verdict in (Verdict.HELD, Verdict.FORGOTTEN):
        return Action(Act.NOTHING, None, "a hold names it, or it is left alone until it changes")
    return Action(Act.UPLOAD, None, "new content" if live else "new file")


def _plan_missing(file: File, copies: Sequence[Copy]) -> Action:
    if file.confirmed_at is None:
        return Action(Act.LOOK_AGAIN, None, "the file is missing", file.due_at)
    for copy in copies:
        match copy.status:
            case CopyStatus.LIVE | CopyStatus.PROCESSING:
                return Action(Act.RETIRE, copy, FILE_GONE)
            case CopyStatus.RELEASED if file.verdict is Verdict.APPROVED and not copy.kept:
                return Action(Act.RETIRE, copy, "the file is gone, and is not kept after all")
            case CopyStatus.FAILED if copy.file_uuid is not None:
                return Action(Act.RETIRE, copy, FILE_GONE)
            case CopyStatus.PLANNED | CopyStatus.FAILED:
                return Action(Act.DROP, copy, FILE_GONE)
            case _:
                continue
    return Action(Act.NOTHING)


def _plan_kept(file: File, copies: Sequence[Copy]) -> Action:
    """Return the next action for a missing file whose stored copies are kept."""
    for copy in copies:
        match copy.status:
            case CopyStatus.LIVE:
                return Action(Act.RELEASE, copy, "the file is gone, and its copy is kept")
            case CopyStatus.PLANNED:
                return Action(Act.DROP, copy, FILE_GONE)
            case CopyStatus.FAILED if copy.file_uuid is None:
                return Action(Act.DROP, copy, FILE_GONE)
            case _:
                continue
    if (last := _last_to_keep(file, copies)) is not None:
        return Action(Act.RELEASE, last, "it is kept")
    return Action(Act.NOTHING)


def _last_to_keep(file: File, copies: Sequence[Copy]) -> Copy | None:
    """Return the newest retiring copy that no newer stored content supersedes.

    It retires because the file was missing or because its successor is gone. It counts even if a
    DELETE got no answer: syncd asks the service for a released copy before relying on it. So does
    the only copy of the file's content, which was to be asked for.
    """
    stored = (CopyStatus.LIVE, CopyStatus.RELEASED)
    only = {file.sha256} - {copy.sha256 for copy in copies if copy.status in stored}
    retiring = [
        copy
        for copy in copies
        if copy.status is CopyStatus.RETIRING
        and copy.live_at is not None
        and (
            not is_superseded(copy, copies) or (copy.delete_sent_at is None and copy.sha256 in only)
        )
    ]
    return max(retiring, key=lambda copy: (copy.superseded_at or inf, copy.id), default=None)


def is_superseded(copy: Copy, copies: Iterable[Copy]) -> bool:
    """Return whether one of `copies` stores newer content of the same path than a retiring copy.

    The newer copy is live in the same workspace, or was live when it was released.
    """
    return any(
        other.workspace_uuid == copy.workspace_uuid
        and other.consumed_at is None
        and (
            other.status is CopyStatus.LIVE
            or (
                other.status is CopyStatus.RELEASED
                and other.live_at is not None
                and copy.superseded_at is not None
                and (other.superseded_at or inf) > copy.superseded_at
            )
        )
        for other in copies
    )


def _plan_unmirrored(file: File, copies: Sequence[Copy]) -> Action:
    for copy in copies:
        if (act := _release_or_drop(copy)) is not None:
            return Action(act, copy, "the file is no longer mirrored")
    if (last := _last_to_keep(file, copies)) is not None and last.delete_sent_at is None:
        # It retires because the file was missing; a successor at the path is no reason to delete.
        return Action(Act.RELEASE, last, "something else is in the file's place")
    return Action(Act.NOTHING)


def _tidy(copies: Sequence[Copy], *, keep: Copy) -> Action:
    """Return the next action that removes copies beside the right one, which is live."""
    for copy in copies:
        match copy.status:
            case CopyStatus.PLANNED:
                return Action(Act.DROP, copy, "another copy is live")
            case CopyStatus.PROCESSING:
                return Action(Act.RETIRE, copy, "another copy is live")
            # Adopted copies have ids in the order in which they were found.
            case CopyStatus.RELEASED if not copy.kept and (
                copy.id < keep.id or copy.created_at < keep.created_at
            ):
                return Action(Act.RETIRE, copy, "a newer copy is live")
            case CopyStatus.FAILED if copy.file_uuid is not None:
                return Action(Act.RETIRE, copy, "another copy is live")
            case CopyStatus.FAILED:
                return Action(Act.DROP, copy, "another copy is live")
            case _:
                continue
    return Action(Act.NOTHING)


def _can_be_live_again(copy: Copy) -> bool:
    # Not the copy's status, which is lost when it retires or is released: what the service said.
    if copy.processing_status == "failed":
        return False
    # A video that retired while it was processed was never proven usable.
    return copy.status is CopyStatus.RELEASED or (
        copy.status is CopyStatus.RETIRING
        and copy.delete_sent_at is None
        and copy.live_at is not None
    )


def _first(copies: Sequence[Copy], status: CopyStatus) -> Copy | None:
    return next((copy for copy in copies if copy.status is status), None)
