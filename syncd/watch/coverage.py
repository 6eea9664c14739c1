"""The directories in which events report every change: those that the kernel watches for us."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class WatchedInode(NamedTuple):
    """A directory that is watched, as /proc/self/fdinfo tells of it."""

    device: int
    inode: int


def watch_descriptors(descriptor: int) -> frozenset[int]:
    """Return the numbers of the watches that an inotify instance has; OSError as below."""
    return frozenset(int(line.split(None, 2)[1][3:], 16) for line in _watches(descriptor))


def watched_inodes(descriptor: int) -> frozenset[WatchedInode]:
    """Return what the inotify instance `descriptor` watches; raise OSError if that is unknown."""
    watched = set()
    for line in _watches(descriptor):
        fields = dict(word.split(":", 1) for word in line.split()[1:])
        number = int(fields["sdev"], 16)
        # The kernel's own numbering: twelve bits of major, twenty of minor.
        device = os.makedev(number >> 20, number & 0xFFFFF)
        watched.add(WatchedInode(device, int(fields["ino"], 16)))
    return frozenset(watched)


def _watches(descriptor: int) -> Iterator[str]:
    with Path(f"/proc/self/fdinfo/{descriptor}").open(encoding="ascii") as lines:
        yield from (line for line in lines if line.startswith("inotify wd:"))


class Coverage:
    """The directories that are watched, and those beneath the root whose events are unreliable."""

    def __init__(self, watched: Iterable[WatchedInode], deaf: Iterable[bytes] = ()) -> None:
        self._watched = frozenset(watched)
        self._deaf = tuple(deaf)
        self._devices = {watched.device for watched in self._watched}
        self._inodes = {watched.inode for watched in self._watched}

    def has(self, directory: bytes, status: os.stat_result) -> bool:
        """Return whether events tell of every change in `directory`, which looks like `status`."""
        if any(directory == mount or directory.startswith(mount + b"/") for mount in self._deaf):
            return False
        if status.st_dev in self._devices:
            return (status.st_dev, status.st_ino) in self._watched
        # Some filesystems (btrfs) show their files under another device than their own.
        return status.st_ino in self._inodes
