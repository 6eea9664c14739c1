"""Storage for objects' bytes and video frames: the interface, and a folder that implements it."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from syncd.emulator.incoming import Incoming, IncomingFile
from syncd.emulator.presign import Signer
from syncd.emulator.store import StoredObject


class Contents(Protocol):
    """Keeps bytes and frames by an object's `content`, and makes presigned URLs for them."""

    #: whether every PUT goes through the emulator
    sees_all: bool

    def incoming(self, length: int | None = None) -> Incoming:
        """Return a place for arriving bytes, of at most `length` if that is known."""

    def url(self, base_url: str, method: str, stored: StoredObject, frame: str = "") -> str:
        """Return a presigned URL for an object, or for a frame of it (`/frame_000001.jpg`)."""

    async def arrived(self, stored: StoredObject) -> dict[str, Any] | None:
        """Return the values of a reserved object whose bytes arrived; None when none did."""

    def video(self, stored: StoredObject) -> AbstractContextManager[tuple[Path, Path]]:
        """Lend a video's file to read, and a folder whose frames are kept at the end."""

    def sweep(self, taken: set[str]) -> None:
        """Remove what no object has taken: leftovers of a kill, or of replaced content."""


class FolderContents:
    """Bytes and frames in the emulator's own folder `data`; `Storage` receives each PUT."""

    sees_all = True

    def __init__(self, data: Path, signer: Signer) -> None:
        self._contents, self._frames = data / "contents", data / "frames"
        self._signer = signer
        for folder in (self._contents, self._frames):
            folder.mkdir(parents=True, exist_ok=True)

    def incoming(self, length: int | None = None) -> Incoming:  # noqa: ARG002 - any length fits
        return IncomingFile(self._contents / uuid4().hex)

    def url(self, base_url: str, method: str, stored: StoredObject, frame: str = "") -> str:
        return self._signer.url(base_url, method, stored.file_uuid + frame)

    async def arrived(self, stored: StoredObject) -> None:
        """Return None: this folder sees every PUT."""

    @contextmanager
    def video(self, stored: StoredObject) -> Iterator[tuple[Path, Path]]:
        yield self.path(stored), self._frames / str(stored.content)

    def path(self, stored: StoredObject, frame: str = "") -> Path:
        """Return the path of an object's bytes, or of a frame of it."""
        content = str(stored.content)
        return self._frames / content / frame if frame else self._contents / content

    def sweep(self, taken: set[str]) -> None:
        for path in (*self._contents.iterdir(), *self._frames.iterdir()):
            if path.name not in taken:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
