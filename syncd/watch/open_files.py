"""Which files are open for writing: events say which may be, the kernel says which are."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from syncd import disk, lease
from syncd.exceptions import FileChangedError, ShortageError, UnreadableError

#: The most files that are remembered; for more, the settle rule alone decides.
LIMIT = 50_000
#: Seconds without a write after which a file no longer counts as open, if the kernel does not tell:
#: some closes give no event.
BELIEVED_SECONDS = 60.0
#: Seconds within which a write gives its event.
TOLD_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Opened:
    """When a file was made or last written to, according to its events."""

    at: float
    #: whether a write was told of
    is_written: bool = False
    #: whether only its presence is known: it was moved here, or its directory is new
    is_suspect: bool = False


class OpenFiles:
    """The files beneath one root that may be open for writing.

    Thread-safe. Paths are absolute on the way in, relative to the root on the way out.
    """

    def __init__(
        self,
        root: bytes,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        ask: Callable[[bytes, bytes], tuple[bool | None, int]] | None = None,
    ) -> None:
        """`ask` tells of a path beneath the root whether it is open for writing, and its size."""
        self._root = root
        self._prefix = root.rstrip(b"/") + b"/"
        self._monotonic = monotonic
        self._ask = ask or _ask
        self._lock = threading.Lock()
        #: the longest untouched first
        self._book: dict[bytes, _Opened] = {}

    def move_to(self, root: bytes) -> None:
        """Go on beneath another root, because the link that led to the previous one was changed."""
        with self._lock:
            if root != self._root:
                self._book.clear()
                self._root, self._prefix = root, root.rstrip(b"/") + b"/"

    def made(self, path: bytes) -> None:
        """Record that a file was made at `path`: opened, unless it was linked there."""
        self._put(path, _Opened(self._monotonic()))

    def written(self, path: bytes) -> None:
        """Record that `path` was written to."""
        self._put(path, _Opened(self._monotonic(), is_written=True))

    def suspect(self, path: bytes) -> None:
        """Record that `path` appeared, without an event that tells whether it is open."""
        self._put(path, _Opened(self._monotonic(), is_suspect=True))

    def ended(self, path: bytes) -> None:
        """Record that `path` was closed or removed."""
        with self._lock:
            self._book.pop(path, None)

    def moved(self, source: bytes, target: bytes) -> None:
        """Record that a file or a tree was moved: its writers go on writing there."""
        with self._lock:
            opened = self._book.pop(source, None)
            self._book.pop(target, None)
            if opened is not None:
                self._book[target] = opened
                return
            beneath = source + b"/"
            for path in [path for path in self._book if path.startswith(beneath)]:
                self._book[target + path[len(source) :]] = self._book.pop(path)

    def has(self, path: bytes) -> bool:
        """Return whether `path`, relative to the root, is open for writing.

        The kernel is asked only about files that events made suspicious.
        """
        key = self._prefix + path
        with self._lock:
            opened = self._book.get(key)
        if opened is None:
            return False
        told, size = self._ask(self._root, path)
        is_open = self._believes(opened, size) if told is None else told
        if is_open:
            return True
        with self._lock:
            if self._book.get(key) not in (opened, None):
                # It was written to meanwhile.
                return True
            self._book.pop(key, None)
        return False

    def _believes(self, opened: _Opened, size: int) -> bool:
        """Return whether a file counts as open if the kernel does not tell."""
        quiet = self._monotonic() - opened.at
        if opened.is_suspect or quiet >= BELIEVED_SECONDS:
            return False
        # Content without a write event was there before the name: it was linked.
        return opened.is_written or not size or quiet < TOLD_SECONDS

    def _put(self, path: bytes, opened: _Opened) -> None:
        with self._lock:
            before = self._book.pop(path, None)
            if opened.is_suspect and before is not None:
                opened = before
            self._book[path] = opened
            if len(self._book) > LIMIT:
                del self._book[next(iter(self._book))]

    def __len__(self) -> int:
        return len(self._book)

    def paths(self) -> list[bytes]:
        """Return the paths in the book, relative to the root."""
        with self._lock:
            return [path[len(self._prefix) :] for path in self._book]


def _ask(root: bytes, path: bytes) -> tuple[bool | None, int]:
    try:
        with disk.open_beneath(root, path) as descriptor:
            return lease.is_open_for_writing(descriptor), disk.fingerprint(descriptor).size
    except FileChangedError:
        return False, 0
    except (UnreadableError, ShortageError):
        return None, 0
