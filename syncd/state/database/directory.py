"""The state directory: made private, locked, and watched for being moved or replaced."""

import errno
import fcntl
import logging
import os
import re
import shlex
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from syncd.exceptions import StateError, StateLockedError
from syncd.filesystems import traits
from syncd.log import in_container
from syncd.mounts import kind_of, mounts
from syncd.state.database import owner
from syncd.state.database.lock import LOCK_NAME, lock_holder, written_pid

log = logging.getLogger(__name__)

#: Another process that only asks who holds the lock is done sooner: a start waits for it.
LOCK_SECONDS = 1.0
#: Volumes that were made because the image declares one and the run named none.
_ANONYMOUS = re.compile(rb"/volumes/[0-9a-f]{64}(/_data)?$")


def prepare(directory: Path) -> None:
    """Make the state directory, for its owner only; raise StateError when that cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner.refuse_to_write(directory)
        with suppress(PermissionError):
            directory.chmod(0o700)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "permission denied")
        kind = kind_of(os.fsencode(directory))
        if traits(kind).is_network:
            raise StateError(
                f"the state directory {directory} is on a network filesystem ({kind}), where "
                "SQLite's locks cannot be relied on: set [state] directory to a local disk"
            )
    except (FileExistsError, NotADirectoryError) as error:
        raise StateError(
            f"the state directory {directory} is a file, or lies beneath one; set [state] "
            "directory to another place"
        ) from error
    except OSError as error:
        raise _unusable(directory, error) from error


def lost_with_container(directory: Path) -> str:
    """Return why the next container will not find what is in `directory`; empty when it will."""
    if not in_container(os.environ):
        return ""
    path = os.fsencode(directory)
    if traits(kind_of(path)).is_layered:
        return "it is on the container's own layer, and lost with it"
    with suppress(OSError):
        if any(mount.path == path and _ANONYMOUS.search(mount.part) for mount in mounts()):
            return "it is a volume without a name, and the next container gets another"
    return ""


def take_lock(directory: Path) -> int:
    """Return the open lock file, held; raise StateLockedError when another process holds it."""
    path = directory / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # A pass that was once made as another user leaves its files in a directory of ours.
        raise _unusable(directory, error) from error
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                holder = written_pid(descriptor)
                os.close(descriptor)
                raise _locked(directory, holder) from error
            time.sleep(0.05)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise _unusable(directory, error) from error
    return descriptor


def refuse_locked(directory: Path) -> None:
    """Raise StateLockedError when another process holds the lock for longer than a moment.

    This comes before any look at whose the directory is: it is in use, whoever owns it.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while (pid := lock_holder(directory)) is not None:
        if time.monotonic() > deadline:
            raise _locked(directory, pid)
        time.sleep(0.05)


class Places:
    """Paths that must keep leading to the same files, by device and inode."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._places = {path: _place(path) for path in paths}
        self._displaced = ""

    @property
    def displaced(self) -> str:
        """Say which file is not at its path any more, for good; empty while each one is."""
        for path, place in () if self._displaced else self._places.items():
            try:
                here = _place(path)
            except (FileNotFoundError, NotADirectoryError):
                here = None
            except OSError:
                # It cannot be seen now: that proves nothing.
                continue
            if here != place:
                gone = "is gone" if here is None else "was replaced by another"
                self._displaced = (
                    f"{path} {gone} while syncd was using it: nothing is sent or deleted any more; "
                    "put the state directory back and start syncd again"
                )
                log.critical("%s", self._displaced)
                break
        return self._displaced


def _place(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _locked(directory: Path, pid: int) -> StateLockedError:
    return StateLockedError(
        f"another syncd (process {pid}) uses {directory}; stop it, or give this one its own "
        "[state] directory"
    )


def _unusable(directory: Path, error: OSError) -> StateError:
    user = os.getuid()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateError(
            f"the disk of the state directory {directory} is full: free some space, and start "
            "syncd again"
        )
    return StateError(
        f"cannot use the state directory {directory}: {error.strerror}; run syncd as the user it "
        f"belongs to, give it to user {user} (chown -R {user} {shlex.quote(str(directory))}), or "
        "set [state] directory"
    )
