"""The store of objects' bytes and of video frames: one interface, and its form as a folder."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

from syncd.emulator.incoming import Incoming, IncomingFile
from syncd.emulator.presign import Signer
from syncd.emulator.store import Stored


class Arrived(NamedTuple):
    """Bytes that were PUT to a presigned URL past the emulator."""

    content: str
    sha256: str
    size: int


class Contents(Protocol):
    """Keeps bytes and frames by an object's `content`, and makes presigned URLs for them."""

    #: whether nothing is PUT past the emulator
    sees_all: bool

    def incoming(self, length: int | None = None) -> Incoming:
        """Return a place for bytes that arrive: `length` at most, if that is known."""

    def url(self, base_url: str, method: str, stored: Stored, frame: str = "") -> str:
        """Return a presigned URL for an object, or for a frame of it (`/frame_000001.jpg`)."""

    async def arrived(self, stored: Stored) -> Arrived | None:
        """Return what was PUT for an object without the emulator's seeing it; None for nothing."""

    def video(self, stored: Stored) -> AbstractContextManager[tuple[Path, Path]]:
        """Lend a video's file to be read, and a folder whose frames are kept at the end."""

    def sweep(self, taken: set[str]) -> None:
        """Remove what no object took: of a killed process, or replaced."""


class Folder:
    """Bytes and frames in the emulator's own folder `data`; what is PUT comes to `Storage`."""

    sees_all = True

    def __init__(self, data: Path, signer: Signer) -> None:
        self._contents, self._frames = data / "contents", data / "frames"
        self._signer = signer
        for folder in (self._contents, self._frames):
            folder.mkdir(parents=True, exist_ok=True)

    def incoming(self, length: int | None = None) -> Incoming:  # noqa: ARG002 - the disk takes all
        return IncomingFile(self._contents / uuid4().hex)

    def url(self, base_url: str, method: str, stored: Stored, frame: str = "") -> str:
        return self._signer.url(base_url, method, stored.file_uuid + frame)

    async def arrived(self, stored: Stored) -> Arrived | None:  # noqa: ARG002 - all is seen here
        return None

    @contextmanager
    def video(self, stored: Stored) -> Iterator[tuple[Path, Path]]:
        yield self.path(stored), self._frames / str(stored.content)

    def path(self, stored: Stored, frame: str = "") -> Path:
        """Return where an object's bytes are, or a frame of it."""
        content = str(stored.content)
        return self._frames / content / frame if frame else self._contents / content

    def sweep(self, taken: set[str]) -> None:
        for path in _not_in(taken, self._contents.iterdir()):
            path.unlink()
        for path in _not_in(taken, self._frames.iterdir()):
            shutil.rmtree(path)


def _not_in(taken: set[str], paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.name not in taken]
