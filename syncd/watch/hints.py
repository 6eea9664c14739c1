"""Hints from a folder's events since the last look: paths to look at, or a request to scan."""

import threading
import time
from collections.abc import Callable, Mapping

#: The most paths that are kept; beyond that, a scan is cheaper, and memory stays bounded.
LIMIT = 50_000


class Hints:
    """Bounded and thread-safe; `wake` is called with each hint, and must not block."""

    def __init__(
        self,
        wake: Callable[[], None],
        *,
        limit: int = LIMIT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.wake = wake
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._paths: dict[bytes, bool] = {}
        self._scan = ""
        self._check = False
        self.last_event_at: float | None = None

    def add(self, path: bytes, *, removal_seen: bool = False) -> None:
        """Ask for a look at `path`; with `removal_seen`, an event told that it was removed."""
        with self._lock:
            self.last_event_at = self._clock()
            self._paths[path] = removal_seen or self._paths.get(path, False)
            if len(self._paths) > self._limit:
                self._paths.clear()
                self._scan = "more events than are worth a look each"
        self.wake()

    def ask_scan(self, reason: str) -> None:
        """Ask for a scan of the whole folder; paths waiting for a look are still looked at."""
        with self._lock:
            self._scan = reason
        self.wake()

    def ask_check(self) -> None:
        """Ask for a check of the root: something happened to it."""
        with self._lock:
            self._check = True
        self.wake()

    def take(self) -> Mapping[bytes, bool]:
        """Return the paths to look at, each with whether its removal was seen, and forget them."""
        with self._lock:
            taken, self._paths = self._paths, {}
        return taken

    def take_scan(self) -> str:
        """Return why a scan was asked for, empty if none was, and forget it."""
        with self._lock:
            taken, self._scan = self._scan, ""
        return taken

    def take_check(self) -> bool:
        """Return whether a check of the root was asked for, and forget it."""
        with self._lock:
            taken, self._check = self._check, False
        return taken

    @property
    def scan_asked(self) -> bool:
        """Whether a scan was asked for."""
        return bool(self._scan)

    def __len__(self) -> int:
        return len(self._paths)
