"""What happens to an object after it is stored: fetched if it is remote, processed if a video.

One thread takes one object after another, as a queue would; a restart takes up where it ended.
"""

import json
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256

import httpx

from syncd.emulator.store import Store, Stored
from syncd.emulator.video import VideoError, read_video

log = logging.getLogger(__name__)

#: The longest fetch of a remote file, in seconds for each of its reads, and in bytes.
FETCH_SECONDS, FETCH_BYTES = 30.0, 5 << 30


class Processing:
    """A queue of objects and the thread that works through it."""

    def __init__(self, *, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="emulator-processing", daemon=True)

    def start(self) -> None:
        """Take up what the last run left, and wait for more."""
        for stored in self._store.unprocessed():
            self.submit(stored.file_uuid)
        self._thread.start()

    def stop(self) -> None:
        """Finish the object under way and end."""
        self._stop.set()
        self._queue.put(None)
        self._thread.join()

    def submit(self, file_uuid: str) -> None:
        """Have an object processed."""
        self._queue.put(file_uuid)

    def _run(self) -> None:
        while (file_uuid := self._queue.get()) is not None and not self._stop.is_set():
            try:
                self._process(file_uuid)
            except Exception:
                log.exception("processing %s failed", file_uuid)
                self._fail(file_uuid, "internal error while processing")

    def _process(self, file_uuid: str) -> None:
        stored = self._store.change(file_uuid, processing_status="processing")
        if stored is None or self._stop.wait(self._seconds):
            return
        if stored.remote_uri is not None and stored.sha256 is None:
            stored = self._fetch(stored)
        if stored is None:
            return
        if stored.file_type != "video":
            self._store.change(file_uuid, processing_status="completed")
            return
        try:
            facts = read_video(self._store.blob(file_uuid), self._store.frames(file_uuid))
        except VideoError as error:
            self._fail(file_uuid, str(error))
            return
        self._store.change(
            file_uuid,
            processing_status="completed",
            video_metadata=json.dumps(asdict(facts)),
            frame_count=facts.frame_count,
        )

    def _fetch(self, stored: Stored) -> Stored | None:
        part = self._store.part()
        digest, size = sha256(), 0
        try:
            with (
                part.open("wb") as file,
                httpx.stream("GET", str(stored.remote_uri), timeout=FETCH_SECONDS) as answer,
            ):
                answer.raise_for_status()
                for chunk in answer.iter_bytes():
                    digest.update(chunk)
                    size += len(chunk)
                    if size > FETCH_BYTES:
                        raise ValueError("the file is too large")
                    file.write(chunk)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            part.unlink(missing_ok=True)
            self._fail(stored.file_uuid, f"the remote file could not be fetched: {error}")
            return None
        part.replace(self._store.blob(stored.file_uuid))
        return self._store.change(
            stored.file_uuid, sha256=digest.hexdigest(), size=size, state="live"
        )

    def _fail(self, file_uuid: str, message: str) -> None:
        self._store.change(file_uuid, processing_status="failed", error_message=message)


Submit = Callable[[str], None]
