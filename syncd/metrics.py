"""What was counted since the start, for whoever asks: a leaf that any part may add to.

Names and labels are Prometheus's; `syncd.server.exposition` puts them in its words. No label holds
a path or a secret.
"""

import threading
from collections.abc import Mapping


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
RELOADS = Tally("syncd_reloads", "Reloads of the configuration.", "outcome")

TALLIES = (
    UPLOADED_FILES,
    UPLOADED_BYTES,
    DELETED_FILES,
    RETRIES,
    REQUESTS,
    REQUEST_SECONDS,
    RELOADS,
)
