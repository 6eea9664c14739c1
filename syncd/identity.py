"""Recognizes the directory of a watch folder's root through remounts and restarts. A leaf.

Device numbers change with each mount, so an identity contains none, and no `f_fsid` that is derived
from one. `filesystems` lists the evidence that identifies a directory on each type of filesystem.
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

from syncd import disk, filesystems, mounts
from syncd.mounts import Mount

_libc = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH, _STATX_BTIME, _STATX_MNT_ID_UNIQUE = 0x1000, 0x800, 0x4000
#: Mounts are compared only within one process: what happened while none ran is unknown anyway.
_PROCESS = uuid.uuid4().hex
# From linux/fs.h, xfs/xfs_fs.h and linux/msdos_fs.h; the last number is the answer's size in bytes.
_FS_IOC_GETFSUUID = (0x80111500, 17)
_XFS_IOC_FSGEOMETRY = (0x80705864, 112)
_FAT_IOCTL_GET_VOLUME_ID = (0x80047213, 4)


class RootIdentity(NamedTuple):
    """Evidence that distinguishes a directory from all others.

    `filesystem` is the evidence from its filesystem, in words; empty when nothing is stable.
    `inode` is 0 when it may change with the next mount.
    """

    filesystem: str
    inode: int = 0

    @property
    def is_stable(self) -> bool:
        """Whether a different directory in its place would be noticed."""
        return bool(self.filesystem)

    def is_same(self, known: "RootIdentity") -> bool:
        """Return whether this is the `known` directory, perhaps recorded by version 0.1.0."""
        if not known.is_of_old:
            return self == known
        fsid = f"fsid {int(known.filesystem):x}"
        return (self.filesystem.partition(",")[0], self.inode) == (fsid, known.inode)

    @property
    def is_of_old(self) -> bool:
        """Whether version 0.1.0 recorded it: a bare `f_fsid`, whatever that is derived from."""
        return self.filesystem.lstrip("-").isdecimal()


@dataclass(frozen=True, slots=True)
class View:
    """A root and its parts, which are the directories beneath it where something is mounted.

    `parts` maps the path of each, relative to the root (`b""`), to its identity; to None when it
    cannot be listed, with the reason in `errors`.
    """

    parts: Mapping[bytes, RootIdentity | None]
    #: the parts that are mount points
    mounted: frozenset[bytes] = frozenset()
    errors: Mapping[bytes, str] = field(default_factory=dict)
    #: the mount of each part, which differs after a remount of the same disk
    mounts: Mapping[bytes, str] = field(default_factory=dict)
    #: how often the mounts had changed before
    changes: int = field(default=0, compare=False)


def part_of(parts: Collection[bytes], path: bytes) -> bytes:
    """Return the innermost of `parts` that contains `path`; the root contains every path."""
    while path and path not in parts:
        path = path.rpartition(b"/")[0]
    return path


def view(root: bytes, marker: bytes = b"", known: Iterable[bytes] = ()) -> View:
    """Return the view of the directory at `root`, whose links are resolved anew.

    A `marker`, if any, must be in the root. The `known` parts are included, mounted or not.
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
            if mount is not None and mount.traits.is_served:
                # Opening it could hang for ever.
                parts[part], on[part] = RootIdentity(_source(-1, mount)), mount.number
                continue
            with disk.directory(os.path.join(root, part)) as descriptor:  # noqa: PTH118
                parts[part] = _identified(descriptor, b"" if part else marker)
                on[part] = _mount_id(descriptor)
        except OSError as error:
            parts[part], errors[part] = None, str(error.strerror)
    on = {part: f"{_PROCESS} {number}" for part, number in on.items()}
    return View(parts, frozenset(beneath), errors, on, changes)


#: The last full view of `glance` and the root's stamp at that time, by root and marker.
_looked: dict[tuple[bytes, bytes], tuple[tuple[int, ...], View]] = {}


def glance(root: bytes, marker: bytes = b"", known: Collection[bytes] = ()) -> View:
    """Return what `view` does, by one call of stat(2) if the root is as it was last time.

    A different directory in its place has another inode or change time, unless the mount table
    changed as well. Roots with parts, or with unreliable times or inodes, get a full view.
    """
    stamp = _stamp(root, marker)
    looked = _looked.get((root, marker))
    if looked is not None and looked[0] == stamp and not any(known):
        return looked[1]
    seen = view(root, marker, known)
    is_whole = len(seen.parts) == 1 and not seen.errors
    if stamp is not None and is_whole and stamp == _stamp(root, marker):
        _looked[root, marker] = stamp, seen
    return seen


def _stamp(root: bytes, marker: bytes) -> tuple[int, ...] | None:
    """Return what identifies a root directory until the mounts change; None if nothing does."""
    try:
        status = os.stat(root)  # noqa: PTH116
        if marker:
            os.lstat(os.path.join(root, marker))  # noqa: PTH118
        # A snapshot may take over all that stat(2) tells of the btrfs subvolume that it replaces.
        changes, traits = mounts.standing(status.st_dev)
        if status.st_nlink and traits is not None and traits.has_own_clock:
            return changes, status.st_dev, status.st_ino, status.st_ctime_ns
    except OSError:
        pass
    return None


def is_remounted(known: str, seen: str) -> bool:
    """Return whether a part changed from the mount `known` to `seen` within one process."""
    return known != seen and known.partition(" ")[0] == seen.partition(" ")[0]


def identify(path: bytes, marker: bytes = b"") -> RootIdentity:
    """Return the identity of the directory at `path`, whose links are resolved.

    Raise OSError when there is none, when it was removed beneath its mount, or when the `marker`
    is not in it.
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
    found = [evidence(descriptor, mount) for evidence in _evidence_of(kind)]
    if marker and not any(found):
        found.append(f"marker {_text(marker)}")
    inode = 0 if filesystems.traits(kind).renumbers_roots else status.st_ino
    return RootIdentity(", ".join(filter(None, found)), inode)


# Evidence: each function returns it in words, or an empty text when the filesystem has none.


def _uuid(descriptor: int, _: Mount | None) -> str:
    answer = _ioctl(descriptor, _FS_IOC_GETFSUUID)
    return _in_hex("uuid", answer[1 : 1 + answer[0]] if answer else b"")


def _xfs_uuid(descriptor: int, _: Mount | None) -> str:
    return _in_hex("uuid", _ioctl(descriptor, _XFS_IOC_FSGEOMETRY)[64:80])


def _volume(descriptor: int, _: Mount | None) -> str:
    return _in_hex("volume", _ioctl(descriptor, _FAT_IOCTL_GET_VOLUME_ID))


def _fsid(descriptor: int, _: Mount | None) -> str:
    """Return `f_fsid`, for types that derive it from their UUID and a subvolume's number."""
    fsid = os.statvfs(descriptor).f_fsid
    return f"fsid {fsid:x}" if fsid else ""


def _birth(descriptor: int, _: Mount | None) -> str:
    """Return when the directory was made, because a new one may reuse the inode of an old one."""
    seconds, nanoseconds = _statx(descriptor, _STATX_BTIME, "qI", 80) or (0, 0)
    return f"born {seconds}.{nanoseconds:09}" if seconds or nanoseconds else ""


def _mount_id(descriptor: int) -> str:
    """Return the id of the mount that an open file is on; no later mount has the same id."""
    if found := _statx(descriptor, _STATX_MNT_ID_UNIQUE, "Q", 144):
        return str(found[0])
    # Linux before 6.8 has only a number that the next mount may reuse.
    mount = mounts.of(descriptor)
    return mount.number if mount else ""


def _statx(descriptor: int, asked: int, layout: str, offset: int) -> tuple[int, ...] | None:
    """Return fields of an open file by statx(2); None when the kernel does not know them."""
    answer = ctypes.create_string_buffer(256)
    statx = getattr(_libc, "statx", None)
    if statx is None or statx(descriptor, b"", _AT_EMPTY_PATH, asked, answer):
        return None
    is_known = struct.unpack_from("I", answer)[0] & asked
    return struct.unpack_from(layout, answer, offset) if is_known else None


def _source(_: int, mount: Mount | None) -> str:
    """Return what is mounted, and which part of it; empty when every mount has the same source."""
    if mount is None:
        return ""
    kind, source = mount.kind, _text(mount.source)
    # A device's name may be another's tomorrow; /dev/shm contains directories and no devices.
    is_device = source.startswith("/dev/") and not source.startswith("/dev/shm/")  # noqa: S108
    if is_device or source in ("", "none", "fuse", kind, kind[5:]):
        return ""
    part = "" if mount.part in (b"", b"/") else f" {_text(mount.part)}"
    return f"source {_text(os.fsencode(kind))} {source}{part}"


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _ioctl(descriptor: int, request_and_size: tuple[int, int]) -> bytes:
    """Return the answer to an ioctl; empty when the filesystem does not know it."""
    request, size = request_and_size
    try:
        return fcntl.ioctl(descriptor, request, bytes(size))
    except OSError:
        return b""


def _in_hex(word: str, number: bytes) -> str:
    """Return `number` in words; empty when it is all zeros, which stands for unknown."""
    return f"{word} {number.hex()}" if any(number) else ""


_EVIDENCE: Mapping[str, Callable[[int, Mount | None], str]] = {
    "uuid": _uuid,
    "xfs_uuid": _xfs_uuid,
    "volume": _volume,
    "fsid": _fsid,
    "birth": _birth,
    "source": _source,
}


def _evidence_of(kind: str) -> list[Callable[[int, Mount | None], str]]:
    return [_EVIDENCE[name] for name in filesystems.traits(kind).evidence]
