"""Follows videos until the service has processed them, and asks for released copies."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from syncd.exceptions import StateError
from syncd.files_api import FileDetail, FilesApiError, FilesClient, NotFoundError, ProcessingStatus
from syncd.log import fields
from syncd.metrics import PROCESSING_SECONDS
from syncd.state import files, polls
from syncd.state.backoff import backoff_seconds
from syncd.state.copies import Copy
from syncd.state.database.store import Store
from syncd.state.ledger import Failure, Ledger
from syncd.state.lifecycle import CopyStatus
from syncd.units import counted
from syncd.workers.gate import Gate
from syncd.workers.key_check import may_list
from syncd.workers.poll_options import PollOptions
from syncd.workers.video_listing import VideoListing

log = logging.getLogger(__name__)

#: A larger number of frames is a mistake of the service.
MOST_FRAMES = 1 << 53
#: The limit on requests for released copies, however many are taken up again.
ASKS_PER_SECOND = 50.0
#: Times `polls_per_second` at which videos are asked for that a listing rightly showed to be done:
#: that look is the last one at each.
DONE_FACTOR = 10.0
#: Seconds that a step takes at least while listings are read.
FOLLOWED_STEP_SECONDS = 1.0


@dataclass(kw_only=True, eq=False)
class Poller:
    """The follow-up stage: `step` asks for each video that is due."""

    store: Store
    ledger: Ledger
    client: FilesClient
    gate: Gate
    options: PollOptions
    clock: Callable[[], float]
    #: waits so many seconds; returns True if the daemon is to stop
    pause: Callable[[float], bool]

    def __post_init__(self) -> None:
        self.listing = VideoListing(
            store=self.store,
            ledger=self.ledger,
            client=self.client,
            gate=self.gate,
            options=self.options,
            clock=self.clock,
            pause=self.pause,
        )

    def step(self) -> float | None:
        """Look at each video that is due; return the seconds until the next one is."""
        if shut := self.gate.seconds_shut_for_all():
            return shut
        if self.listing.read():
            return None
        now = self.clock()
        videos = self.store.read(
            polls.due, now, self.options.listing_threshold, self.listing.answered
        )
        are_many = len(videos) == self.options.listing_threshold
        if are_many and self.listing.follow():
            return 0.0
        for copy in {copy.id: copy for copy in (*self.listing.done(), *videos)}.values():
            if self.gate.seconds_shut_for_all():
                return 0.0
            self.look(copy)
            if self.pause(1.0 / self._rate_after(copy)):
                return None
        if are_many or self.listing.has_done:
            return 0.0
        answered = self.listing.answered
        # Each commit wakes this step, and a look through thousands of rows takes a while.
        if answered.workspaces and self.pause(FOLLOWED_STEP_SECONDS):
            return None
        times = (self.store.read(polls.next_due, now, answered), self.listing.next_at)
        next_at = min((at for at in times if at is not None), default=None)
        return None if next_at is None else max(next_at - self.clock(), 0.0)

    def _rate_after(self, copy: Copy) -> float:
        """Learn from a look at a copy; return how many like it may follow within a second."""
        if self.listing.learn(copy):
            return DONE_FACTOR * self.options.polls_per_second
        if copy.status is CopyStatus.RELEASED:
            return ASKS_PER_SECOND
        return self.options.polls_per_second

    def look(self, copy: Copy) -> None:
        """Ask for a video, or for a copy whose content its file holds again.

        An unexpected failure postpones this copy alone.
        """
        try:
            self._look(copy)
        except StateError:
            raise
        except Exception as error:
            log.error(
                "%s: unexpected failure, looked at again later",
                self._shown_path(copy),
                exc_info=error,
            )
            self._put_off(copy, Failure(f"unexpected failure: {type(error).__name__}"), None)

    def _look(self, copy: Copy) -> None:
        if copy.file_uuid is None:
            return
        try:
            is_processing = copy.status is CopyStatus.PROCESSING
            if not is_processing and not copy.content_type.startswith("video/"):
                self._found(copy, self.client.get(copy.file_uuid))
                return
            status = self.client.get_status(copy.file_uuid)
            if status.processing_status == "completed":
                detail = self.client.get(copy.file_uuid)
                self.gate.succeeded()
                self._completed(copy, status, detail)
                return
        except NotFoundError as error:
            self._not_found(copy, error)
            return
        except FilesApiError as error:
            self.gate.failed(error)
            self._later(copy, error)
            return
        self.gate.succeeded()
        if status.processing_status == "failed":
            self._failed(copy, status)
        else:
            now = self.clock()
            look_at = now + self.options.wait(copy, now)
            state = status.processing_status or "processing"
            self.store.write(self.ledger.still_processing, copy, state, look_at, None)

    def _found(self, copy: Copy, detail: FileDetail) -> None:
        """Record that a released copy, which its file holds the content of again, is there."""
        self.gate.succeeded()
        now = self.clock()
        became = self.store.write(
            self.ledger.completed,
            copy.id,
            now,
            remote_file_path=detail.remote_file_path,
            frame_count=copy.frame_count,
            video_metadata=copy.video_metadata,
        )
        log.info("%s: found again, %s, %s", self._shown_path(copy), became, copy.file_uuid)

    def _completed(self, copy: Copy, status: ProcessingStatus, detail: FileDetail) -> None:
        metadata = detail.video_metadata or {}
        count = metadata.get("frame_count")
        if type(count) is not int or not 0 <= count <= MOST_FRAMES:
            count = self._count_frames(copy)
        now = self.clock()
        became = self.store.write(
            self.ledger.completed,
            copy.id,
            now,
            remote_file_path=status.remote_file_path or detail.remote_file_path,
            frame_count=count,
            video_metadata=json.dumps(metadata) if metadata else None,
        )
        if copy.status is CopyStatus.PROCESSING and copy.stored_at is not None:
            PROCESSING_SECONDS.observe(seconds=max(now - copy.stored_at, 0.0))
        path = self._shown_path(copy)
        log.info(
            "%s: %s, %s (processed%s)",
            path,
            became,
            copy.file_uuid,
            "" if count is None else f", {counted(count, 'frame')}",
            extra=fields(
                "processed", path=path, status=became, file_uuid=copy.file_uuid, frames=count
            ),
        )

    def _count_frames(self, copy: Copy) -> int | None:
        """Ask for the frames if the metadata does not count them; None if there are none."""
        if copy.file_uuid is None:
            return None
        try:
            return self.client.get_frames(copy.file_uuid).frame_count
        except FilesApiError as error:
            self.gate.failed(error)
            # The copy is whole; a missing count is no reason to hold it back.
            log.warning("%s: its frames could not be counted: %s", self._shown_path(copy), error)
            return None

    def _failed(self, copy: Copy, status: ProcessingStatus) -> None:
        failure = Failure(status.error_message or "the service could not process it")
        now = self.clock()
        self.store.write(self.ledger.processing_failed, copy.id, failure, now)
        path = self._shown_path(copy)
        log.error(
            "%s: processing failed: %s",
            path,
            failure.message,
            extra=fields("processing_failed", path=path, file_uuid=copy.file_uuid),
        )

    def _not_found(self, copy: Copy, error: NotFoundError) -> None:
        """Believe a 404 only if the service itself says it twice in a row, to a key that works."""
        is_repeated = copy.error_status == error.status and copy.error_code == error.code
        is_proven = error.is_the_services and is_repeated
        if not (is_proven and may_list(self.client, self.gate, copy.workspace_uuid)):
            self._later(copy, error)
            return
        now = self.clock()
        log.warning("%s: %s is gone remotely", self._shown_path(copy), copy.file_uuid)
        self.store.write(self.ledger.gone_remotely, copy.id, now)

    def _later(self, copy: Copy, error: FilesApiError) -> None:
        failure = Failure(error.message, error.status, error.code, error.request_id)
        self._put_off(copy, failure, error.retry_after)

    def _put_off(self, copy: Copy, failure: Failure, asked: float | None) -> None:
        wait = max(
            self.options.wait(copy, self.clock()), backoff_seconds(copy.attempts + 1, asked=asked)
        )
        look_at = self.clock() + wait
        state = copy.processing_status or "processing"
        self.store.write(self.ledger.still_processing, copy, state, look_at, failure)

    def _shown_path(self, copy: Copy) -> str:
        file = self.store.read(files.get, copy.file_id)
        return file.shown if file else "?"
