"""Which directory a watch folder's root is, told from any other through remounts and restarts.

A leaf. Device numbers are given anew with each mount, so none is part of an identity, and neither
is an `f_fsid` that is made of one: what identifies each kind of filesystem stands in `_EVIDENCE`.
"""

import ctypes
import errno
import fcntl
import os
import struct
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from syncd import disk, mounts
from syncd.mounts import Mount

_libc = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH, _STATX_BTIME, _STATX_MNT_ID_UNIQUE = 0x1000, 0x800, 0x4000
#: Mounts are told apart within one process: what happened while none ran is not known anyway.
_PROCESS = uuid.uuid4().hex
# From linux/fs.h, xfs/xfs_fs.h and linux/msdos_fs.h; the last number is the answer's size in bytes.
_FS_IOC_GETFSUUID = (0x80111500, 17)
_XFS_IOC_FSGEOMETRY = (0x80705864, 112)
_FAT_IOCTL_GET_VOLUME_ID = (0x80047213, 4)


class RootIdentity(NamedTuple):
    """What tells a directory from every other one.

    `filesystem` is the evidence that its filesystem gives, in words; empty where nothing is stable.
    `inode` is 0 where the filesystem makes inodes up.
    """

    filesystem: str
    inode: int = 0

    @property
    def is_stable(self) -> bool:
        """Whether another directory in its place would be noticed."""
        return bool(self.filesystem)

    def is_same(self, known: "RootIdentity") -> bool:
        """Say whether it is the directory that was `known`, perhaps by an earlier version."""
        if not known.is_of_old:
            return self == known
        fsid = f"fsid {int(known.filesystem):x}"
        return (self.filesystem.partition(",")[0], self.inode) == (fsid, known.inode)

    @property
    def is_of_old(self) -> bool:
        """Whether an earlier version recorded it: a mere `f_fsid`, whatever it is made of."""
        return self.filesystem.lstrip("-").isdecimal()


@dataclass(frozen=True, slots=True)
class View:
    """A look at a root and its parts: the directories beneath it where something is mounted.

    `parts` has the identity of each by its path relative to the root, which is `b""` itself; None
    where there is no directory that can be listed, and why not in `errors`.
    """

    parts: Mapping[bytes, RootIdentity | None]
    #: the parts at which something is mounted
    mounted: frozenset[bytes] = frozenset()
    errors: Mapping[bytes, str] = field(default_factory=dict)
    #: the mount that each part is on, which is another one after a remount of the same disk
    mounts: Mapping[bytes, str] = field(default_factory=dict)
    #: how often the mounts had changed before this look
    changes: int = field(default=0, compare=False)


def part_of(parts: Collection[bytes], path: bytes) -> bytes:
    """Return the innermost of some parts that holds `path`; the root holds every one."""
    while path and path not in parts:
        path = path.rpartition(b"/")[0]
    return path


def view(root: bytes, marker: bytes = b"", known: Iterable[bytes] = ()) -> View:
    """Look at the directory at `root`, its links resolved anew, and at its parts.

    The `marker`, if any, must be in it. The `known` parts are looked at, mounted or not.
    """
    parts: dict[bytes, RootIdentity | None] = {}
    errors: dict[bytes, str] = {}
    on: dict[bytes, str] = {}
    try:
        changes = mounts.changes()
        beneath = mounts.beneath(os.path.realpath(root))
    except OSError as error:
        if (shortage := disk.judged(error)) is not error:
            raise shortage from error
        return View({b"": None}, errors={b"": str(error.strerror)})
    for part in (b"", *beneath, *(path for path in known if path and path not in beneath)):
        try:
            mount = beneath.get(part)
            if mount is not None and mount.is_served:
                # One that does not answer would keep its caller for ever.
                parts[part], on[part] = RootIdentity(_source(-1, mount)), mount.number
                continue
            with disk.directory(os.path.join(root, part)) as descriptor:  # noqa: PTH118
                parts[part] = _identified(descriptor, b"" if part else marker)
                on[part] = _mount_id(descriptor)
        except OSError as error:
            parts[part], errors[part] = None, str(error.strerror)
    on = {part: f"{_PROCESS} {number}" for part, number in on.items()}
    return View(parts, frozenset(beneath), errors, on, changes)


def is_remounted(known: str, seen: str) -> bool:
    """Say whether a part is `seen` on another mount than it was `known` on in the same process."""
    return known != seen and known.partition(" ")[0] == seen.partition(" ")[0]


def identify(path: bytes, marker: bytes = b"") -> RootIdentity:
    """Return the identity of the directory at `path`, its links resolved.

    OSError where there is none, where it was removed while something is mounted on it, or where
    the `marker` is not in it.
    """
    with disk.directory(path) as descriptor:
        return _identified(descriptor, marker)


def _identified(descriptor: int, marker: bytes) -> RootIdentity:
    with disk.entries_of(descriptor):
        status = os.fstat(descriptor)
    if not status.st_nlink:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if marker:
        os.stat(marker, dir_fd=descriptor, follow_symlinks=False)
    try:
        mount = mounts.of(descriptor)
    except OSError as error:
        raise disk.judged(error) from error
    kind = mount.kind if mount else ""
    told = [evidence(descriptor, mount) for evidence in _evidence_of(kind)]
    if marker and not any(told):
        told.append(f"marker {_text(marker)}")
    inode = 0 if mounts.invents_inodes(kind) or kind in ("cifs", "smb3") else status.st_ino
    return RootIdentity(", ".join(filter(None, told)), inode)


# Evidence: each function returns it in words, or an empty text where the filesystem gives none.


def _uuid(descriptor: int, _: Mount | None = None) -> str:
    answer = _asked(descriptor, _FS_IOC_GETFSUUID)
    return _worded("uuid", answer[1 : 1 + answer[0]] if answer else b"")


def _xfs_uuid(descriptor: int, _: Mount | None) -> str:
    return _worded("uuid", _asked(descriptor, _XFS_IOC_FSGEOMETRY)[64:80])


def _volume(descriptor: int, _: Mount | None) -> str:
    return _worded("volume", _asked(descriptor, _FAT_IOCTL_GET_VOLUME_ID))


def _fsid(descriptor: int, _: Mount | None) -> str:
    """`f_fsid`, for the kinds that make it of their UUID, and of a subvolume's number."""
    fsid = os.statvfs(descriptor).f_fsid
    return f"fsid {fsid:x}" if fsid else ""


def _born(descriptor: int, _: Mount | None = None) -> str:
    """When the directory was made: a new one may get the inode of the one before."""
    seconds, nanoseconds = _statx(descriptor, _STATX_BTIME, "qI", 80) or (0, 0)
    return f"born {seconds}.{nanoseconds:09}" if seconds or nanoseconds else ""


def _mount_id(descriptor: int) -> str:
    """Return the id of the mount that an open file is on, which no later mount has."""
    if told := _statx(descriptor, _STATX_MNT_ID_UNIQUE, "Q", 144):
        return str(told[0])
    # Linux before 6.8 has only a number that the next mount may get.
    mount = mounts.of(descriptor)
    return mount.number if mount else ""


def _statx(descriptor: int, asked: int, layout: str, offset: int) -> tuple[int, ...] | None:
    """Return what statx(2) tells of an open file; None where it is not known."""
    answer = ctypes.create_string_buffer(256)
    statx = getattr(_libc, "statx", None)
    if statx is None or statx(descriptor, b"", _AT_EMPTY_PATH, asked, answer):
        return None
    told = struct.unpack_from("I", answer)[0] & asked
    return struct.unpack_from(layout, answer, offset) if told else None


def _source(_: int, mount: Mount | None) -> str:
    """What is mounted, and which part of it; nothing where every mount has the same source."""
    if mount is None:
        return ""
    kind, source = mount.kind, _text(mount.source)
    # A device's number may be another's tomorrow; /dev/shm holds directories, not devices.
    is_device = source.startswith("/dev/") and not source.startswith("/dev/shm/")  # noqa: S108
    if is_device or source in ("", "none", "fuse", kind, kind[5:]):
        return ""
    part = "" if mount.part in (b"", b"/") else f" {_text(mount.part)}"
    return f"source {_text(os.fsencode(kind))} {source}{part}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _asked(descriptor: int, question: tuple[int, int]) -> bytes:
    """Return the answer to an ioctl; empty where the filesystem does not know it."""
    request, size = question
    try:
        return fcntl.ioctl(descriptor, request, bytes(size))
    except OSError:
        return b""


def _worded(word: str, number: bytes) -> str:
    """Zeros stand for a number that is not known."""
    return f"{word} {number.hex()}" if any(number) else ""


_LOCAL = (_uuid, _born)
_SERVED = (_source,)
#: What tells the roots of each type of filesystem apart, all of it together.
_EVIDENCE: Mapping[str, tuple[Callable[[int, Mount | None], str], ...]] = {
    "ext2": (_fsid, _born),
    "ext3": (_fsid, _born),
    "ext4": (_fsid, _born),
    "btrfs": (_fsid, _born),
    "zfs": (_fsid, _born),
    "xfs": (_xfs_uuid, _born),
    "tmpfs": _LOCAL,
    # Its directories are born anew when they are written to first.
    "overlay": _SERVED,
    "vfat": (_volume,),
    "msdos": (_volume,),
    "exfat": (_uuid,),
    "nfs": _SERVED,
    "nfs4": _SERVED,
    "cifs": _SERVED,
    "smb3": _SERVED,
    "virtiofs": _SERVED,
    "9p": _SERVED,
    "ceph": _SERVED,
    "fuse": _SERVED,
    "fuseblk": _SERVED,
}


def _evidence_of(kind: str) -> tuple[Callable[[int, Mount | None], str], ...]:
    return _SERVED if kind.startswith("fuse.") else _EVIDENCE.get(kind, _LOCAL)
