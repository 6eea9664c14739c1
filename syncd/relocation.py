"""Takes a file out of a watch folder: sets it aside, then deletes or moves it. A leaf, like `disk`.

The kernel unlinks and renames by name, and a name can be swapped for another file at any moment.
So a file is first renamed into a private directory beside it, where nobody else can reach it by
name, and judged there. A file that turns out to be another one, or changed, goes back.

Nothing that stands at a target is overwritten, and a cut at any point leaves the content in the
private directory, in the target, or in both: done again, it comes to the same end.
"""

import ctypes
import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count

from syncd import disk, mounts
from syncd.exceptions import FileChangedError

_NOREPLACE = 1
#: What a filesystem answers that cannot rename without replacing.
_UNKNOWN_FLAG = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTENT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Directories that are made in a target are never writable for others than their owner.
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644
_ASIDE = re.compile(rb"\.syncd-[0-9a-f]{16}\.aside")
_libc = ctypes.CDLL(None, use_errno=True)


def new_aside() -> str:
    """Return a name for a private directory that nobody can guess."""
    return f".syncd-{secrets.token_hex(8)}.aside"


def is_aside(name: bytes) -> bool:
    """Say whether `name` is that of a private directory: scans leave it out."""
    return _ASIDE.fullmatch(name) is not None


def obstacle(root: bytes, target: bytes | None, mounted_on: bytes | None) -> str:
    """Return why no file beneath `root` can be taken away, to `target` if any; empty if it can.

    `mounted_on` is the mount point on which the target was before, None where that is not known.
    """
    with suppress(OSError):
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            return f"{os.fsdecode(root)} is mounted read-only"
    if target is None:
        return ""
    there = os.fsdecode(target)
    if len(mounted_on or b"") > len(mount_point(target)):
        return (
            f"nothing is mounted at {os.fsdecode(mounted_on or b'')} any more: mount it, "
            "or set another move_to"
        )
    try:
        if os.statvfs(_nearest(target)).f_flag & os.ST_RDONLY:
            return f"move_to = {there} is mounted read-only"
    except OSError as error:
        return f"move_to = {there}: {error.strerror}"
    if not os.access(_nearest(target), os.W_OK | os.X_OK, effective_ids=True):
        return f"user {os.geteuid()} may not write to move_to = {there}"
    return ""


def mount_point(target: bytes) -> bytes:
    """Return the mount point that `target` is on, or would be on if it were made."""
    return mounts.mount_point(_nearest(target))


def _nearest(path: bytes) -> bytes:
    """Return `path`, or the nearest directory above it that is there."""
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def is_writable(root: bytes, path: bytes) -> bool:
    """Say whether this process may take `path` out of its directory; OSError where it is gone."""
    with disk.directory(root, disk.split(path)[0]) as parent:
        return os.access(b".", os.W_OK | os.X_OK, dir_fd=parent, effective_ids=True)


def has_room(root: bytes, target: bytes, size: int) -> bool:
    """Say whether `target` has room for a copy of `size` bytes, or needs none; it may be gone."""
    try:
        there = os.stat(_nearest(target))
        if there.st_dev == os.stat(root).st_dev:
            return True
        free = os.statvfs(_nearest(target))
        return free.f_bavail * free.f_frsize > size
    except OSError:
        return True


def set_aside(root: bytes, path: bytes, descriptor: int, aside: str) -> None:
    """Move the file `path`, open as `descriptor`, into the private directory `aside` beside it.

    FileChangedError where another file stands there by now: that one stays. OSError where it
    cannot be moved: then it is where it was.
    """
    parent, name = disk.split(path)
    with disk.directory(root, parent) as above:
        with suppress(FileExistsError):
            os.mkdir(aside, 0o700, dir_fd=above)
        try:
            inside = _private(above, aside)
            try:
                os.rename(name, name, src_dir_fd=above, dst_dir_fd=inside)
                there = os.stat(name, dir_fd=inside, follow_symlinks=False)
                if not os.path.samestat(there, os.fstat(descriptor)):
                    _put(inside, name, above, name)
                    raise FileChangedError(f"{os.fsdecode(name)} was replaced")
            finally:
                os.close(inside)
        except FileNotFoundError as error:
            raise FileChangedError(f"{os.fsdecode(name)} is no longer there") from error
        finally:
            with suppress(OSError):
                # Only where nothing is in it.
                os.rmdir(aside, dir_fd=above)


def _private(above: int, aside: str) -> int:
    """Open a private directory; OSError where it is somebody else's."""
    inside = os.open(aside, _DIRECTORY, dir_fd=above)
    status = os.fstat(inside)
    if status.st_uid != os.geteuid() and mounts.has_own_clock(status.st_dev):
        os.close(inside)
        raise PermissionError(errno.EPERM, f"{aside} is another user's")
    return inside


@dataclass(frozen=True, slots=True)
class Aside:
    """A file in its private directory: `above` is the directory it comes from."""

    above: int
    inside: int
    #: the file, open for reading
    descriptor: int
    parent: bytes
    name: bytes

    def is_whole(self, size: int, digest: str, stopped: Callable[[], bool]) -> bool | None:
        """Say whether it has exactly that content; None if `stopped` said so on the way."""
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        found = disk.sha256(self.descriptor, size, stopped=stopped)
        return None if found is None else found == digest

    def give_back(self) -> bytes:
        """Put it back where it was, under a new name if its own is taken; return the path."""
        new = _put(self.inside, self.name, self.above, self.name)
        return _joined(self.parent, new)

    def delete(self) -> None:
        """Delete it; OSError."""
        os.unlink(self.name, dir_fd=self.inside)

    def is_beside(self, target: bytes) -> bool:
        """Say whether a move to `target` is a rename: then whoever writes to it goes on."""
        with suppress(OSError):
            return os.stat(_nearest(target)).st_dev == os.fstat(self.inside).st_dev
        return False

    def move(self, target: bytes, size: int, digest: str) -> bytes:
        """Move it to its path beneath `target`; return the path there.

        Where the name is taken, `-2`, `-3`, ... is put before its ending; where the very same
        content has it, the file is just deleted here. OSError, or FileChangedError where its
        content is not what `digest` says: then it is where it was.
        """
        with _made(target, self.parent) as there:
            content = (size, digest)
            try:
                new = _put(self.inside, self.name, there, self.name, content)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                draft = _copy(self.descriptor, there, digest)
                try:
                    new = _put(there, draft, there, self.name, content)
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(draft, dir_fd=there)
                os.fsync(there)
                self.delete()
            with suppress(OSError):
                # It is moved, whether or not that can be made durable.
                os.fsync(there)
            return _joined(self.parent, new)


@contextmanager
def opened(root: bytes, path: bytes, aside: str) -> Iterator[Aside]:
    """Open what was set aside; the private directory is removed afterwards, once it is empty.

    FileNotFoundError where there is none, or nothing in it. OSError where it cannot be read.
    """
    parent, name = disk.split(path)
    with disk.directory(root, parent) as above:
        inside = _private(above, aside)
        try:
            descriptor = os.open(name, _CONTENT, dir_fd=inside)
            try:
                yield Aside(above, inside, descriptor, parent, name)
            finally:
                os.close(descriptor)
        finally:
            os.close(inside)
            with suppress(OSError):
                os.rmdir(aside, dir_fd=above)
                os.fsync(above)


def _joined(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def _put(
    source: int, name: bytes, there: int, wanted: bytes, content: tuple[int, str] | None = None
) -> bytes:
    """Rename to `wanted` or the next name that is free, and return it.

    A name that has `content`, a size and a SHA-256, counts as done: then `name` is deleted.
    """
    for new in _names(wanted):
        if content is not None and _holds(there, new, *content):
            os.unlink(name, dir_fd=source)
            return new
        with suppress(FileExistsError):
            _rename(source, name, there, new)
            return new
    raise AssertionError(wanted)


def _rename(source: int, name: bytes, target: int, new: bytes) -> None:
    """Rename without replacing anything; FileExistsError, or another OSError."""
    try:
        _rename_noreplace(source, name, target, new)
    except OSError as error:
        if error.errno not in _UNKNOWN_FLAG:
            raise
        # What is replaced is then a file of our own, made just now under a name that was free.
        os.close(os.open(new, _NEW, 0o600, dir_fd=target))
        try:
            os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
        except OSError:
            os.unlink(new, dir_fd=target)
            raise


def _rename_noreplace(source: int, name: bytes, target: int, new: bytes) -> None:
    try:
        failed = _libc.renameat2(source, name, target, new, _NOREPLACE)
    except AttributeError:
        raise OSError(errno.ENOSYS, "renameat2 is not there") from None
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _copy(descriptor: int, there: int, digest: str) -> bytes:
    """Write the content to a draft beside its target, read it back, and return its name."""
    status = os.fstat(descriptor)
    name = f".syncd-{secrets.token_hex(8)}.part".encode()
    draft = os.open(name, _NEW, 0o600, dir_fd=there)
    try:
        offset = 0
        while chunk := os.pread(descriptor, disk.CHUNK_BYTES, offset):
            offset += len(chunk)
            while chunk:
                chunk = chunk[os.write(draft, chunk) :]
        with suppress(PermissionError):
            os.fchmod(draft, status.st_mode & _FILE_MODE)
        os.utime(draft, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(draft)
        # Read from the disk, as far as it can be asked for, and not from the cache.
        os.posix_fadvise(draft, 0, 0, os.POSIX_FADV_DONTNEED)
        _require(draft, digest)
    except BaseException:
        os.unlink(name, dir_fd=there)
        raise
    finally:
        os.close(draft)
    return name


def _require(draft: int, digest: str) -> None:
    if _digest(draft) != digest:
        raise FileChangedError("what was copied is not what was sent")


def _digest(descriptor: int) -> str | None:
    return disk.sha256(descriptor, os.fstat(descriptor).st_size)


def _holds(there: int, name: bytes, size: int, digest: str) -> bool:
    """Say whether a regular file of that name has that very content."""
    try:
        descriptor = os.open(name, _CONTENT, dir_fd=there)
    except OSError:
        return False
    try:
        return os.fstat(descriptor).st_size == size and _digest(descriptor) == digest
    finally:
        os.close(descriptor)


def _names(name: bytes) -> Iterator[bytes]:
    """Yield the name, then with a number before its ending, and so on."""
    yield name
    stem, dot, ending = name.rpartition(b".")
    if not stem:
        stem, dot, ending = name, b"", b""
    for number in count(2):
        yield stem + b"-%d" % number + dot + ending


@contextmanager
def _made(target: bytes, parent: bytes) -> Iterator[int]:
    """Open `parent` beneath `target`, made where it is not there, following no link.

    What is made is as open as the directory above it, never as the one in the watch folder.
    """
    os.makedirs(target, exist_ok=True)
    made = b""
    for segment in filter(None, parent.split(b"/")):
        above, made = made, _joined(made, segment)
        with disk.directory(target, above) as descriptor:
            try:
                os.mkdir(segment, 0o700, dir_fd=descriptor)
            except FileExistsError:
                continue
            mode = os.fstat(descriptor).st_mode & _DIRECTORY_MODE
            with disk.directory(target, made) as new, suppress(PermissionError):
                os.fchmod(new, mode | 0o700)
    with disk.directory(target, parent) as descriptor:
        yield descriptor
