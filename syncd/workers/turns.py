"""The files handed out to the upload threads: each folder has its turn."""

import threading
from collections import deque

from syncd.state.files import File


class Turns:
    """A queue for each folder, and one file of each in turn. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: the folder whose turn it is stands first
        self._folders: dict[str, deque[File]] = {}
        self._closed = True

    def put(self, file: File) -> None:
        """Add a file behind those of its folder."""
        with self._changed:
            self._folders.setdefault(file.folder, deque()).append(file)
            # All, because the one that is woken may be waiting for a smaller one.
            self._changed.notify_all()

    def open(self) -> None:
        """Let `get` wait for files, until `close`."""
        with self._changed:
            self._closed = False

    def close(self) -> None:
        """Let every `get` return None once nothing is left for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def get(self, largest: int | None = None) -> File | None:
        """Wait for a file, of at most `largest` bytes; None at the end."""
        with self._changed:
            while (file := self._take(largest)) is None:
                if self._closed:
                    return None
                self._changed.wait()
            return file

    def get_now(self, largest: int | None = None) -> File | None:
        """Return a file, of at most `largest` bytes, if there is one."""
        with self._changed:
            return self._take(largest)

    def _take(self, largest: int | None) -> File | None:
        for name, waiting in self._folders.items():
            if largest is None or waiting[0].size <= largest:
                file = waiting.popleft()
                del self._folders[name]
                if waiting:
                    self._folders[name] = waiting
                return file
        return None

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._folders.values()))
