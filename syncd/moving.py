"""Takes a file out of a watch folder: moved to another one, or deleted. A leaf, like `disk`.

Nothing that stands at the target is ever overwritten, and a cut at any point leaves the content in
at least one of the two places: done again, it comes to the same end.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import count

from syncd import disk
from syncd.exceptions import FileChangedError

_NOREPLACE = 1
#: What says that a rename is not possible between these two places, or not by this filesystem.
_NOT_BY_RENAME = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_NEW = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_DRAFT = b".syncd-move.part"
_libc = ctypes.CDLL(None, use_errno=True)


def remove(root: bytes, path: bytes, descriptor: int) -> None:
    """Delete the file `path` beneath `root`, which is open as `descriptor`.

    FileChangedError where another one stands there by now; OSError where it cannot be deleted.
    """
    parent, name = disk.split(path)
    with disk.directory(root, parent) as source:
        _require(source, name, descriptor, os.fstat(descriptor))
        os.unlink(name, dir_fd=source)


def move(root: bytes, path: bytes, descriptor: int, *, target: bytes, digest: str) -> bytes:
    """Move the file `path` beneath `root`, open as `descriptor`, to the same path in `target`.

    Where that name is taken, `-2`, `-3`, ... is put before its ending; where the very same content
    has it, the file is just deleted here. `digest` is the file's SHA-256. Returns the new path
    beneath `target`. FileChangedError where the file is no longer what it was; OSError where it
    cannot be moved, or its content copied: then it is where it was.
    """
    parent, name = disk.split(path)
    before = os.fstat(descriptor)
    with disk.directory(root, parent) as source, _made(root, target, parent) as there:
        for new in _names(name):
            if _holds(there, new, before.st_size, digest):
                _require(source, name, descriptor, before)
                os.unlink(name, dir_fd=source)
            else:
                try:
                    _take(source, name, there, new, descriptor, before, digest)
                except FileExistsError:
                    continue
            for changed in (there, source):
                # It is moved, whether or not that can be made durable.
                with suppress(OSError):
                    os.fsync(changed)
            return parent + b"/" + new if parent else new
    raise AssertionError(path)


def _take(
    source: int,
    name: bytes,
    there: int,
    new: bytes,
    descriptor: int,
    before: os.stat_result,
    digest: str,
) -> None:
    """Move one file to a free name; FileExistsError where it is none."""
    _require(source, name, descriptor, before)
    if _is_taken(there, new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    try:
        _rename(source, name, there, new)
    except OSError as error:
        if error.errno not in _NOT_BY_RENAME:
            raise
    else:
        if _differs(os.fstat(descriptor), before):
            with suppress(FileExistsError):
                _rename(there, new, source, name)
            raise FileChangedError(f"{os.fsdecode(name)} changed while it was moved")
        return
    _copy(descriptor, there, before, digest)
    try:
        _publish(there, new)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(_DRAFT, dir_fd=there)
    os.fsync(there)
    _require(source, name, descriptor, before)
    os.unlink(name, dir_fd=source)


def _copy(descriptor: int, there: int, status: os.stat_result, digest: str) -> None:
    """Write the content to a draft beside its target, and make sure that it is whole."""
    draft = os.open(_DRAFT, _NEW, 0o600, dir_fd=there)
    try:
        hashed, offset = sha256(), 0
        while chunk := os.pread(descriptor, disk.CHUNK_BYTES, offset):
            hashed.update(chunk)
            offset += len(chunk)
            while chunk:
                chunk = chunk[os.write(draft, chunk) :]
        _require_digest(hashed.hexdigest(), digest)
        with suppress(PermissionError):
            os.fchmod(draft, status.st_mode & 0o777)
        os.utime(draft, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(draft)
    except BaseException:
        os.unlink(_DRAFT, dir_fd=there)
        raise
    finally:
        os.close(draft)


def _require_digest(found: str, expected: str) -> None:
    if found != expected:
        raise FileChangedError("the file changed while it was copied")


def _publish(there: int, new: bytes) -> None:
    try:
        _rename(there, _DRAFT, there, new)
    except OSError as error:
        if error.errno not in _NOT_BY_RENAME:
            raise
        os.link(_DRAFT, new, src_dir_fd=there, dst_dir_fd=there)


def _rename(source: int, name: bytes, target: int, new: bytes) -> None:
    """Rename without replacing (renameat2(2)); OSError."""
    try:
        failed = _libc.renameat2(source, name, target, new, _NOREPLACE)
    except AttributeError:
        raise OSError(errno.ENOSYS, "renameat2 is not there") from None
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _require(source: int, name: bytes, descriptor: int, before: os.stat_result) -> None:
    try:
        there = os.stat(name, dir_fd=source, follow_symlinks=False)
    except FileNotFoundError as error:
        raise FileChangedError(f"{os.fsdecode(name)} is no longer there") from error
    same = (there.st_dev, there.st_ino) == (before.st_dev, before.st_ino)
    if not same or _differs(os.fstat(descriptor), before):
        raise FileChangedError(f"{os.fsdecode(name)} changed")


def _differs(status: os.stat_result, before: os.stat_result) -> bool:
    # A rename may change ctime.
    return (status.st_size, status.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


def _is_taken(there: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=there, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _holds(there: int, name: bytes, size: int, digest: str) -> bool:
    """Say whether a regular file of that name has that very content."""
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=there
        )
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        return status.st_size == size and disk.sha256(descriptor, size) == digest
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
def _made(root: bytes, target: bytes, parent: bytes) -> Iterator[int]:
    """Open `parent` beneath `target`, made like the one beneath `root` where it is not there."""
    os.makedirs(target, exist_ok=True)
    made = b""
    for segment in filter(None, parent.split(b"/")):
        above, made = made, made + b"/" + segment if made else segment
        with disk.directory(target, above) as descriptor:
            try:
                os.mkdir(segment, 0o700, dir_fd=descriptor)
            except FileExistsError:
                continue
            with disk.directory(root, made) as like:
                mode = os.fstat(like).st_mode & 0o777
            with suppress(PermissionError):
                os.chmod(segment, mode, dir_fd=descriptor)
    with disk.directory(target, parent) as descriptor:
        yield descriptor
