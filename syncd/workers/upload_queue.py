"""The files handed out to the upload threads, in turn by folder, and by small and large."""

import threading
from collections import deque

from syncd.state.database.schema import LARGE_BYTES
from syncd.state.files import File

#: The most large files under way, so that other threads are free for small ones.
LARGE_AT_ONCE = 4
#: The most bytes of a file that is sent in a batch, and of all files of a batch.
SMALL_BYTES = 1 << 20


class UploadQueue:
    """Two queues for each folder, and one file of each folder in turn. Thread-safe.

    At most `limit` threads are at work: from `get` until they come for another file, or `rest`.
    """

    def __init__(self, *, large_at_once: int = LARGE_AT_ONCE, limit: int = 64) -> None:
        self._changed = threading.Condition()
        #: the folder whose turn it is stands first; in each, the size whose turn it is
        self._folders: dict[str, dict[bool, deque[File]]] = {}
        self._waiting = 0
        self._large_at_once = large_at_once
        self._large: list[File] = []
        self._limit, self._at_work = limit, 0
        self._closed = True

    def put(self, file: File) -> None:
        """Add a file behind those of its folder and kind of size."""
        with self._changed:
            sizes = self._folders.setdefault(file.folder, {})
            sizes.setdefault(is_large(file), deque()).append(file)
            self._waiting += 1
            self._changed.notify()

    def open(self) -> None:
        """Let `get` wait for files, until `close`."""
        with self._changed:
            self._closed, self._at_work = False, 0

    def close(self) -> None:
        """Let every `get` return None once nothing is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def allow(self, limit: int) -> None:
        """Let so many threads work; a thread beyond that stops after the files it has."""
        with self._changed:
            more, self._limit = limit - self._limit, limit
            self._changed.notify(max(more, 0))

    @property
    def limit(self) -> int:
        """How many threads may be at work."""
        return self._limit

    @property
    def at_work(self) -> int:
        """How many threads are at work."""
        return self._at_work

    def get(self) -> File | None:
        """Wait for a file and the permission to work; None at the end.

        A large one is under way until it is `done`.
        """
        with self._changed:
            while (file := self._got()) is None:
                if self._closed and not self._folders:
                    return None
                self._changed.wait()
            return file

    def get_now(self) -> File | None:
        """Return what `get` would return at once; None if it would wait."""
        with self._changed:
            return self._got()

    def _got(self) -> File | None:
        file = self._take() if self._at_work < self._limit else None
        self._at_work += file is not None
        return file

    def rest(self) -> None:
        """Record that a thread is done with what it got."""
        with self._changed:
            self._at_work -= 1
            self._changed.notify()

    def more(self, first: File, most: int) -> list[File]:
        """Return up to `most` further small files that go in a batch with `first`, without waiting.

        They are of its folder, and leave enough for all threads.
        """
        with self._changed:
            most = min(most, self._waiting // (2 * self._limit))
            waiting = self._folders.get(first.folder, {}).get(False)
            batch: list[File] = []
            size = first.size
            while waiting and len(batch) < most and (size := size + waiting[0].size) <= SMALL_BYTES:
                batch.append(waiting.popleft())
                self._waiting -= 1
            if waiting is not None and not waiting:
                self._drop(first.folder, large=False)
            return batch

    def next_of(self, folder: str) -> File | None:
        """Return the next small file, if `folder` has the turn and there are enough for all.

        Also None if fewer threads should be at work.
        """
        with self._changed:
            is_crowded = self._waiting <= self._limit or self._at_work > self._limit
            if is_crowded or next(iter(self._folders)) != folder:
                return None
            waiting = self._folders[folder].get(False)
            if not waiting or waiting[0].size > SMALL_BYTES:
                return None
            return self._taken(folder, waiting, large=False)

    def done(self, file: File) -> None:
        """Record that a file is no longer under way."""
        if is_large(file):
            with self._changed:
                self._large = [large for large in self._large if large is not file]
                self._changed.notify_all()

    def _take(self) -> File | None:
        # Large files leave one thread to the others, however few may work.
        most = max(min(self._large_at_once, self._limit - 1), 1)
        for name, sizes in self._folders.items():
            for large, waiting in sizes.items():
                if not large or len(self._large) < most:
                    return self._taken(name, waiting, large=large)
        return None

    def _taken(self, name: str, waiting: "deque[File]", *, large: bool) -> File:
        """Take the first of a queue, and put its folder and its kind of size behind the others."""
        file = waiting.popleft()
        self._waiting -= 1
        if large:
            self._large.append(file)
        sizes = self._folders[name]
        del sizes[large]
        sizes[large] = waiting
        self._folders[name] = self._folders.pop(name)
        if not waiting:
            self._drop(name, large=large)
        return file

    def _drop(self, name: str, *, large: bool) -> None:
        """Forget a queue that is empty."""
        del self._folders[name][large]
        if not self._folders[name]:
            del self._folders[name]

    def __len__(self) -> int:
        return self._waiting


def is_large(file: File) -> bool:
    """Return whether a file is large, of which few are sent at a time."""
    return file.size > LARGE_BYTES
