"""Lets one file at a time show whether an obstacle to all files is gone."""

import threading
from collections.abc import Callable

#: Failures in a row after which only one file at a time is tried.
TRIPPED_AFTER = 5
#: Seconds after which another file may probe beside a slow one: a large file, a hung disk.
PROBE_SECONDS = 30.0


class Probe:
    """The file whose turn it is while all others wait. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since: dict[int, float] = {}

    def claim(self, file_id: int) -> bool:
        """Give `file_id` the turn; False while another one has it."""
        now = self._monotonic()
        with self._lock:
            if any(now - since < PROBE_SECONDS for since in self._since.values()):
                return False
            self._since[file_id] = now
            return True

    @property
    def is_free(self) -> bool:
        """Whether a file may claim the turn."""
        now = self._monotonic()
        with self._lock:
            return all(now - since >= PROBE_SECONDS for since in self._since.values())

    def has(self, file_id: int) -> bool:
        """Return whether it is this file's turn."""
        with self._lock:
            return file_id in self._since

    def end(self, file_id: int) -> None:
        """Take the turn from `file_id`, if it has it."""
        if self._since:
            with self._lock:
                self._since.pop(file_id, None)
