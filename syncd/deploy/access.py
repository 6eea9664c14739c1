"""Who may use files of this machine as they are: the user of a container, or of a service."""

import os
import pwd
import stat
from collections.abc import Mapping, Set as AbstractSet
from pathlib import Path

from syncd.exceptions import ConfigError


def user_for(paths: Mapping[Path, bool], image: int) -> tuple[int, int]:
    """Return a user and a group that may read these paths, and write where that is said.

    `image` is the user to prefer. Paths that are not there count as fit for anyone. Raise
    ConfigError when nobody but root fits, or no single user does.
    """
    found = {path: status for path in paths if (status := _status(path))}
    owners = [(each.st_uid, each.st_gid) for each in found.values() if each.st_uid]
    for user, group in [(image, image), *owners]:
        if all(_may(status, user, group, paths[path]) for path, status in found.items()):
            return user, group
    shut = {p: s for p, s in found.items() if not _may(s, image, image, paths[p])}
    whose = ", ".join(f"{path} belongs to user {s.st_uid}" for path, s in shut.items())
    remedy = f"chown {image}" if len(shut) == 1 else "give all of them to one user"
    raise ConfigError(f"no user of a container may use all that it needs: {whose}; {remedy}")


def ids(name: str) -> tuple[int | None, set[int]]:
    """Return a user's number and groups; those of a dynamic user, for no name, are unknown."""
    if not name:
        return None, set()
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return (int(name) if name.isdecimal() else None), set()
    return entry.pw_uid, {*os.getgrouplist(name, entry.pw_gid)}


def reaches(path: Path, user: int | None, groups: AbstractSet[int]) -> bool | None:
    """Return whether somebody may read a file, or list a directory; None where it is not there."""
    try:
        status, *parents = [place.stat() for place in (path, *path.parents)]
    except FileNotFoundError:
        return None
    except OSError:
        return False
    needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else 0)
    return _allows(status, user, groups, needed) and all(
        _allows(parent, user, groups, stat.S_IXOTH) for parent in parents
    )


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _may(status: os.stat_result, user: int, group: int, writes: bool) -> bool:
    """Return whether a user may read a file or enter a directory, and write it if `writes`."""
    needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else 0)
    needed |= stat.S_IWOTH if writes else 0
    return _allows(status, user, {group}, needed)


def _allows(
    status: os.stat_result, user: int | None, groups: AbstractSet[int], needed: int
) -> bool:
    shift = 6 if status.st_uid == user else 3 if status.st_gid in groups else 0
    return status.st_mode >> shift & needed == needed
