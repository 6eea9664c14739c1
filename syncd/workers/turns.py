"""The files handed out to the upload threads: each folder has its turn, small files and large."""

import threading
from collections import deque

from syncd.state.files import File
from syncd.state.schema import LARGE_BYTES

#: Large files under way at most: the other threads are left to small ones.
LARGE_AT_ONCE = 4


class Turns:
    """Two queues for each folder, and one file of each folder in turn. Thread-safe."""

    def __init__(self, *, large_at_once: int = LARGE_AT_ONCE) -> None:
        self._changed = threading.Condition()
        #: the folder whose turn it is stands first; in each, the size whose turn it is
        self._folders: dict[str, dict[bool, deque[File]]] = {}
        self._large_at_once = large_at_once
        self._large: list[File] = []
        self._closed = True

    def put(self, file: File) -> None:
        """Add a file behind those of its folder and kind of size."""
        with self._changed:
            sizes = self._folders.setdefault(file.folder, {})
            sizes.setdefault(is_large(file), deque()).append(file)
            # All: the one that is woken may be waiting for a smaller one.
            self._changed.notify_all()

    def open(self) -> None:
        """Let `get` wait for files, until `close`."""
        with self._changed:
            self._closed = False

    def close(self) -> None:
        """Let every `get` return None once nothing is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def get(self, largest: int | None = None) -> File | None:
        """Wait for a file, of at most `largest` bytes; None at the end.

        A large one is under way until it is `done`.
        """
        with self._changed:
            while (file := self._take(largest)) is None:
                if self._closed and not self._folders:
                    return None
                self._changed.wait()
            return file

    def get_now(self, largest: int | None = None) -> File | None:
        """Return a file, of at most `largest` bytes, if there is one."""
        with self._changed:
            return self._take(largest)

    def done(self, file: File) -> None:
        """Note that a file is under way no more."""
        with self._changed:
            if any(file is large for large in self._large):
                self._large = [large for large in self._large if large is not file]
                self._changed.notify_all()

    def _take(self, largest: int | None) -> File | None:
        for name, sizes in self._folders.items():
            for large, waiting in sizes.items():
                if large and len(self._large) >= self._large_at_once:
                    continue
                if largest is not None and waiting[0].size > largest:
                    continue
                return self._taken(name, waiting, large=large)
        return None

    def _taken(self, name: str, waiting: "deque[File]", *, large: bool) -> File:
        """Take the first of a queue, and put its folder and its kind of size behind the others."""
        file = waiting.popleft()
        if large:
            self._large.append(file)
        sizes = self._folders.pop(name)
        del sizes[large]
        if waiting:
            sizes[large] = waiting
        if sizes:
            self._folders[name] = sizes
        return file

    def __len__(self) -> int:
        with self._changed:
            return sum(len(files) for sizes in self._folders.values() for files in sizes.values())


def is_large(file: File) -> bool:
    """Say whether few of a file's size are sent at a time."""
    return file.size > LARGE_BYTES
