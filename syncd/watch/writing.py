"""Which files are open for writing, as far as events told."""

import threading
import time
from collections.abc import Callable

#: Files of which it is remembered; of more, the settle rule alone decides.
LIMIT = 50_000
#: Seconds without a write after which a file no longer counts as open: some closes are never told
#: of, such as after truncate(2), which opens nothing.
BELIEVED_SECONDS = 3600.0


class Writing:
    """The book of files beneath one root that were created or modified, and not closed since.

    Thread-safe. Paths are absolute on the way in, relative to the root on the way out.
    """

    def __init__(self, root: bytes, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._prefix = root.rstrip(b"/") + b"/"
        self._monotonic = monotonic
        self._lock = threading.Lock()
        #: when each was written to last, the longest ago first
        self._open: dict[bytes, float] = {}

    def begun(self, path: bytes) -> None:
        """Book that `path` was opened to be made, or written to."""
        with self._lock:
            self._open.pop(path, None)
            self._open[path] = self._monotonic()
            if len(self._open) > LIMIT:
                del self._open[next(iter(self._open))]

    def ended(self, path: bytes) -> None:
        """Book that `path` was closed, removed, or taken by a file that was moved there."""
        with self._lock:
            self._open.pop(path, None)

    def moved(self, source: bytes, target: bytes) -> None:
        """Book that a file or a tree was moved: whoever has it open goes on writing there."""
        with self._lock:
            written_at = self._open.pop(source, None)
            self._open.pop(target, None)
            if written_at is not None:
                self._open[target] = written_at
                return
            beneath = source + b"/"
            for path in [path for path in self._open if path.startswith(beneath)]:
                self._open[target + path[len(source) :]] = self._open.pop(path)

    def forget(self, root: bytes = b"") -> None:
        """Forget everything: closes may have been lost. Go on with another `root`, if any."""
        with self._lock:
            self._open.clear()
            if root:
                self._prefix = root.rstrip(b"/") + b"/"

    def has(self, path: bytes) -> bool:
        """Say whether `path`, relative to the root, is known to be open for writing."""
        with self._lock:
            written_at = self._open.get(self._prefix + path)
            return written_at is not None and self._monotonic() < written_at + BELIEVED_SECONDS
