"""Bytes that arrive: hashed on their way to where they are kept."""

from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

from syncd.emulator.private import private


class Incoming(AbstractAsyncContextManager["Incoming"]):
    """Bytes that are kept as they arrive, and gone afterwards unless an object took them.

    Its name is the object's `content`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._digest = sha256()
        self.size = 0
        self.kept = False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, piece: bytes | memoryview) -> None:
        """Add bytes."""
        self._digest.update(piece)
        self.size += len(piece)

    async def drain(self) -> None:
        """Wait until more may be written."""

    async def close(self) -> None:
        """Return once every byte is kept, or raise."""


class IncomingFile(Incoming):
    """A file that is written as bytes arrive.

    Whatever no object names is removed at the next start, so a process killed in the middle
    leaves nothing half stored.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.name)
        self._path = path

    def write(self, piece: bytes | memoryview) -> None:
        """Add bytes."""
        self._file.write(piece)
        super().write(piece)

    async def close(self) -> None:
        """Hand every byte to the operating system: from then on, a kill loses none."""
        self._file.close()

    async def __aenter__(self) -> Self:
        self._file = open(self._path, "xb", opener=private)  # noqa: ASYNC230, SIM115
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if not self.kept:
            self._path.unlink(missing_ok=True)
