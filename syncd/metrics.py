"""What was counted since the start, for whoever asks: a leaf that any part may add to.

Names and labels are Prometheus's; `syncd.server.exposition` puts them in its words. No label holds
a path or a secret.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping


class Tally:
    """A count, or a sum of seconds or bytes, for each combination of labels. Thread-safe."""

    def __init__(self, name: str, about: str, *labels: str) -> None:
        self.name = name
        self.about = about
        self.labels = labels
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Count one more, or `by` more, for these values of the labels."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0.0) + by

    def values(self) -> Mapping[tuple[str, ...], float]:
        """Return what was counted so far."""
        with self._lock:
            return dict(self._values)


class LastHour:
    """Files and bytes in each of the last 60 minutes. Thread-safe."""

    MINUTES = 60

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._minute = int(monotonic() // 60)
        self._counts = deque([(0, 0)] * self.MINUTES, self.MINUTES)

    def add(self, size: int) -> None:
        """Count one file of `size` bytes, now."""
        with self._lock:
            self._advance()
            files, total = self._counts[-1]
            self._counts[-1] = (files + 1, total + size)

    def minutes(self) -> list[tuple[int, int]]:
        """Return files and bytes of each minute; the last is the one that runs."""
        with self._lock:
            self._advance()
            return list(self._counts)

    def _advance(self) -> None:
        minute = int(self._monotonic() // 60)
        self._counts.extend([(0, 0)] * min(minute - self._minute, self.MINUTES))
        self._minute = minute


#: What the service stored in the last hour: for the page, which draws it.
UPLOADED_LAST_HOUR = LastHour()

UPLOADED_FILES = Tally("syncd_uploaded_files", "Files stored by the service.", "folder")
UPLOADED_BYTES = Tally("syncd_uploaded_bytes", "Bytes of files stored by the service.", "folder")
DELETED_FILES = Tally("syncd_deleted_files", "Remote copies deleted.", "folder")
RETRIES = Tally("syncd_retries", "Uploads put off to be tried again.", "folder")
REQUESTS = Tally(
    "syncd_api_requests",
    "Requests to the Files API; the status is `none` where there was no answer.",
    "operation",
    "status",
)
REQUEST_SECONDS = Tally(
    "syncd_api_request_seconds", "Seconds spent on requests to the Files API.", "operation"
)
WATCH_OVERFLOWS = Tally(
    "syncd_watch_overflows",
    "Overflows of the kernel's queue of events; a scan made up for each.",
    "folder",
)
RELOADS = Tally("syncd_reloads", "Reloads of the configuration.", "outcome")

TALLIES = (
    UPLOADED_FILES,
    UPLOADED_BYTES,
    DELETED_FILES,
    RETRIES,
    REQUESTS,
    REQUEST_SECONDS,
    WATCH_OVERFLOWS,
    RELOADS,
)
