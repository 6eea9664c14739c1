"""The directory that frames are downloaded into. The service chooses nothing in it.

It holds the frames of one video, which a marker names. Each frame is written to a draft of a random
name, checked, and renamed to `frame-000001.jpg`: what has such a name is whole. Everything happens
beneath one open directory, and no link in it is followed.
"""

import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from syncd.exceptions import SyncdError
from syncd.files_api import image_type
from syncd.log import printable
from syncd.units import size

MARKER = ".syncd-frames"
#: The most bytes of one frame.
FRAME_BYTES = 64 << 20
#: How much of a frame is looked at to tell its kind.
_HEAD_BYTES = 512
_EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/tiff": "tiff",
    "image/avif": "avif",
    "image/heic": "heic",
}
_FRAME = re.compile(rf"frame-([0-9]{{6,12}})\.({'|'.join(_EXTENSIONS.values())})")
_DRAFT = re.compile(r"\.syncd-[0-9a-f]{16}\.draft")
_HERE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# With O_NONBLOCK, a FIFO in the marker's place does not wait for its other end.
_MARKER = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_ANOTHER = "give another directory"


class FramesError(SyncdError):
    """Frames cannot be listed or downloaded; the message says why and what to do."""


class Kept(NamedTuple):
    """A frame that is whole in the directory: its name there, and its size in bytes."""

    name: str
    size: int


class FrameDirectory:
    """An open directory for the frames of one video."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        #: the whole frames in it, by number
        self.kept = dict(_kept_in(descriptor))

    @contextmanager
    def draft(self) -> Iterator["Draft"]:
        """Yield a new draft; it is removed at the end unless it was kept."""
        name = f".syncd-{secrets.token_hex(8)}.draft"
        draft = Draft(name, os.open(name, _NEW, 0o644, dir_fd=self._descriptor))
        try:
            yield draft
        finally:
            os.close(draft.descriptor)
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._descriptor)

    def keep(self, draft: "Draft", number: int) -> Kept:
        """Give a whole frame its name; FramesError if it is no image."""
        extension = _EXTENSIONS.get(image_type(os.pread(draft.descriptor, _HEAD_BYTES, 0)) or "")
        if extension is None:
            raise FramesError("what the storage sent is no image")
        # On the disk before it has its name: a name stands for a whole frame.
        os.fsync(draft.descriptor)
        kept = Kept(f"frame-{number:06d}.{extension}", draft.size)
        # A link of that name is replaced, and not followed.
        os.rename(draft.name, kept.name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        self.kept[number] = kept
        return kept


class Draft:
    """A frame on its way to the disk."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self.descriptor = descriptor
        self.size = 0

    def write(self, part: bytes) -> None:
        """Append `part`; FramesError beyond the size that a frame may have."""
        self.size += len(part)
        if self.size > FRAME_BYTES:
            raise FramesError(f"it has more than {size(FRAME_BYTES)}, which no frame has")
        view = memoryview(part)
        while view:
            view = view[os.write(self.descriptor, view) :]


@contextmanager
def opened(path: Path, file_uuid: str) -> Iterator[FrameDirectory]:
    """Open `path`, made if it is not there, for the frames of one video.

    FramesError if it holds another video's frames, frames that are not from syncd, or is in use.
    """
    shown = printable(str(path))
    with ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, _HERE)
            stack.callback(os.close, descriptor)
            names = os.listdir(descriptor)
            is_foreign = MARKER not in names and any(map(_FRAME.fullmatch, names))
            if not is_foreign:
                marker = os.open(MARKER, _MARKER, 0o644, dir_fd=descriptor)
                stack.callback(os.close, marker)
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_foreign = not stat.S_ISREG(os.fstat(marker).st_mode)
        except BlockingIOError as error:
            raise FramesError(f"another syncd downloads into {shown}: wait for its end") from error
        except OSError as error:
            raise FramesError(f"cannot download into {shown}: {error.strerror}") from error
        if is_foreign:
            raise FramesError(f"{shown} holds frames that are not from syncd: {_ANOTHER}")
        try:
            named = _claim(marker, file_uuid)
        except OSError as error:
            raise FramesError(f"cannot download into {shown}: {error.strerror}") from error
        if named != file_uuid:
            raise FramesError(f"{shown} holds the frames of {printable(named)}: {_ANOTHER}")
        # Drafts that an earlier call left behind when it was killed.
        for name in filter(_DRAFT.fullmatch, names):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=descriptor)
        yield FrameDirectory(descriptor)
        os.fsync(descriptor)


def _claim(marker: int, file_uuid: str) -> str:
    """Return the uuid that a marker names: `file_uuid` if it named none yet."""
    if named := os.read(marker, 100).decode(errors="replace").strip():
        return named
    os.write(marker, f"{file_uuid}\n".encode())
    return file_uuid


def _kept_in(descriptor: int) -> Iterator[tuple[int, Kept]]:
    for name in os.listdir(descriptor):
        if match := _FRAME.fullmatch(name):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_size:
                yield int(match[1]), Kept(name, status.st_size)
