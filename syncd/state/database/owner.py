"""Refuses a stranger's state directory: it is neither read nor written. A leaf.

Its owner could have us write elsewhere, wait for ever, or believe a false ledger.
"""

import os
import stat
from pathlib import Path

from syncd.exceptions import ForeignStateError


def refuse_to_read(directory: Path) -> None:
    """Raise ForeignStateError when `directory` is a stranger's, and OSError when it is not there.

    root may read the state of a service's own user, in a place where only root can have put it.
    """
    owner = directory.stat().st_uid
    if owner not in _trusted() and not (os.geteuid() == 0 and _is_put_by_root(directory)):
        raise _strangers(directory, owner)


def refuse_to_write(directory: Path) -> None:
    """Raise ForeignStateError unless all of `directory` is this user's, and contains no link.

    A volume may belong to root.
    """
    if (owner := directory.stat().st_uid) not in _trusted():
        raise _strangers(directory, owner)
    with os.scandir(directory) as entries:
        for entry in entries:
            _refuse_entry(entry)


def _trusted() -> set[int]:
    return {os.geteuid(), 0}


def _is_put_by_root(directory: Path) -> bool:
    """Return whether only root may write into the directories above `directory`."""
    for above in directory.resolve().parents:
        status = above.stat()
        writable = status.st_mode & stat.S_IWOTH or (
            status.st_mode & stat.S_IWGRP and status.st_gid != 0
        )
        if status.st_uid != 0 or writable:
            return False
    return True


def _strangers(directory: Path, owner: int) -> ForeignStateError:
    return ForeignStateError(
        f"the state directory {directory} belongs to user {owner}, and syncd runs as user "
        f"{os.geteuid()}: run it as that user, give it all to user {os.geteuid()} (chown -R), or "
        "set [state] directory to another place"
    )


def _refuse_entry(entry: "os.DirEntry[str]") -> None:
    if entry.is_symlink():
        raise ForeignStateError(
            f"{entry.path} is a link, which syncd does not follow in its state directory: remove it"
        )
    if (owner := entry.stat(follow_symlinks=False).st_uid) not in _trusted():
        raise ForeignStateError(
            f"{entry.path} belongs to user {owner}, and syncd runs as user {os.geteuid()}: give it "
            "to that user (chown), or remove it"
        )
