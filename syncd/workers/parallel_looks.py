"""Looks at several folders at once, each on its own thread, so that a hung one stops no other."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from syncd.disk import Sight
from syncd.state.files import File

#: Seconds to wait for the looks at all folders together.
PATIENCE_SECONDS = 2.0
#: Seconds for which the answer of a look that took longer still counts.
FRESH_SECONDS = 30.0

Look = Callable[[str, Sequence[bytes]], Mapping[bytes, Sight]]


class _Lookout(threading.Thread):
    """One look at one folder."""

    def __init__(self, look: Look, folder: str, files: Sequence[File]) -> None:
        # A hung disk must not keep the process from ending.
        super().__init__(name=f"syncd-look-{folder}", daemon=True)
        self._look, self._folder = look, folder
        self._asked = {file.path: file for file in files}
        self._seen: Mapping[bytes, Sight] = {}
        self._error: Exception | None = None
        self._ended_at = 0.0

    def run(self) -> None:
        try:
            self._seen = self._look(self._folder, list(self._asked))
        except Exception as error:
            self._error = error
        self._ended_at = time.monotonic()

    @property
    def is_stale(self) -> bool:
        """Whether it ended too long ago for its answer to count."""
        return not self.is_alive() and self._ended_at + FRESH_SECONDS < time.monotonic()

    def answer(self, files: Sequence[File]) -> dict[bytes, Sight]:
        """Return the observations of files that are unchanged since the look began.

        Raise the exception that ended the look, if there is one.
        """
        if self._error is not None:
            raise self._error
        same = [file.path for file in files if self._asked.get(file.path) == file]
        return {path: self._seen[path] for path in same if path in self._seen}


class ParallelLooks:
    """Looks at folders; a folder that does not answer is not asked again until it does."""

    def __init__(self, look: Look, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._look = look
        self._patience_seconds = patience_seconds
        self._waiting: dict[str, _Lookout] = {}

    def look(self, wanted: Mapping[str, Sequence[File]]) -> dict[str, dict[bytes, Sight]]:
        """Look at the `wanted` files of folders; return the observations of each that answered.

        A late answer is returned by the next call, and may lack some of the files.
        """
        begun = []
        for folder, files in wanted.items():
            known = self._waiting.get(folder)
            if known is None or known.is_stale:
                self._waiting[folder] = _Lookout(self._look, folder, files)
                self._waiting[folder].start()
                begun.append(self._waiting[folder])
        deadline = time.monotonic() + self._patience_seconds
        for lookout in begun:
            lookout.join(max(deadline - time.monotonic(), 0.0))
        ended = [name for name in wanted if not self._waiting[name].is_alive()]
        return {name: self._waiting.pop(name).answer(wanted[name]) for name in ended}
