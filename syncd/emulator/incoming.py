"""Bytes that arrive: hashed on their way into a file of their own."""

from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from syncd.emulator.private import private


class Incoming:
    """A file that is written as bytes arrive, and gone afterwards unless an object took it.

    Its name is the object's `content`. Whatever no object names is removed at the next start, so
    a process killed in the middle leaves nothing half stored.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = sha256()
        self.size = 0
        self.kept = False

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, piece: bytes | memoryview) -> None:
        """Add bytes."""
        self._file.write(piece)
        self._digest.update(piece)
        self.size += len(piece)

    def close(self) -> None:
        """Hand every byte to the operating system: from then on, a kill loses none."""
        self._file.close()

    def __enter__(self) -> Self:
        self._file = open(self._path, "xb", opener=private)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if not self.kept:
            self._path.unlink(missing_ok=True)
