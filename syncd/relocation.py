"""Takes a file out of a watch folder: sets it aside, then deletes or moves it. A leaf, like `disk`.

The kernel unlinks and renames by name, and a name can be given to another file at any moment. So a
file is first renamed into a private directory beside it, which no other user can enter, and checked
there. A file that turns out to be a different one, or to have changed, goes back.

Nothing in a target is overwritten. A crash at any point leaves the content in the private
directory, in the target, or in both, and repeating the operation completes it.
"""

import ctypes
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import NamedTuple

from syncd import disk, mounts
from syncd.exceptions import FileChangedError

_NOREPLACE = 1
#: The errors of filesystems that cannot rename without replacing.
_UNKNOWN_FLAG = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: The most that the modes of new directories and files in a target allow.
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644
_ASIDE = re.compile(rb"\.syncd-[0-9a-f]{16}\.aside")
_libc = ctypes.CDLL(None, use_errno=True)


def new_aside() -> str:
    """Return an unguessable name for a private directory."""
    return f".syncd-{secrets.token_hex(8)}.aside"


def is_aside(name: bytes) -> bool:
    """Return whether `name` is that of a private directory, which scans skip."""
    return _ASIDE.fullmatch(name) is not None


def obstacle(
    root: bytes, target: bytes | None, mounted_on: bytes | None, setting: str = "move_to"
) -> str:
    """Return why files beneath `root` cannot be moved to `target`, or deleted; empty if they can.

    `mounted_on` is the mount point that the target was on before; None when that is unknown. The
    `setting` is the one that names the target.
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
            f"or set another {setting}"
        )
    try:
        if os.statvfs(_nearest(target)).f_flag & os.ST_RDONLY:
            return f"{setting} = {there} is mounted read-only"
    except OSError as error:
        return f"{setting} = {there}: {error.strerror}"
    if not os.access(_nearest(target), os.W_OK | os.X_OK, effective_ids=True):
        return f"user {os.geteuid()} may not write to {setting} = {there}"
    return ""


def mount_point(target: bytes) -> bytes:
    """Return the mount point that `target` is on, or will be on once it exists."""
    return mounts.mount_point(_nearest(target))


def _nearest(path: bytes) -> bytes:
    """Return `path`, or the nearest directory above it that exists."""
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path


def is_writable(root: bytes, path: bytes) -> bool:
    """Return whether this process may remove `path` from its directory."""
    with disk.directory(root, disk.split(path)[0]) as parent:
        return os.access(b".", os.W_OK | os.X_OK, dir_fd=parent, effective_ids=True)


def has_room(root: bytes, target: bytes, size: int) -> bool:
    """Return whether `target` has room for `size` bytes, or needs none; true if unknown."""
    with suppress(OSError):
        if os.stat(_nearest(target)).st_dev != os.stat(root).st_dev:
            free = os.statvfs(_nearest(target))
            return free.f_bavail * free.f_frsize > size
    return True


def set_aside(root: bytes, path: bytes, descriptor: int, aside: str) -> None:
    """Move the file `path`, open as `descriptor`, into the private directory `aside` beside it.

    Raise FileChangedError when another file has taken its name, and leave that file in place. Raise
    OSError when the file cannot be moved; it is then where it was.
    """
    parent, name = disk.split(path)
    with disk.directory(root, parent) as above:
        with suppress(FileExistsError):
            os.mkdir(aside, 0o700, dir_fd=above)
        try:
            with _private(above, aside) as inside:
                os.rename(name, name, src_dir_fd=above, dst_dir_fd=inside)
                there = os.stat(name, dir_fd=inside, follow_symlinks=False)
                if not os.path.samestat(there, os.fstat(descriptor)):
                    _put(inside, name, above, name)
                    raise FileChangedError(f"{os.fsdecode(name)} was replaced")
        except FileNotFoundError as error:
            raise FileChangedError(f"{os.fsdecode(name)} is no longer there") from error
        finally:
            with suppress(OSError):
                # This fails unless the directory is empty.
                os.rmdir(aside, dir_fd=above)


@contextmanager
def _private(above: int, aside: str) -> Iterator[int]:
    """Open a private directory; raise PermissionError when it belongs to another user."""
    with disk.opened(aside, disk.LISTING, dir_fd=above) as inside:
        status = os.fstat(inside)
        if status.st_uid != os.geteuid() and mounts.has_own_clock(status.st_dev):
            raise PermissionError(errno.EPERM, f"{aside} belongs to another user")
        yield inside


class Aside(NamedTuple):
    """A file in its private directory; `above` is the directory that it comes from."""

    above: int
    inside: int
    #: the file, open for reading
    descriptor: int
    parent: bytes
    name: bytes

    def is_whole(self, size: int, digest: str, stopped: Callable[[], bool]) -> bool | None:
        """Return whether it has exactly this content; None if `stopped` returned true meanwhile."""
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        found = disk.sha256(self.descriptor, size, stopped=stopped)
        return None if found is None else found == digest

    def give_back(self) -> bytes:
        """Put it back, under a new name if its own is taken; return its path."""
        new = _put(self.inside, self.name, self.above, self.name)
        return _joined(self.parent, new)

    def delete(self) -> None:
        """Delete it."""
        os.unlink(self.name, dir_fd=self.inside)

    def is_beside(self, target: bytes) -> bool:
        """Return whether a move to `target` is a rename, which does not disturb open writers."""
        with suppress(OSError):
            return os.stat(_nearest(target)).st_dev == os.fstat(self.inside).st_dev
        return False

    def move(self, target: bytes, size: int, digest: str) -> bytes:
        """Move it to the same path beneath `target`; return its path there.

        If the name is taken, insert `-2`, `-3`, ... before its extension; if a file of the same
        content has the name, just delete this one. Raise OSError, or FileChangedError when the
        content does not match `digest`; the file is then where it was.
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
                # The file is moved, even if that cannot be made durable.
                os.fsync(there)
            return _joined(self.parent, new)


def moved(target: bytes, path: bytes, size: int, digest: str) -> bytes:
    """Return where beneath `target` the file is that was moved from `path`; `path` if nowhere."""
    parent, name = disk.split(path)
    with suppress(OSError), disk.directory(target, parent) as there:
        for new in _names(name):
            if _holds(there, new, size, digest):
                return _joined(parent, new)
            os.stat(new, dir_fd=there, follow_symlinks=False)
    return path


def leave(
    target: bytes, path: bytes, content: bytes, *, draft: bytes, earlier: Sequence[bytes] = ()
) -> bytes:
    """Write a durable file at `path` beneath `target`, at once and whole; return its path.

    Replace a file there only if its content is one of `earlier`. If another file has the name, take
    the next one, and none if that has just this content. `draft` is the name of a file that a crash
    may have left, and that nobody else has.
    """
    parent, name = disk.split(path)
    with _made(target, parent) as there:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=there)
        mode = 0o600 | os.fstat(there).st_mode & _FILE_MODE
        try:
            with disk.opened(draft, _NEW, dir_fd=there) as descriptor:
                with suppress(PermissionError):
                    os.fchmod(descriptor, mode)
                _write(descriptor, content)
                os.fsync(descriptor)
            if (taken := _first_that_holds(there, name, earlier)) is not None:
                name = taken
                os.rename(draft, name, src_dir_fd=there, dst_dir_fd=there)
            else:
                name = _put(there, draft, there, name, (len(content), _sha256(content)))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=there)
        os.fsync(there)
    return _joined(parent, name)


def _write(descriptor: int, content: bytes) -> None:
    """Write all of `content`: the kernel may take a part of it, as on a disk that fills up."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _first_that_holds(there: int, wanted: bytes, contents: Sequence[bytes]) -> bytes | None:
    """Return the first of the names that `wanted` leads to whose file has one of `contents`."""
    known = [(len(content), _sha256(content)) for content in contents]
    for name in _names(wanted) if known else ():
        if any(_holds(there, name, *one) for one in known):
            return name
        try:
            os.stat(name, dir_fd=there, follow_symlinks=False)
        except FileNotFoundError:
            return None
    return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def opened(root: bytes, path: bytes, aside: str) -> Iterator[Aside]:
    """Open what was set aside, and remove the private directory afterwards if it is empty.

    Raise FileNotFoundError when there is none or it is empty, and OSError when it cannot be read.
    """
    parent, name = disk.split(path)
    with disk.directory(root, parent) as above, _private(above, aside) as inside:
        try:
            with disk.opened(name, disk.CONTENT, dir_fd=inside) as descriptor:
                yield Aside(above, inside, descriptor, parent, name)
        finally:
            with suppress(OSError):
                os.rmdir(aside, dir_fd=above)
                os.fsync(above)


def _joined(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name


def _put(
    source: int, name: bytes, there: int, wanted: bytes, content: tuple[int, str] | None = None
) -> bytes:
    """Rename `name` to `wanted` or the next free name, and return the new name.

    If a file of the same `content` (size and SHA-256) has a name, just delete `name`.
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
    """Rename without replacing anything; raise FileExistsError when `new` exists."""
    try:
        _rename_noreplace(source, name, target, new)
    except OSError as error:
        if error.errno not in _UNKNOWN_FLAG:
            raise
        # Create the name first, so that the rename replaces only this empty file.
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
        raise OSError(errno.ENOSYS, "this C library has no renameat2") from None
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _copy(descriptor: int, there: int, digest: str) -> bytes:
    """Copy the content to a draft beside its target, verify it, and return the draft's name."""
    status = os.fstat(descriptor)
    name = f".syncd-{secrets.token_hex(8)}.part".encode()
    draft = os.open(name, _NEW, 0o600, dir_fd=there)
    try:
        offset = 0
        while chunk := os.pread(descriptor, disk.CHUNK_BYTES, offset):
            offset += len(chunk)
            _write(draft, chunk)
        with suppress(PermissionError):
            os.fchmod(draft, status.st_mode & _FILE_MODE)
        os.utime(draft, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(draft)
        # Drop the cache, so that the content is read back from the disk if possible.
        os.posix_fadvise(draft, 0, 0, os.POSIX_FADV_DONTNEED)
        _verify(draft, digest)
    except BaseException:
        os.unlink(name, dir_fd=there)
        raise
    finally:
        os.close(draft)
    return name


def _verify(draft: int, digest: str) -> None:
    if _digest(draft) != digest:
        raise FileChangedError("the copy differs from the content that was sent")


def _digest(descriptor: int) -> str | None:
    return disk.sha256(descriptor, os.fstat(descriptor).st_size)


def _holds(there: int, name: bytes, size: int, digest: str) -> bool:
    """Return whether a file of that name has exactly this content."""
    with suppress(OSError), disk.opened(name, disk.CONTENT, dir_fd=there) as descriptor:
        return os.fstat(descriptor).st_size == size and _digest(descriptor) == digest
    return False


def _names(name: bytes) -> Iterator[bytes]:
    """Yield the name, then the name with `-2`, `-3`, ... before its extension."""
    yield name
    stem, dot, extension = name.rpartition(b".")
    if not stem:
        stem, dot, extension = name, b"", b""
    for number in count(2):
        yield b"%s-%d%s%s" % (stem, number, dot, extension)


@contextmanager
def _made(target: bytes, parent: bytes) -> Iterator[int]:
    """Open the directory `parent` beneath `target`, and make it if needed. Follow no link.

    A new directory gets at most the mode of the one above it, whatever the watch folder has.
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
