"""The processing of stored videos: one thread works through a queue, and a restart goes on."""

import json
import logging
import queue
import threading
from dataclasses import asdict, dataclass

from syncd.emulator.contents import Contents
from syncd.emulator.store import ObjectIndex, StoredObject
from syncd.emulator.video import VideoError, read_video

log = logging.getLogger(__name__)


class _Stopped(Exception):  # noqa: N818 - control flow, out of the middle of a video
    """The emulator is stopping."""


@dataclass(kw_only=True, eq=False)
class Processing:
    """A queue of videos and the thread that works through it."""

    store: ObjectIndex
    contents: Contents
    seconds: float

    def __post_init__(self) -> None:
        self._queue: queue.SimpleQueue[StoredObject | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="emulator-processing", daemon=True)

    def start(self) -> None:
        """Queue what the last run left unprocessed, and wait for more."""
        for stored in self.store.unprocessed():
            self._queue.put(stored)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and leave the current video to the next start."""
        self._stop.set()
        self._queue.put(None)
        self._thread.join()

    def submit(self, stored: StoredObject | None) -> None:
        """Queue an object if it is a video whose bytes have arrived."""
        if stored and (stored.state, stored.processing_status) == ("live", "pending"):
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

    def _process(self, stored: StoredObject) -> None:
        # The object may be deleted by now, or have other content, which is queued as well.
        if self._finish(stored, "processing") is None:
            return
        if self._stop.wait(self.seconds):
            raise _Stopped
        try:
            with self.contents.video(stored) as (video, frames):
                facts = read_video(video, frames, each=self._check_stop)
        except VideoError as error:
            self._finish(stored, "failed", error_message=str(error))
        else:
            self._finish(stored, "completed", video_metadata=json.dumps(asdict(facts)))

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _finish(self, stored: StoredObject, status: str, **values: str) -> StoredObject | None:
        return self.store.change(
            stored.file_uuid, content_was=stored.content, processing_status=status, **values
        )
