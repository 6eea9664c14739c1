"""The list of requests on disk, one line each, and the token of syncd in a file's name."""

import json
import re
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from syncd.emulator.store import private

#: The size at which a new file is begun; only the last two are kept.
FILE_BYTES = 64 << 20
#: A token counts at the end of a name, before at most one extension.
_TOKEN = re.compile(
    r"\.(sy1-[0-9a-f]{8}-[0-9a-f]{28}|sy2(?:-[0-9a-f]+){5})(?:\.[^./\"]+)?(?=[/\"]|$)"
)


class Journal:
    """The requests as JSON Lines in the folder `data`; a kill loses none."""

    def __init__(self, data: Path) -> None:
        self._path, self._older = data / "requests.jsonl", data / "requests.old.jsonl"
        self._file = self._opened()

    def _opened(self) -> FileIO:
        return open(self._path, "ab", buffering=0, opener=private)

    def note(self, line: dict[str, Any]) -> None:
        """Append a line."""
        self._file.write(json.dumps(line).encode() + b"\n")
        if self._file.tell() > FILE_BYTES:
            self._file.close()
            self._path.replace(self._older)
            self._file = self._opened()

    def read(self) -> Iterator[bytes]:
        """Yield all lines, in chunks."""
        for path in (self._older, self._path):
            if path.exists():
                with path.open("rb") as file:
                    while piece := file.read(1 << 18):
                        yield piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def token_in(text: str | None) -> str | None:
    """Return the token at the end of the file name in `text`."""
    found = _TOKEN.search(text or "")
    return found[1] if found else None
