"""What is mounted where, by /proc/self/mountinfo, and how far its stamps can be trusted.

A leaf, as `syncd.disk` is, which asks it of each file's filesystem.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-7]{3})")
#: Seconds for which the types of filesystems are believed: numbers of devices are given anew.
_BELIEVED_SECONDS = 10.0
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

    `source` is what is mounted, and `part` the directory in it that the mount shows.
    """

    number: str
    device: int
    path: bytes
    kind: str
    part: bytes = b""
    source: bytes = b""


def mounts() -> Iterator[Mount]:
    """Yield every mount (proc(5)), later ones after those that they may hide."""
    with _MOUNTINFO.open("rb") as lines:
        for line in lines:
            before, _, after = line.partition(b" - ")
            number, _, device, part, path = before.split(b" ", 5)[:5]
            kind, source = after.split(b" ", 2)[:2]
            major, minor = device.split(b":")
            yield Mount(
                number.decode(),
                os.makedev(int(major), int(minor)),
                _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), path),
                kind.decode("utf-8", "surrogateescape"),
                part,
                source,
            )


def beneath(root: bytes) -> dict[bytes, str]:
    """Return where something is mounted beneath the directory `root`, relative to it, and its mark.

    The mark tells what is mounted there from another thing, through restarts. `root` is absolute,
    its links resolved. An automounter's own mounts do not count: they come and go by themselves.
    """
    prefix = root.rstrip(b"/") + b"/"
    return {
        mount.path[len(prefix) :]: _mark(mount)
        for mount in {mount.path: mount for mount in mounts()}.values()
        if mount.path.startswith(prefix) and mount.kind != "autofs"
    }


def _mark(mount: Mount) -> str:
    if mount.kind not in _REMOTE and not mount.kind.startswith("fuse"):
        # Names of devices are given anew with each start of the machine; a filesystem's id is not.
        # Who does not answer is never asked: that might take for ever.
        with suppress(OSError):
            status = os.stat(mount.path)  # noqa: PTH116 a Path holds no bytes
            return f"{mount.kind} {os.statvfs(mount.path).f_fsid} {status.st_ino}"
    return f"{mount.kind} {os.fsdecode(mount.source)} {os.fsdecode(mount.part)}"


class _Kinds:
    """The type of filesystem of each device, read again every few seconds."""

    def __init__(self) -> None:
        self._kinds: Mapping[int, str] = {}
        self._read_at = -_BELIEVED_SECONDS

    def of(self, device: int) -> str:
        now = time.monotonic()
        if now >= self._read_at + _BELIEVED_SECONDS:
            try:
                self._kinds = {mount.device: mount.kind for mount in mounts()}
            except OSError:
                self._kinds = {}
            self._read_at = now
        return self._kinds.get(device, "")


_kinds = _Kinds()


def invents(device: int) -> bool:
    """Say whether the filesystem of `device` makes up inodes and the times of changes."""
    kind = _kinds.of(device)
    return kind in _INVENTING or kind.startswith("fuse.") or kind == "fuse"


def folds_case(device: int) -> bool:
    """Say whether the filesystem of `device` finds a file by other names than its own."""
    return _kinds.of(device) in _FOLDING


def has_own_clock(device: int) -> bool:
    """Say whether times on the filesystem of `device` are this machine's, and real."""
    return not invents(device) and _kinds.of(device) not in _REMOTE


def kind_of(path: bytes) -> str:
    """Return the type of the filesystem that holds `path`, as /proc names it; empty if unknown."""
    mount = _mount_of(path)
    return mount.kind if mount else ""


def mount_point(path: bytes) -> bytes:
    """Return where the filesystem that holds `path` is mounted; empty if unknown."""
    mount = _mount_of(path)
    return mount.path if mount else b""


def _mount_of(path: bytes) -> Mount | None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # The descriptor's own mount, and no guess by prefix: one mount may hide another.
        number = _first_field(f"/proc/self/fdinfo/{descriptor}", "mnt_id:")
        return next((mount for mount in mounts() if mount.number == number), None)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _first_field(file: str, name: str) -> str:
    with Path(file).open(encoding="ascii") as lines:
        return next((line.split()[1] for line in lines if line.startswith(name)), "")
