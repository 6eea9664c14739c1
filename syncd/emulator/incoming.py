"""Arriving bytes, hashed on the way to where they are kept."""

from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from syncd.emulator.store import private


class Incoming:
    """Bytes that are kept as they arrive, and removed at the end unless `kept` is set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._digest = sha256()
        self.size = 0
        self.kept = False

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def values(self) -> dict[str, Any]:
        """Return the values of an object that takes these bytes."""
        return {
            "state": "live",
            "content": self.name,
            "sha256": self.sha256,
            "size": self.size,
        }

    def write(self, piece: bytes | memoryview) -> None:
        """Add bytes."""
        self._digest.update(piece)
        self.size += len(piece)

    async def drain(self) -> None:
        """Wait until more can be written."""

    async def close(self) -> None:
        """Return once every byte is kept."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Remove the bytes unless an object took them."""


class IncomingFile(Incoming):
    """A file that is written as bytes arrive.

    The next start removes what a killed process leaves half stored.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.name)
        self._path = path

    def write(self, piece: bytes | memoryview) -> None:
        """Add bytes."""
        self._file.write(piece)
        super().write(piece)

    async def close(self) -> None:
        """Pass every byte to the kernel; after that, a kill of the process loses none."""
        self._file.close()

    async def __aenter__(self) -> Self:
        self._file = open(self._path, "xb", opener=private)  # noqa: ASYNC230, SIM115
        return self

    async def __aexit__(self, *_: object) -> None:
        self._file.close()
        if not self.kept:
            self._path.unlink(missing_ok=True)
