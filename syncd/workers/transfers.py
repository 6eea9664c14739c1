"""The transfers under way: what is read, what is sent, and how far."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from syncd.state.files import File


@dataclass(slots=True, eq=False)
class Transfer:
    """A transfer under way: who, how far, since when (seconds since the epoch)."""

    folder: str
    path: bytes
    size: int
    since: float
    #: the transfers of all threads
    among: "Transfers" = field(repr=False)
    sent: int = 0
    #: when it moved last
    moved_at: float | None = None
    #: whether it is read to know its content, and not sent yet
    is_read: bool = False
    #: seconds for which it waited for its share of the bandwidth
    rested: float = 0.0
    #: of the last answer
    request_id: str | None = None
    #: whether what took the bytes answered as an object store does
    has_etag: bool = False

    def __enter__(self) -> Self:
        self.among.begin(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.among.end(self)


class Transfers:
    """The transfers of all threads. Thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: each change and each copy of it is one step of the interpreter
        self._under_way: set[Transfer] = set()
        self._ended = threading.Lock()
        self._files = self._bytes = 0

    def under_way(self, file: File, size: int, *, is_read: bool = False) -> Transfer:
        """Return a transfer, as the context in which a file is read or sent."""
        now = self._clock()
        return Transfer(file.folder, file.path, size, now, self, is_read=is_read)

    def begin(self, transfer: Transfer) -> None:
        """Count a transfer among those under way."""
        self._under_way.add(transfer)

    def end(self, transfer: Transfer) -> None:
        """Count a transfer among those that ended."""
        with self._ended:
            self._under_way.discard(transfer)
            if not transfer.is_read:
                self._files += 1
                self._bytes += transfer.sent

    def sent(self) -> tuple[int, int]:
        """Return how many transfers ended, and how many bytes were sent in all."""
        with self._ended:
            under_way = sum(each.sent for each in self.all() if not each.is_read)
            return self._files, self._bytes + under_way

    def moved(self, transfer: Transfer, sent: int) -> None:
        """Record that so many bytes of a transfer were sent."""
        transfer.sent, transfer.moved_at = sent, self._clock()

    def all(self) -> list[Transfer]:
        """Return the transfers under way, oldest first."""
        return sorted(self._under_way, key=lambda transfer: transfer.since)

    def stalled(self, seconds: float) -> int:
        """Return how many have not moved for `seconds`, except those that await an answer."""
        before = self._clock() - seconds
        return sum(
            (transfer.moved_at or transfer.since) < before
            and (transfer.is_read or transfer.sent < transfer.size)
            for transfer in self.all()
        )
