"""What is mounted where, by /proc/self/mountinfo, and how far its stamps can be trusted.

A leaf, as `syncd.disk` is, which asks it of each file's filesystem.
"""

import os
import re
import select
import threading
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

_MOUNT_ID = re.compile(rb"^mnt_id:\s*(\d+)$", re.MULTILINE)
_ESCAPED = re.compile(rb"\\([0-7]{3})")
#: Seconds after which the table is read again even where no change was told of.
_BELIEVED_SECONDS = 1.0
#: They number files as it comes, anew with each mount, and keep no time of their own for a change.
_INVENTING = frozenset({"vfat", "msdos", "exfat", "fuseblk"})
#: Where a file is found by its name in any case; it is listed by the one that it has.
_FOLDING = frozenset({"vfat", "msdos", "exfat", "fuseblk", "ntfs3", "cifs", "smb3", "hfsplus"})
#: Their times are another machine's.
_REMOTE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "vboxsf", "ceph", "afs", "glusterfs"}
)


#: Where SQLite's locks and its shared memory cannot be relied on.
NETWORKS = _REMOTE - {"9p", "virtiofs", "vboxsf"} | {"afs", "glusterfs", "fuse.sshfs"}


class Mount(NamedTuple):
    """One mount as this process sees it; `path` is where, `number` what fdinfo calls `mnt_id`.

    `source` is what is mounted, an overlay's uppermost layer, and `part` the directory in it that
    the mount shows.
    """

    number: str
    device: int
    path: bytes
    kind: str
    part: bytes = b""
    source: bytes = b""

    @property
    def is_served(self) -> bool:
        """Whether another machine or a program answers for it, and may not."""
        return self.kind in _REMOTE or self.kind.startswith("fuse")


class _Table:
    """The mount table, read again when the kernel says that it changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._poll = select.poll()
        self._mounts: tuple[Mount, ...] = ()
        self._kinds: dict[int, str] = {}
        self._read_at = 0.0
        self._changes = 0

    def changes(self) -> int:
        """Return how often the table was seen to change so far; OSError."""
        with self._lock:
            self._refresh()
            return self._changes

    def mounts(self) -> tuple[Mount, ...]:
        """Return every mount, later ones after those that they may hide; OSError."""
        with self._lock:
            self._refresh()
            return self._mounts

    def kind(self, device: int) -> str:
        """Return the type of the filesystem of `device`; empty if unknown."""
        with self._lock:
            try:
                self._refresh()
            except OSError:
                return ""
            return self._kinds.get(device, "")

    def _refresh(self) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            self._poll.register(self._descriptor, select.POLLPRI)
            self._read_at = -_BELIEVED_SECONDS
        told = bool(self._poll.poll(0))
        if told or time.monotonic() >= self._read_at + _BELIEVED_SECONDS:
            before = self._mounts
            self._read_at = time.monotonic()
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            text = b"".join(iter(partial(os.read, self._descriptor, 1 << 16), b""))
            self._mounts = tuple(map(_parsed, text.splitlines()))
            self._kinds = {mount.device: mount.kind for mount in self._mounts}
            # A disk that is swapped for another in between may leave the same lines.
            self._changes += told or before != self._mounts


def _parsed(line: bytes) -> Mount:
    """Parse one line of mountinfo (proc(5))."""
    before, _, after = line.partition(b" - ")
    number, _, device, part, path = before.split(b" ", 5)[:5]
    kind, source, options = (*after.split(b" ", 2), b"", b"")[:3]
    if kind == b"overlay":
        # Every overlay has the same name: its uppermost layer is what tells it from others.
        layers = [o for o in options.split(b",") if o.startswith((b"upperdir=", b"lowerdir="))]
        source = max(layers, default=source)
    major, minor = device.split(b":")
    return Mount(
        number.decode(),
        os.makedev(int(major), int(minor)),
        _unescaped(path),
        kind.decode("utf-8", "surrogateescape"),
        _unescaped(part),
        source,
    )


def _unescaped(name: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), name)


_table = _Table(Path("/proc/self/mountinfo"))


def mounts() -> tuple[Mount, ...]:
    """Return every mount, later ones after those that they may hide; OSError."""
    return _table.mounts()


def changes() -> int:
    """Return how often what is mounted was seen to change so far; OSError."""
    return _table.changes()


def beneath(root: bytes) -> dict[bytes, Mount]:
    """Return what is mounted beneath the directory `root`, by path relative to it.

    `root` is absolute, its links resolved. An automounter's own mounts do not count: they come and
    go by themselves.
    """
    prefix = root.rstrip(b"/") + b"/"
    return {
        mount.path[len(prefix) :]: mount
        for mount in {mount.path: mount for mount in mounts()}.values()
        if mount.path.startswith(prefix) and mount.kind != "autofs"
    }


def invents_inodes(kind: str) -> bool:
    """Say whether filesystems of type `kind` make up inodes and the times of changes."""
    return kind in _INVENTING or kind.startswith("fuse.") or kind == "fuse"


def invents(device: int) -> bool:
    """Say whether the filesystem of `device` makes up inodes and the times of changes."""
    return invents_inodes(_table.kind(device))


def folds_case(device: int) -> bool:
    """Say whether the filesystem of `device` finds a file by other names than its own."""
    return _table.kind(device) in _FOLDING


def has_own_clock(device: int) -> bool:
    """Say whether times on the filesystem of `device` are this machine's, and real."""
    return not invents(device) and _table.kind(device) not in _REMOTE


def of(descriptor: int) -> Mount | None:
    """Return the mount that an open file is on, None where it is not in the table; OSError."""
    # The descriptor's own mount, and no guess by prefix: one mount may hide another.
    facts = os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        number = _MOUNT_ID.search(os.read(facts, 4096))
    finally:
        os.close(facts)
    wanted = number[1].decode() if number else None
    return next((mount for mount in mounts() if mount.number == wanted), None)


def kind_of(path: bytes) -> str:
    """Return the type of the filesystem that holds `path`, as /proc names it; empty if unknown."""
    mount = _mount_of(path)
    return mount.kind if mount else ""


def mount_point(path: bytes) -> bytes:
    """Return where the filesystem that holds `path` is mounted; empty if unknown."""
    mount = _mount_of(path)
    return mount.path if mount else b""


def place_of(path: bytes) -> tuple[int, bytes] | None:
    """Return the device that a directory is on, and where it is on that."""
    if (mount := _mount_of(path)) is None:
        return None
    inside = os.path.join(mount.part or b"/", os.path.relpath(path, mount.path))  # noqa: PTH118
    return mount.device, os.path.normpath(inside)


def _mount_of(path: bytes) -> Mount | None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return of(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
