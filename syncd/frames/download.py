"""Downloads a video's frames, several at a time, each one whole or not at all."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from syncd.exceptions import SyncdError
from syncd.files_api import (
    BadAnswerError,
    FilesApiError,
    FilesClient,
    RateLimitedError,
    RefusedError,
    StopFlag,
)
from syncd.frames.directory import FrameDirectory, FramesError, Kept
from syncd.state.backoff import backoff_seconds
from syncd.units import size

#: Frames downloaded at a time.
AT_A_TIME = 6
#: How often a frame is tried, and the most seconds that one try takes.
TRIES, TRY_SECONDS = 4, 600.0
#: The longest pause between two tries; if the service asks for more, the next call goes on.
MOST_WAIT_SECONDS = 60.0
#: Failures without a success in between after which the rest is not tried.
MOST_FAILURES = 12
#: A presigned URL that is refused at this age, in seconds, was not refused for its age.
FRESH_SECONDS = 60.0


class DownloadError(SyncdError):
    """It is useless to go on with any frame; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class FrameOutcome:
    """The end of one frame: where it is, and whether it was there before; or why it is not."""

    number: int
    kept: Kept | None = None
    was_there: bool = False
    error: str = ""


class FrameUrls:
    """The presigned URLs of a video's frames, listed anew when they expire. Thread-safe."""

    def __init__(self, ask: Callable[[], Sequence[str]]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._listed_at = time.monotonic()
        self._urls = ask()

    def __len__(self) -> int:
        return len(self._urls)

    def of(self, number: int) -> str:
        """Return the URL of a frame; the first has the number 1."""
        return self._urls[number - 1]

    def renew(self, number: int, refused: str) -> bool:
        """Return whether a frame has another URL than the one that was `refused`, or get one."""
        with self._lock:
            if self.of(number) != refused:
                return True
            if time.monotonic() - self._listed_at < FRESH_SECONDS:
                return False
            urls, self._listed_at = self._ask(), time.monotonic()
            if len(urls) != len(self._urls):
                raise DownloadError(f"the video has {len(urls)} frames now, and had {len(self)}")
            self._urls = urls
            return True


@dataclass
class Download:
    """Downloads what is missing in a directory; `run` yields the end of each frame."""

    urls: FrameUrls
    directory: FrameDirectory
    #: makes a client that has no key, for each thread
    make_client: Callable[[StopFlag], FilesClient]
    #: the most bytes of all that is downloaded
    most_bytes: int
    _stop: StopFlag = field(default_factory=StopFlag, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _bytes: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)

    def run(self) -> Iterator[FrameOutcome]:
        """Yield each outcome as it comes; raise what makes going on useless."""
        missing = []
        for number in range(1, len(self.urls) + 1):
            if number in self.directory.kept:
                yield FrameOutcome(number, self.directory.kept[number], was_there=True)
            else:
                missing.append(number)
        outcomes: queue.SimpleQueue[FrameOutcome | BaseException | None] = queue.SimpleQueue()
        numbers = iter(missing)
        threads = [
            threading.Thread(target=self._work, args=(numbers, outcomes), name=f"frames-{each}")
            for each in range(min(AT_A_TIME, len(missing)))
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in threads:
                while (outcome := outcomes.get()) is not None:
                    if isinstance(outcome, BaseException):
                        raise outcome
                    yield outcome
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _work(
        self,
        numbers: Iterator[int],
        outcomes: "queue.SimpleQueue[FrameOutcome | BaseException | None]",
    ) -> None:
        try:
            with self.make_client(self._stop) as client:
                while (number := self._next(numbers)) is not None:
                    outcomes.put(self._end_of(client, number))
        except OSError as error:
            outcomes.put(DownloadError(f"cannot write a frame: {error.strerror}"))
        except BaseException as error:
            outcomes.put(error)
        outcomes.put(None)

    def _next(self, numbers: Iterator[int]) -> int | None:
        with self._lock:
            if self._failures >= MOST_FAILURES or self._stop.is_set():
                return None
            return next(numbers, None)

    def _end_of(self, client: FilesClient, number: int) -> FrameOutcome:
        try:
            outcome = FrameOutcome(number, self._tried(client, number))
        except FramesError as error:
            outcome = FrameOutcome(number, error=str(error))
        except FilesApiError as error:
            outcome = FrameOutcome(number, error=error.text)
        with self._lock:
            self._failures = 0 if outcome.kept else self._failures + 1
        return outcome

    def _tried(self, client: FilesClient, number: int) -> Kept:
        for attempt in count(1):
            url = self.urls.of(number)
            try:
                return self._once(client, number, url)
            except FilesApiError as error:
                wait = self._pause(error, attempt, number, url)
                if wait is None or attempt == TRIES:
                    raise
            self._stop.wait(wait)
        raise AssertionError(number)

    def _pause(self, error: FilesApiError, attempt: int, number: int, url: str) -> float | None:
        """Return the seconds until another try may succeed; None if it will not."""
        if isinstance(error, RefusedError) and not isinstance(error, RateLimitedError):
            return 0.0 if self.urls.renew(number, url) else None
        is_redirect = error.status is not None and error.status < 400
        if is_redirect or error.is_lasting or isinstance(error, BadAnswerError):
            return None
        wait = backoff_seconds(attempt, asked=error.retry_after)
        return wait if wait <= MOST_WAIT_SECONDS else None

    def _once(self, client: FilesClient, number: int, url: str) -> Kept:
        with self.directory.draft() as draft:

            def take(part: bytes) -> None:
                self._spend(len(part))
                draft.write(part)

            client.download(url, take, deadline_seconds=TRY_SECONDS)
            return self.directory.keep(draft, number)

    def _spend(self, number: int) -> None:
        with self._lock:
            self._bytes += number
            if self._bytes > self.most_bytes:
                raise DownloadError(
                    f"the frames have more than {size(self.most_bytes)} in all; if that is right, "
                    "raise --max-size: what is there already is not downloaded again"
                )
