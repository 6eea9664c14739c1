"""Whether the storage behind presigned URLs takes content, judged apart from the service."""

import threading
from collections.abc import Callable

from syncd.state.backoff import backoff_seconds
from syncd.workers.probe import TRIPPED_AFTER, Probe


class StorageOutage:
    """Counts content that the storage did not take. Thread-safe; times are on `monotonic`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        #: the files whose content was not taken since the last success
        self._files: set[int] = set()
        self._failures = 0
        self.until = 0.0
        self.probe = Probe(monotonic)

    @property
    def is_tripped(self) -> bool:
        """Whether the content of several files failed in a row."""
        return self._failures >= TRIPPED_AFTER and len(self._files) > 1

    def failed(self, file_id: int) -> None:
        """Count a failure, and lengthen the pause before the next probe."""
        with self._lock:
            self._files.add(file_id)
            self._failures += 1
            pause = backoff_seconds(max(self._failures - TRIPPED_AFTER + 1, 1))
            self.until = self._monotonic() + pause

    def reset(self) -> bool:
        """Forget all failures; return whether the storage was down."""
        with self._lock:
            was_tripped = self.is_tripped
            self._files.clear()
            self._failures = 0
        return was_tripped
