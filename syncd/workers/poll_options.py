"""How often the service is asked how far a video is."""

from dataclasses import dataclass

from syncd.state.backoff import poll_seconds
from syncd.state.copies import Copy
from syncd.state.lifecycle import CopyStatus

STALLED_POLL_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class PollOptions:
    """How often to look, in seconds; `polls_per_second` bounds all looks together."""

    first_poll_seconds: float = 2.0
    max_poll_seconds: float = 60.0
    polls_per_second: float = 5.0
    #: a video in processing for longer is looked at once an hour
    stalled_after_seconds: float = 86_400.0
    #: how many copies must be due at once for a listing to be tried before each is asked for
    listing_threshold: int = 25

    def wait(self, copy: Copy, now: float) -> float:
        """Return the seconds from a look at a copy to the next one."""
        age = now - (copy.stored_at or copy.created_at)
        if copy.status is CopyStatus.PROCESSING and age > self.stalled_after_seconds:
            return STALLED_POLL_SECONDS
        return poll_seconds(
            copy.attempts + 1, first=self.first_poll_seconds, longest=self.max_poll_seconds
        )
