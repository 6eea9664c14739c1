"""The user that the service runs as: root has `doctor` examine as that user.

root may read and write everything, so what it can do says nothing of the service.
"""

import os
import pwd
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from syncd.exceptions import SyncdError
from syncd.report.findings import Finding, unchecked
from syncd.state.database.lock import lock_holder
from syncd.state.database.owner import refuse_to_read


class _User(NamedTuple):
    shown: str
    uid: int
    gid: int
    groups: list[int]


def become(directory: Path, name: str | None) -> Finding | None:
    """Give up root's rights for those of the user `name`, or of the state's owner, for good.

    Return who that is; None where this process is no root's, or the state is root's own. Raise
    KeyError where there is no user `name`.
    """
    if os.geteuid() != 0:
        return None
    user = _named(name) if name else _owner(directory)
    if user is None:
        if directory.exists():
            return None
        why = "whether the service's user may do all this: root asks (--user NAME asks as another)"
        return unchecked("user", why)
    if user.uid == 0:
        return None
    if not _may_read_syncd(user):
        return unchecked(
            "user",
            f"{user.shown} may not read syncd or its Python, and so cannot run it; root asks",
        )
    if directory.exists() and not _may_read(user, directory):
        # As of a unit with DynamicUser, whose state is beneath a directory of root's.
        return unchecked(
            "user",
            f"whether {user.shown} may do all this: only within its unit does it reach its state; "
            "root asks",
        )
    _change(user)
    text = f"everything below is checked as {user.shown}, but outside the sandbox of a unit"
    return Finding("user", good=True, text=text)


def _change(user: _User) -> None:
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def _may_read_syncd(user: _User) -> bool:
    """Return whether a user may read this program and its Python."""
    return _may_read(user, Path(__file__).parent, Path(os.__file__).parent)


def _may_read(user: _User, *directories: Path) -> bool:
    """Return whether a user may list all these directories, as a child of this process tells."""
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(OSError):
            _change(user)
            for directory in directories:
                os.listdir(directory)  # noqa: PTH208 - nothing is imported here
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _named(name: str) -> _User:
    known = pwd.getpwnam(name)
    groups = os.getgrouplist(name, known.pw_gid)
    return _User(f"user {name} ({known.pw_uid})", known.pw_uid, known.pw_gid, groups)


def _owner(directory: Path) -> _User | None:
    """Return the user that the daemon runs as, or else to whom the state belongs.

    None where there is no state, or it is a stranger's: nothing is done in its name.
    """
    try:
        refuse_to_read(directory)
        status = directory.stat()
    except (OSError, SyncdError):
        return None
    # A dynamic user has groups that nothing but its process knows.
    if (pid := lock_holder(directory)) and (running := _of_process(pid, status.st_uid)):
        return running
    with suppress(KeyError):
        return _named(pwd.getpwuid(status.st_uid).pw_name)
    shown = f"user {status.st_uid}"
    return _User(shown, status.st_uid, status.st_gid, [status.st_gid])


def _of_process(pid: int, uid: int) -> _User | None:
    """Return the user of a process, with its groups, if that is the one with this id."""
    with suppress(OSError, KeyError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
        known = dict(line.split(":", 1) for line in lines if ":" in line)
        if int(known["Uid"].split()[1]) == uid:
            groups = [int(group) for group in known["Groups"].split()]
            shown = f"user {uid}, as process {pid} is"
            return _User(shown, uid, int(known["Gid"].split()[1]), groups)
    return None
