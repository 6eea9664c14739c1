"""A walk over the directories beneath a root, at whatever depth."""

import os
from typing import Self

from syncd import disk


class Descent:
    """Opens the directories beneath a root one after another, as a walk comes to them.

    The last part of the way down stays open, so that a step costs the same at any depth. No segment
    may be a link.
    """

    _KEPT = 16

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._way: list[tuple[bytes, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._way:
            os.close(self._way.pop()[1])

    def enter(self, path: bytes) -> int:
        """Return a descriptor of the directory `path`, open until the next call; OSError."""
        while self._way and not is_within(path, self._way[-1][0]):
            os.close(self._way.pop()[1])
        if not self._way:
            self._way.append((b"", disk.open_directory(self._root)))
        here, descriptor = self._way[-1]
        for segment in filter(None, path[len(here) :].split(b"/")):
            descriptor = disk.open_directory(segment, beneath=descriptor)
            here = here + b"/" + segment if here else segment
            self._way.append((here, descriptor))
            if len(self._way) > self._KEPT:
                os.close(self._way.pop(0)[1])
        return descriptor


def is_within(path: bytes, directory: bytes) -> bool:
    """Return whether `path` is `directory`, relative to the same root, or beneath it."""
    return not directory or path == directory or path.startswith(directory + b"/")
