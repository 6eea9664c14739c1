"""What happens to a video after it is stored.

One thread takes one after another, as a queue would; a restart takes up where it ended.
"""

import json
import logging
import queue
import threading
from dataclasses import asdict

from syncd.emulator.contents import Contents
from syncd.emulator.store import Store, Stored
from syncd.emulator.video import VideoError, read_video

log = logging.getLogger(__name__)


class _Stopped(Exception):  # noqa: N818 - control flow, out of the middle of a video
    """The emulator stops."""


class Processing:
    """A queue of videos and the thread that works through it."""

    def __init__(self, *, store: Store, contents: Contents, seconds: float) -> None:
        self._store = store
        self._contents = contents
        self._seconds = seconds
        self._queue: queue.SimpleQueue[Stored | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="emulator-processing", daemon=True)

    def start(self) -> None:
        """Take up what the last run left, and wait for more."""
        for stored in self._store.unprocessed():
            self.submit(stored)
        self._thread.start()

    def stop(self) -> None:
        """End, leaving the video under way to the next start."""
        self._stop.set()
        self._queue.put(None)
        self._thread.join()

    def submit(self, stored: Stored) -> None:
        """Have a video processed."""
        self._queue.put(stored)

    def _run(self) -> None:
        while (stored := self._queue.get()) is not None and not self._stop.is_set():
            try:
                self._process(stored)
            except _Stopped:
                return
            except Exception:
                log.exception("processing %s failed", stored.file_uuid)
                self._finish(stored, "failed", error_message="internal error while processing")

    def _process(self, stored: Stored) -> None:
        # None where it was deleted, or got other content: then it was submitted anew.
        if self._finish(stored, "processing") is None:
            return
        if self._stop.wait(self._seconds):
            raise _Stopped
        try:
            with self._contents.video(stored) as (video, frames):
                facts = read_video(video, frames, each=self._go_on)
        except VideoError as error:
            self._finish(stored, "failed", error_message=str(error))
        else:
            self._finish(stored, "completed", video_metadata=json.dumps(asdict(facts)))

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _finish(self, stored: Stored, status: str, **values: str) -> Stored | None:
        return self._store.change(
            stored.file_uuid, content_was=stored.content, processing_status=status, **values
        )
