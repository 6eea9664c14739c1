"""The mounts of this process, by /proc/self/mountinfo, and their traits. A leaf."""

import ctypes
import os
import re
import select
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from syncd import filesystems
from syncd.filesystems import Traits

#: PyDLL keeps the interpreter's lock during a call. Many threads ask for the table several times
#: for each file, and releasing the lock each time would cost far more than the call.
_libc = ctypes.PyDLL(None)
_MOUNT_ID = re.compile(rb"^mnt_id:\s*(\d+)$", re.MULTILINE)
_ESCAPED = re.compile(rb"\\([0-7]{3})")
#: Seconds after which the table is read again even if the kernel reported no change.
_BELIEVED_SECONDS = 1.0


class _Pollfd(ctypes.Structure):
    """The argument of poll(2)."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Mount(NamedTuple):
    """One mount in this process's view; `number` is the `mnt_id` of fdinfo.

    `kind` is the filesystem's type. `source` is what is mounted (an overlay's uppermost layer), and
    `part` the directory in it that the mount shows.
    """

    number: str
    device: int
    path: bytes
    kind: str
    part: bytes = b""
    source: bytes = b""

    @property
    def traits(self) -> Traits:
        """The traits of its filesystem."""
        return filesystems.traits(self.kind)


class _Table:
    """The mount table, read again when the kernel reports a change."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._polled: _Pollfd | None = None
        self._mounts: tuple[Mount, ...] = ()
        self._traits: dict[int, Traits] = {}
        self._read_at = 0.0
        self._changes = 0
        self._is_notified = False

    def changes(self) -> int:
        """Return how often the table was seen to change."""
        with self._lock:
            self._refresh()
            return self._changes

    def mounts(self) -> tuple[Mount, ...]:
        """Return every mount, each after those that it may hide."""
        with self._lock:
            self._refresh()
            return self._mounts

    def traits(self, device: int) -> Traits:
        """Return the traits of the filesystem of `device`; those of a local disk if unknown."""
        with self._lock:
            try:
                self._refresh()
            except OSError:
                return filesystems.LOCAL
            return self._traits.get(device, filesystems.LOCAL)

    def standing(self, device: int) -> tuple[int, Traits | None]:
        """Return what `changes` does, and the traits of `device`; None if the table lacks it."""
        with self._lock:
            self._refresh()
            return self._changes, self._traits.get(device)

    def _refresh(self) -> None:
        if self._polled is None:
            descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            self._polled = _Pollfd(descriptor, select.POLLPRI, 0)
            self._read_at = -_BELIEVED_SECONDS
        # poll(2) reports each change once: it is remembered until the table was read.
        self._is_notified |= _libc.poll(ctypes.byref(self._polled), 1, 0) > 0
        now = time.monotonic()
        if self._is_notified or now >= self._read_at + _BELIEVED_SECONDS:
            before = self._mounts
            descriptor = self._polled.fd
            os.lseek(descriptor, 0, os.SEEK_SET)
            text = b"".join(iter(partial(os.read, descriptor, 1 << 16), b""))
            self._mounts = tuple(map(_parsed, filter(None, text.split(b"\n"))))
            self._traits = {mount.device: mount.traits for mount in self._mounts}
            # Swapping a disk for another may leave the same lines.
            self._changes += self._is_notified or before != self._mounts
            self._is_notified, self._read_at = False, now


def _parsed(line: bytes) -> Mount:
    """Parse one line of mountinfo (proc(5))."""
    before, _, after = line.partition(b" - ")
    number, _, device, part, path = before.split(b" ", 5)[:5]
    kind, source, options = (*after.split(b" ", 2), b"", b"")[:3]
    if kind == b"overlay":
        # Every overlay has the same source, so its uppermost layer takes the place of it.
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
    """Return every mount, each after those that it may hide."""
    return _table.mounts()


def changes() -> int:
    """Return how often the mounts were seen to change."""
    return _table.changes()


def beneath(root: bytes) -> dict[bytes, Mount]:
    """Return what is mounted beneath the directory `root`, by path relative to it.

    `root` is absolute and contains no links. An automounter's own mounts do not count, because they
    come and go by themselves.
    """
    prefix = root.rstrip(b"/") + b"/"
    return {
        mount.path[len(prefix) :]: mount
        for mount in {mount.path: mount for mount in mounts()}.values()
        if mount.path.startswith(prefix) and mount.kind != "autofs"
    }


def hidden_beneath(root: bytes) -> list[bytes]:
    """Return the mounts beneath `root` in which changes happen without events."""
    return [path for path, mount in beneath(root).items() if mount.traits.hidden_changes]


def why_polling(path: bytes) -> str:
    """Return why the directory `path` must be polled; empty when inotify reports every change."""
    kind = kind_of(path)
    reason = filesystems.traits(kind).hidden_changes
    return f"{kind}: {reason}" if reason else ""


def invents(device: int) -> bool:
    """Return whether the filesystem of `device` makes up inodes and the times of changes."""
    return _table.traits(device).invents_inodes


def folds_case(device: int) -> bool:
    """Return whether a name in any case finds a file on the filesystem of `device`."""
    return _table.traits(device).folds_case


def has_own_clock(device: int) -> bool:
    """Return whether times on the filesystem of `device` are this machine's, and real."""
    return _table.traits(device).has_own_clock


def standing(device: int) -> tuple[int, Traits | None]:
    """Return `changes`, and the traits of `device`: None for btrfs's subvolumes, say."""
    return _table.standing(device)


def of(descriptor: int) -> Mount | None:
    """Return the mount that an open file is on; None when it is not in the table."""
    # Ask for the descriptor's own mount: a guess by path is wrong where one mount hides another.
    number = _MOUNT_ID.search(Path(f"/proc/self/fdinfo/{descriptor}").read_bytes())
    wanted = number[1].decode() if number else None
    return next((mount for mount in mounts() if mount.number == wanted), None)


def kind_of(path: bytes) -> str:
    """Return the type of the filesystem that holds `path`; empty if unknown."""
    mount = _mount_of(path)
    return mount.kind if mount else ""


def mount_point(path: bytes) -> bytes:
    """Return the mount point of the filesystem that holds `path`; empty if unknown."""
    mount = _mount_of(path)
    return mount.path if mount else b""


def place_of(path: bytes) -> tuple[int, bytes] | None:
    """Return the device of a directory, and its path on that device; None if unknown."""
    if (mount := _mount_of(path)) is None:
        return None
    inside = os.path.join(mount.part or b"/", os.path.relpath(path, mount.path))  # noqa: PTH118
    return mount.device, os.path.normpath(inside)


def _mount_of(path: bytes) -> Mount | None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            return of(descriptor)
        finally:
            os.close(descriptor)
    return None
