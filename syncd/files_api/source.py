"""The bytes of one upload: read from a descriptor, hashed, the last chunk held back."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from syncd.exceptions import FileChangedError, UnreadableError

#: Larger chunks gain nothing; smaller ones cost (measured: 64 KiB a fifth slower).
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class UploadSource:
    """The content to send: exactly `size` bytes of an open descriptor, from its beginning.

    The descriptor is read by position, so its own offset neither matters nor moves; the caller
    closes it. `before_last` is called with the hex sha256 of all `size` bytes before the last
    chunk is released (for a file of one chunk, before its first byte): raise in it, and the
    transfer is dropped unfinished and the exception passes through unchanged. `progress` is
    called with the number of bytes handed to the network so far, and `on_rest` with the seconds
    of each wait for the bandwidth; either may raise to drop the transfer, too.
    """

    fd: int
    size: int
    before_last: Callable[[str], None] | None = None
    progress: Callable[[int], None] | None = None
    on_rest: Callable[[float], None] | None = None

    def chunks(self) -> Iterator[tuple[bytes, bool]]:
        """Yield each chunk, and whether it is the last one.

        Raises FileChangedError, before the last chunk, where the file turns out shorter or longer
        than `size`, and UnreadableError if it cannot be read.
        """
        digest = hashlib.sha256()
        offset = 0
        while self.size - offset > CHUNK_BYTES:
            chunk = self._read(offset, CHUNK_BYTES)
            digest.update(chunk)
            yield chunk, False
            offset += CHUNK_BYTES
            self.tell(offset)
        last = self._read(offset, self.size - offset)
        if self._pread(1, self.size):
            raise FileChangedError(f"the file grew beyond {self.size} bytes while it was sent")
        digest.update(last)
        if self.before_last is not None:
            self.before_last(digest.hexdigest())
        yield last, True
        self.tell(self.size)

    def _read(self, offset: int, length: int) -> bytes:
        chunk = self._pread(length, offset)
        while len(chunk) < length:
            more = self._pread(length - len(chunk), offset + len(chunk))
            if not more:
                found = offset + len(chunk)
                raise FileChangedError(
                    f"the file shrank from {self.size} to {found} bytes while it was sent"
                )
            chunk += more
        return chunk

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise UnreadableError(
                f"the file cannot be read at byte {offset}: {error.strerror}"
            ) from error

    def tell(self, sent: int) -> None:
        """Tell how many bytes were handed to the network."""
        if self.progress is not None:
            self.progress(sent)

    def rested(self, seconds: float) -> None:
        """Tell of a wait for the bandwidth."""
        if self.on_rest is not None:
            self.on_rest(seconds)
