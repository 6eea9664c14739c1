"""The local disk: look up, list, fingerprint and hash files beneath a root. A leaf.

Paths are bytes as the kernel gives them, relative to a root and joined by `/`. No link in a path is
followed. No descriptor of a root stays open between calls, so that a disk can be unmounted at any
time and its absence be noticed.
"""

import enum
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeAlias

from syncd import mounts
from syncd.exceptions import FileChangedError, ShortageError, UnreadableError
from syncd.listing import LargeListings, LastListing, Names

CHUNK_BYTES = 1 << 20
#: The result of os.scandir for a descriptor.
Scandir: TypeAlias = "os._ScandirIterator[str]"  # noqa: SLF001 typeshed has no other name
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# With O_NONBLOCK, opening a FIFO does not wait for its other end.
CONTENT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
#: The database stores times as signed 64-bit nanoseconds: the years 1677 to 2262.
_EARLIEST_NS, _LATEST_NS = -(1 << 63), (1 << 63) - 1


class Fingerprint(NamedTuple):
    """Facts that identify a file's content without reading it; times in nanoseconds.

    The device number is no part of it, because it changes with each mount of the same disk. The
    inode and `ctime_ns` are 0 on filesystems that make them up. Times that the database cannot
    store are clamped.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Fingerprint":
        if mounts.invents(status.st_dev):
            return cls(0, status.st_size, _clamped(status.st_mtime_ns), 0)
        # Some filesystems use inode numbers beyond SQLite's signed 64 bits.
        inode = (status.st_ino + (1 << 63)) % (1 << 64) - (1 << 63)
        mtime_ns, ctime_ns = status.st_mtime_ns, status.st_ctime_ns
        if not _EARLIEST_NS <= mtime_ns <= _LATEST_NS or ctime_ns > _LATEST_NS:
            mtime_ns, ctime_ns = _clamped(mtime_ns), _clamped(ctime_ns)
        return cls(inode, status.st_size, mtime_ns, ctime_ns)


def _clamped(time_ns: int) -> int:
    return min(max(time_ns, _EARLIEST_NS), _LATEST_NS)


class Found(enum.StrEnum):
    """The kinds of outcome of a look at one path."""

    #: a regular file, with its fingerprint
    FILE = "file"
    #: something that is never uploaded: a link, anything beneath one, a device, socket or FIFO
    OTHER = "other"
    #: proven absent: the complete listing of its nearest existing ancestor lacks the name, or the
    #: name is a directory's
    ABSENT = "absent"
    #: unknown because of an error
    UNREADABLE = "unreadable"


class Sight(NamedTuple):
    """The outcome of a look at one path."""

    found: Found
    fingerprint: Fingerprint | None = None
    #: why it cannot be read or is never uploaded, if there is more to say
    error: str = ""
    #: whether the fingerprint's times are real and this machine's
    own_clock: bool = True


def _open(path: bytes, flags: int, *, dir_fd: int | None = None) -> int:
    """Open as os.open does; raise ShortageError when the failure is not the file's."""
    try:
        return os.open(path, flags, dir_fd=dir_fd)
    except OSError as error:
        raise judged(error) from error


def entries_of(descriptor: int) -> "Scandir":
    """List an open directory as os.scandir does, with `_open`'s ShortageError."""
    try:
        return os.scandir(descriptor)
    except OSError as error:
        raise judged(error) from error


def judged(error: OSError) -> Exception:
    """Return the error itself, or a ShortageError if it says nothing about the file."""
    if error.errno in _SHORT:
        return ShortageError(
            f"{error.strerror}: raise the limit of this process (LimitNOFILE= of its unit, "
            "ulimit -n), or the machine's"
        )
    return error


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the parent of `path` (empty for the root) and its last segment."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def open_directory(path: bytes, *, beneath: int | None = None) -> int:
    """Open a directory for listing: a root, which may be a link, or one `beneath` an open one."""
    return _open(path, LISTING & ~os.O_NOFOLLOW if beneath is None else LISTING, dir_fd=beneath)


@contextmanager
def directory(root: bytes, path: bytes = b"") -> Iterator[int]:
    """Open the directory `path` beneath `root` for listing, and yield its descriptor.

    Raise the OSError of the first segment that cannot be entered, such as a link.
    """
    descriptor = _descend(root, path, LISTING)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _descend(root: bytes, path: bytes, flags: int) -> int:
    """Open the directory `path` beneath `root`, segment by segment."""
    descriptor = _open(root, flags & ~os.O_NOFOLLOW)
    try:
        for segment in filter(None, path.split(b"/")):
            above, descriptor = descriptor, _open(segment, flags, dir_fd=descriptor)
            os.close(above)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def open_beneath(root: bytes, path: bytes) -> Iterator[int]:
    """Open the regular file `path` beneath `root` for reading, and yield its descriptor.

    Raise FileChangedError when no regular file of that name exists any more, and UnreadableError
    when it cannot be opened.
    """
    above, name = split(path)
    try:
        # Entering a directory takes no permission to list it.
        parent = _descend(root, above, _DIRECTORY)
        try:
            descriptor = _open(name, CONTENT, dir_fd=parent)
        finally:
            os.close(parent)
    except OSError as error:
        if error.errno in _ABSENT:
            raise FileChangedError(f"{os.fsdecode(path)} is no longer there") from error
        # open() of a socket fails with ENXIO.
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
    """Look at each path beneath `root`; open each directory once, and list it at most once.

    Nothing on the disk makes this raise. ABSENT is proof: the nearest existing ancestor was listed
    to its end and lacks the name.
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
            yield path, _absent_if(name not in names)
            continue
        if mounts.folds_case(status.st_dev) and (names is None or name not in names):
            # List again after the file was found: an older listing may predate it.
            names = Names(_names(descriptor))
            if name not in names:
                # The file has this name only in another case.
                yield path, Sight(Found.ABSENT)
                continue
        yield path, _sight(status)


def _sight(status: os.stat_result) -> Sight:
    if stat.S_ISREG(status.st_mode):
        own_clock = mounts.has_own_clock(status.st_dev)
        return Sight(Found.FILE, Fingerprint.of(status), own_clock=own_clock)
    # If a directory has taken a file's place, the file is absent.
    return Sight(Found.ABSENT if stat.S_ISDIR(status.st_mode) else Found.OTHER)


def _without_parent(root: bytes, listing: LastListing, parent: bytes, error: OSError) -> Sight:
    """Return the sight of the files in a directory that could not be opened."""
    while error.errno in _ABSENT and parent:
        above, name = split(parent)
        try:
            with directory(root, above) as descriptor:
                return _without_directory(listing, descriptor, above, name)
        except OSError as further:
            parent, error = above, further
    return Sight(Found.UNREADABLE, error=str(error.strerror))


def _without_directory(listing: LastListing, descriptor: int, above: bytes, name: bytes) -> Sight:
    """Return the sight of what was in the directory `name` of an open directory."""
    try:
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return _absent_if(not listing.has(descriptor, above, name))
    if stat.S_ISLNK(status.st_mode):
        # Links are not followed, and the target may hold all that was here.
        return Sight(Found.OTHER, error="beneath a link")
    # Only a directory holds files; if it is one, it appeared meanwhile.
    return _absent_if(not stat.S_ISDIR(status.st_mode))


def _absent_if(absent: bool) -> Sight:
    """Return ABSENT, or UNREADABLE when stat and the listing contradict each other."""
    return Sight(Found.ABSENT) if absent else Sight(Found.UNREADABLE, error="unclear")


def read_small(directory_descriptor: int, name: bytes, limit: int) -> bytes | None:
    """Return the content of the regular file `name` in an open directory; None if there is none.

    Raise UnreadableError when it is not a regular file, is longer than `limit` bytes, or cannot be
    read. Return None when the directory lets nothing in it be opened.
    """
    try:
        descriptor = _open(name, CONTENT, dir_fd=directory_descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.EACCES and _cannot_be_searched(directory_descriptor):
            return None
        # With O_NOFOLLOW, open() of a link fails with ELOOP; of a socket, with ENXIO.
        irregular = error.errno in (errno.ELOOP, errno.ENXIO)
        reason = "it is not a regular file" if irregular else str(error.strerror)
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
    """Return the hex SHA-256 of the first `size` bytes; None if `stopped` returned true meanwhile.

    `progress` is called with the number of bytes read so far. Raise FileChangedError when the file
    is shorter, and UnreadableError when the disk fails.
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
def opened(
    path: bytes | str | os.PathLike[str], flags: int, *, dir_fd: int | None = None
) -> Iterator[int]:
    """Open as os.open does, and close the descriptor at the end."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def short_path(directory: str | os.PathLike[str], name: str) -> Iterator[str]:
    """Yield a short path of `name` in `directory`, for calls that limit its length."""
    with opened(directory, os.O_PATH | os.O_DIRECTORY) as descriptor:
        yield f"/proc/self/fd/{descriptor}/{name}"


def write_private(path: str | os.PathLike[str], text: str, *, durable: bool = False) -> None:
    """Replace `path` atomically by a file of mode 0600 that contains `text`.

    With `durable`, the new file survives a power cut.
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
    """Overwrite the file at `path` in place with `content`, and the rest of it with blanks.

    This needs no free space if the file is long enough.
    """
    with opened(path, os.O_WRONLY | os.O_NOFOLLOW) as descriptor:
        os.pwrite(descriptor, content.ljust(os.fstat(descriptor).st_size), 0)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Wait until the names in the directory `path` are durable."""
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)
