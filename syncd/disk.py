"""The local disk: look, list, open beneath a root without following links, fingerprint, hash.

A leaf: it knows no table, no folder's configuration and no network. Paths are bytes as the kernel
gives them, relative to a root and joined by `/`. No descriptor of a root is kept open between
calls, so that a mount can always be taken away, and its absence be seen.
"""

import enum
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from syncd import mounts
from syncd.exceptions import FileChangedError, ShortageError, UnreadableError
from syncd.listing import LargeListings, LastListing, Names

CHUNK_BYTES = 1 << 20
#: What os.scandir of a descriptor returns.
Scandir: TypeAlias = "os._ScandirIterator[str]"  # noqa: SLF001 typeshed has no other name
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for its other end.
_CONTENT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
#: The table holds times as signed 64-bit nanoseconds: the years 1677 to 2262.
_EARLIEST_NS, _LATEST_NS = -(1 << 63), (1 << 63) - 1


class Fingerprint(NamedTuple):
    """What tells a file's content apart without reading it; times in nanoseconds.

    The device number is left out on purpose: it changes with each mount of the same disk. Where the
    filesystem makes up inodes and the times of changes, both are 0. Times outside of what the table
    can hold are moved to its edge.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Fingerprint":
        if mounts.invents(status.st_dev):
            return cls(0, status.st_size, _clamped(status.st_mtime_ns), 0)
        # Some filesystems number beyond what SQLite's signed 64 bits hold.
        inode = (status.st_ino + (1 << 63)) % (1 << 64) - (1 << 63)
        changed_ns, ctime_ns = status.st_mtime_ns, status.st_ctime_ns
        if not _EARLIEST_NS <= changed_ns <= _LATEST_NS or ctime_ns > _LATEST_NS:
            changed_ns, ctime_ns = _clamped(changed_ns), _clamped(ctime_ns)
        return cls(inode, status.st_size, changed_ns, ctime_ns)


def _clamped(time_ns: int) -> int:
    return min(max(time_ns, _EARLIEST_NS), _LATEST_NS)


class Found(enum.StrEnum):
    """What a look at one path found."""

    #: a regular file, with its fingerprint
    FILE = "file"
    #: something that is never uploaded: a link or what is beneath one, a device, socket or FIFO
    OTHER = "other"
    #: proven absent: its nearest existing ancestor was listed to the end and has no such name,
    #: or has a directory of that name
    ABSENT = "absent"
    #: nothing can be said: an error on the way
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Sight:
    """The outcome of a look at one path."""

    found: Found
    fingerprint: Fingerprint | None = None
    #: why it cannot be read, or is never uploaded, where there is more to say
    error: str = ""
    #: whether the fingerprint's times are this machine's, and real
    own_clock: bool = True


def _open(path: bytes, flags: int, *, dir_fd: int | None = None) -> int:
    """Open as os.open does; ShortageError where it is not for the file that it fails."""
    try:
        return os.open(path, flags, dir_fd=dir_fd)
    except OSError as error:
        raise judged(error) from error


def entries_of(descriptor: int) -> "Scandir":
    """List an open directory as os.scandir does; ShortageError as above."""
    try:
        return os.scandir(descriptor)
    except OSError as error:
        raise judged(error) from error


def judged(error: OSError) -> Exception:
    """Return the error itself, or a ShortageError where it says nothing of the file."""
    if error.errno in _SHORT:
        return ShortageError(
            f"{error.strerror}: raise the limit of this process (LimitNOFILE= of its unit, "
            "ulimit -n), or the machine's"
        )
    return error


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return `path`'s parent (empty for the root itself) and its last segment."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def open_directory(path: bytes, *, beneath: int | None = None) -> int:
    """Open a directory for listing: a root, or one `beneath` an open one that is no link; OSError.

    ShortageError as above.
    """
    if beneath is None:
        return _open(path, _LISTING & ~os.O_NOFOLLOW)
    return _open(path, _LISTING, dir_fd=beneath)


@contextmanager
def directory(root: bytes, path: bytes = b"") -> Iterator[int]:
    """Open the directory `path` beneath `root` for listing; no segment may be a link.

    Yields a descriptor. OSError of the first segment that cannot be entered.
    """
    descriptor = open_directory(root)
    try:
        for segment in filter(None, path.split(b"/")):
            below = open_directory(segment, beneath=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_beneath(root: bytes, path: bytes) -> Iterator[int]:
    """Open the regular file `path` beneath `root` for reading, following no link on the way.

    Yields a descriptor. FileChangedError where no regular file of that name is there any more,
    UnreadableError where it cannot be said or read.
    """
    segments = path.split(b"/")
    try:
        parent = _open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            for segment in segments[:-1]:
                below = _open(segment, _DIRECTORY, dir_fd=parent)
                os.close(parent)
                parent = below
            descriptor = _open(segments[-1], _CONTENT, dir_fd=parent)
        finally:
            os.close(parent)
    except OSError as error:
        if error.errno in _ABSENT:
            raise FileChangedError(f"{os.fsdecode(path)} is no longer there") from error
        # ENXIO is what a socket answers to open().
        if error.errno == errno.ENXIO:
            raise FileChangedError(f"{os.fsdecode(path)} is not a regular file") from error
        raise UnreadableError(f"cannot open: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileChangedError(f"{os.fsdecode(path)} is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def look(root: bytes, paths: Iterable[bytes]) -> dict[bytes, Sight]:
    """Look at each path beneath `root`; each directory is opened once, and listed at most once.

    Never raises for what is on the disk. ABSENT is evidence: it is only said when the nearest
    existing ancestor could be listed to its end and the name is not in it.
    """
    by_parent: dict[bytes, list[bytes]] = {}
    for path in paths:
        by_parent.setdefault(split(path)[0], []).append(path)
    sights: dict[bytes, Sight] = {}
    above = LastListing(_listings)
    for parent, children in by_parent.items():
        try:
            with directory(root, parent) as descriptor:
                sights.update(_look_in(descriptor, children))
        except OSError as error:
            sights.update(dict.fromkeys(children, _without_parent(root, above, parent, error)))
    return sights


def _names(descriptor: int) -> Iterator[bytes]:
    with entries_of(descriptor) as entries:
        for entry in entries:
            yield os.fsencode(entry.name)


_listings = LargeListings(_names)


def _look_in(descriptor: int, children: list[bytes]) -> Iterator[tuple[bytes, Sight]]:
    names: Names | None = None
    for path in children:
        name = split(path)[1]
        try:
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.ENOENT:
                yield path, Sight(Found.UNREADABLE, error=str(error.strerror))
                continue
            if names is None:
                names = _listings.names(descriptor)
            # In the listing though stat says no such file: believe neither.
            absent = name not in names
            yield path, Sight(Found.ABSENT) if absent else Sight(Found.UNREADABLE, error="unclear")
            continue
        if mounts.folds_case(status.st_dev) and (names is None or name not in names):
            # Listed after it was found there: an older listing may be of before it was made.
            names = Names(_names(descriptor))
            if name not in names:
                # It is there by another name, in another case.
                yield path, Sight(Found.ABSENT)
                continue
        yield path, _sight(status)


def _sight(status: os.stat_result) -> Sight:
    if stat.S_ISREG(status.st_mode):
        own_clock = mounts.has_own_clock(status.st_dev)
        return Sight(Found.FILE, Fingerprint.of(status), own_clock=own_clock)
    # Where a file was and a directory is now, the file is gone.
    return Sight(Found.ABSENT if stat.S_ISDIR(status.st_mode) else Found.OTHER)


def _without_parent(root: bytes, listing: LastListing, parent: bytes, error: OSError) -> Sight:
    """Say what follows for the files of a directory that could not be opened."""
    while error.errno in _ABSENT and parent:
        above, name = split(parent)
        try:
            with directory(root, above) as descriptor:
                return _without_directory(listing, descriptor, above, name)
        except OSError as further:
            parent, error = above, further
    return Sight(Found.UNREADABLE, error=str(error.strerror))


def _without_directory(listing: LastListing, descriptor: int, above: bytes, name: bytes) -> Sight:
    """Say what follows for what was in the directory `name` of an open one; OSError as stat has."""
    try:
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        gone = not listing.has(descriptor, above, name)
    else:
        if stat.S_ISLNK(status.st_mode):
            # What is behind it is not followed, and may well be all that was here.
            return Sight(Found.OTHER, error="beneath a link")
        # Something that holds no files, or it was swapped meanwhile.
        gone = not stat.S_ISDIR(status.st_mode)
    return Sight(Found.ABSENT) if gone else Sight(Found.UNREADABLE, error="unclear")


def read_small(directory_descriptor: int, name: bytes, limit: int) -> bytes | None:
    """Return the content of the regular file `name` of an open directory; None where there is none.

    UnreadableError for anything that is no regular file, is longer than `limit` bytes, or cannot
    be read. In a directory in which nothing can be opened there is none.
    """
    try:
        descriptor = _open(name, _CONTENT, dir_fd=directory_descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EACCES and _cannot_be_searched(directory_descriptor):
            return None
        # ELOOP is what O_NOFOLLOW answers to a link, ENXIO what a socket does.
        odd = error.errno in (errno.ELOOP, errno.ENXIO)
        reason = "it is not a regular file" if odd else str(error.strerror)
        raise UnreadableError(reason) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("it is not a regular file")
        if status.st_size > limit:
            raise UnreadableError(f"it is larger than {limit} bytes")
        return os.read(descriptor, limit)
    except OSError as error:
        raise UnreadableError(str(error.strerror)) from error
    finally:
        os.close(descriptor)


def _cannot_be_searched(directory_descriptor: int) -> bool:
    try:
        os.stat(b".", dir_fd=directory_descriptor)
    except PermissionError:
        return True
    return False


def sha256(
    descriptor: int,
    size: int,
    *,
    stopped: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _: None,
) -> str | None:
    """Return the hex SHA-256 of the first `size` bytes; None if `stopped` said so on the way.

    `progress` is told how many bytes were read so far.
    FileChangedError where the file is shorter; UnreadableError where the disk fails.
    """
    digest = hashlib.sha256()
    offset = 0
    while offset < size:
        if stopped():
            return None
        try:
            chunk = os.pread(descriptor, min(CHUNK_BYTES, size - offset), offset)
        except OSError as error:
            raise UnreadableError(f"cannot read: {error.strerror}") from error
        if not chunk:
            raise FileChangedError(f"the file ended after {offset} of {size} bytes")
        digest.update(chunk)
        offset += len(chunk)
        progress(offset)
    return digest.hexdigest()


def fingerprint(descriptor: int) -> Fingerprint:
    """Return the fingerprint of an open file."""
    return Fingerprint.of(os.fstat(descriptor))


@contextmanager
def short_path(directory: str | os.PathLike[str], name: str) -> Iterator[str]:
    """Yield a short path of `name` in `directory`, for what takes no long one; OSError."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def write_private(path: str | os.PathLike[str], text: str, *, durable: bool = False) -> None:
    """Replace `path` by a file of mode 0600 holding `text`, so that a reader sees old or new.

    With `durable` it is the new one after a power cut, too.
    """
    draft = f"{os.fspath(path)}.new"
    with suppress(FileNotFoundError):
        os.unlink(draft)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(draft, path)
    if durable:
        sync_directory(os.path.dirname(os.path.abspath(path)))


def overwrite(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` over the beginning of the file at `path`, blanks over the rest; OSError.

    Where the file was as long before, this takes no room on the disk.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(descriptor, content.ljust(os.fstat(descriptor).st_size), 0)
    finally:
        os.close(descriptor)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Wait until the names in the directory `path` are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
