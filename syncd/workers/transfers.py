"""The transfers under way: what is read, what is sent, and how far."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from syncd.state.files import File


@dataclass(slots=True, eq=False)
class Transfer:
    """A transfer under way: who, how far, since when (seconds since the epoch)."""

    folder: str
    path: bytes
    size: int
    since: float
    sent: int = 0
    #: when it moved last
    moved_at: float | None = None
    #: it is read to know its content, and not sent yet
    is_read: bool = False
    #: of the last answer
    request_id: str | None = None
    #: whether what took the bytes answered as an object store does
    has_etag: bool = False


class Transfers:
    """Those of all threads. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: set[Transfer] = set()

    @contextmanager
    def under_way(self, file: File, size: int, *, is_read: bool = False) -> Iterator[Transfer]:
        """Within, a file is read or sent."""
        transfer = Transfer(file.folder, file.path, size, self._clock(), is_read=is_read)
        with self._lock:
            self._under_way.add(transfer)
        try:
            yield transfer
        finally:
            with self._lock:
                self._under_way.discard(transfer)

    def moved(self, transfer: Transfer, sent: int) -> None:
        """Note that a transfer has got so many bytes further."""
        transfer.sent, transfer.moved_at = sent, self._clock()

    def all(self) -> list[Transfer]:
        """Return the transfers under way, oldest first."""
        with self._lock:
            under_way = list(self._under_way)
        return sorted(under_way, key=lambda transfer: transfer.since)

    def stalled(self, seconds: float) -> int:
        """Return how many have not moved for `seconds`, but for those that await an answer."""
        before = self._clock() - seconds
        return sum(
            (transfer.moved_at or transfer.since) < before
            and (transfer.is_read or transfer.sent < transfer.size)
            for transfer in self.all()
        )
