"""Counters since the start: a leaf module that any part may add to.

Names and labels are Prometheus's; `syncd.server.exposition` puts them in its words. No label holds
a path or a secret.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

Labels = Iterable[tuple[str, ...]]


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


class Histogram:
    """How often something took how many seconds, for each combination of labels. Thread-safe."""

    def __init__(
        self, name: str, about: str, buckets: Sequence[float], *labels: str, known: Labels = ((),)
    ) -> None:
        """`buckets` are upper bounds; the labels in `known` are shown before anything took long."""
        self.name = name
        self.about = about
        self.buckets = buckets
        self.labels = labels
        self._lock = threading.Lock()
        self._counts = {values: [0] * (len(buckets) + 1) for values in known}
        self._sums = dict.fromkeys(known, 0.0)

    def observe(self, *labels: str, seconds: float) -> None:
        """Count one that took so long."""
        place = bisect_left(self.buckets, seconds)
        with self._lock:
            counts = self._counts.setdefault(labels, [0] * (len(self.buckets) + 1))
            counts[place] += 1
            self._sums[labels] = self._sums.get(labels, 0.0) + seconds

    def values(self) -> Mapping[tuple[str, ...], tuple[list[int], float]]:
        """Return how many fell into each bucket, and the sum of seconds; the last has no bound."""
        with self._lock:
            return {
                labels: (list(counts), self._sums[labels])
                for labels, counts in self._counts.items()
            }


UPLOADED_FILES = Tally("syncd_uploaded_files", "Files stored by the service.", "folder")
UPLOADED_BYTES = Tally("syncd_uploaded_bytes", "Bytes of files stored by the service.", "folder")
DELETED_FILES = Tally("syncd_deleted_files", "Remote copies deleted.", "folder")
RETRIES = Tally("syncd_retries", "Uploads put off to be tried again.", "folder")
REQUESTS = Tally(
    "syncd_api_requests",
    "Requests to the Files API, and those to storages by a presigned URL (`put`, `length`); the "
    "status is `none` if there was no answer.",
    "operation",
    "status",
)
REQUEST_SECONDS = Tally(
    "syncd_api_request_seconds", "Seconds spent on these requests.", "operation"
)
WATCH_OVERFLOWS = Tally(
    "syncd_watch_overflows",
    "Overflows of the kernel's queue of events; a scan made up for each.",
    "folder",
)
RELOADS = Tally("syncd_reloads", "Reloads of the configuration.", "outcome")
UPLOAD_SECONDS = Histogram(
    "syncd_upload_seconds",
    "Time from the beginning of a transfer to the answer that all of it was taken.",
    (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
    "method",
    known=[("direct",), ("presigned",)],
)
PROCESSING_SECONDS = Histogram(
    "syncd_processing_seconds",
    "Time from the upload of a video until it was found processed.",
    (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 14_400, 86_400),
)

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
HISTOGRAMS = (UPLOAD_SECONDS, PROCESSING_SECONDS)
