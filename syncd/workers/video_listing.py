"""Reads how far many videos are from a listing, so that only those that are done are asked for.

A listing decides whom to ask next, and nothing else: a video goes live or fails on the answer to a
request for it alone. One that no page shows is asked for like before, and now and then one that is
shown unfinished. A listing that does not pay rests for a while: one that is refused, shows no
states, is contradicted by the answer to such a request, or is long because of other objects.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from syncd.files_api import FileDetail, FilesApiError, FilesClient
from syncd.state import copies, polls
from syncd.state.copies import Copy
from syncd.state.database.store import Store
from syncd.state.ledger import Ledger, Progress
from syncd.state.lifecycle import CopyStatus
from syncd.state.polls import Answered
from syncd.units import counted, span
from syncd.workers.gate import Gate
from syncd.workers.poll_options import PollOptions

log = logging.getLogger(__name__)

#: States in which the service has ended its work on a video, and all that are known.
_ENDED = ("completed", "failed")
_KNOWN = ("pending", "processing", *_ENDED)
#: A page counts as one request, and as one more for so many files on it.
FILES_A_REQUEST = 50
#: Files of a page, and pages of a listing, at most.
MOST_FILES, MOST_PAGES = 1000, 100
FEWEST_FILES = 100
#: The share of `polls_per_second` that the pages of one listing take, on average.
SHARE = 0.2
#: Videos that a listing showed to be done and that are not asked for yet, at most.
MOST_DONE = 1000
#: The first rest of a listing that does not pay, in seconds, and the longest.
REST_SECONDS, LONGEST_REST_SECONDS = 60.0, 3600.0
#: Samples in a row, of videos that a listing shows unfinished, that are done: one may have ended
#: since the page was read.
MOST_MISSED = 2
#: Seconds that a reading counts as at most, whatever the clock says.
LONGEST_READING_SECONDS = 300.0


@dataclass(slots=True, eq=False)
class _Course:
    """How the listing of one workspace fares; times in seconds since the epoch."""

    is_followed: bool = False
    #: when the last listing began, and the seconds until the next one
    read_at: float = -math.inf
    wait: float = 0.0
    #: times in a row that it did not pay, and until when it rests
    failures: int = 0
    rests_until: float = -math.inf
    #: when a sample was taken last, and how many in a row were done
    sampled_at: float = math.inf
    missed: int = 0

    def is_due(self, now: float) -> bool:
        """Return whether it is to be read; a clock that was set back is no reason to wait."""
        return self.is_followed and not self.read_at <= now < self.read_at + self.wait


@dataclass(slots=True)
class _Balance:
    """The requests that one reading costs, and those that it saves."""

    #: videos that would be asked for, those of them that a page showed, and told the state of
    wanted: int
    shown: int = 0
    told: int = 0
    pages: int = 0
    cost: float = 0.0
    #: the cost of the last pages, which told of none
    barren: float = 0.0
    done: int = 0

    def add_page(self, files: int, shown: int, told: int) -> None:
        cost = 1 + files / FILES_A_REQUEST
        self.pages += 1
        self.shown += shown
        self.told += told
        self.cost += cost
        self.barren = 0.0 if told else self.barren + cost

    @property
    def is_mute(self) -> bool:
        """Whether videos were shown, and none with a state that is known."""
        return bool(self.shown) and not self.told

    @property
    def pays(self) -> bool:
        return self.told > self.cost

    @property
    def may_pay(self) -> bool:
        """Whether a further page may save more than it costs."""
        left = self.wanted - self.told
        is_within = self.cost < self.wanted and self.pages < MOST_PAGES
        return left > self.barren and is_within and not self.is_mute


@dataclass(kw_only=True, eq=False)
class VideoListing:
    """Follows the videos of whole workspaces, each by its listing."""

    store: Store
    ledger: Ledger
    client: FilesClient
    gate: Gate
    options: PollOptions
    clock: Callable[[], float]
    #: waits so many seconds; returns True if the daemon is to stop
    pause: Callable[[float], bool]

    def __post_init__(self) -> None:
        self._courses: dict[str | None, _Course] = {}
        #: videos that a listing showed to be done, by id, with their workspaces
        self._done: dict[int, str | None] = {}
        #: videos that a listing showed unfinished, asked for all the same, with their workspaces
        self._samples: dict[int, str | None] = {}

    @property
    def answered(self) -> Answered:
        """The workspaces that are followed: videos there need not be asked for one by one."""
        followed = {name: c for name, c in self._courses.items() if c.is_followed}
        until = min((course.read_at for course in followed.values()), default=0.0)
        return Answered(tuple(followed), until)

    @property
    def next_at(self) -> float | None:
        """When the next listing is to be read."""
        return min(
            (c.read_at + c.wait for c in self._courses.values() if c.is_followed), default=None
        )

    @property
    def has_done(self) -> bool:
        """Whether a listing showed videos to be done that are not asked for yet."""
        return bool(self._done)

    def follow(self) -> bool:
        """Follow each workspace with many videos; return whether one was added."""
        now, added = self.clock(), False
        for workspace, number in self._pending(now).items():
            course = self._courses.setdefault(workspace, _Course())
            rests = now < course.rests_until <= now + LONGEST_REST_SECONDS
            if number >= self.options.listing_threshold and not course.is_followed and not rests:
                course.is_followed, course.read_at = True, -math.inf
                course.sampled_at, course.missed = now, 0
                added = True
        return added

    def read(self) -> bool:
        """Read each listing that is due; return True if the daemon is to stop."""
        return any(
            self._read(workspace, course)
            for workspace, course in self._courses.items()
            if course.is_due(self.clock()) and not self.gate.seconds_shut_for_all()
        )

    def done(self) -> list[Copy]:
        """Return some videos to ask for because a listing showed them to be done."""
        ids = list(self._done)[: self.options.listing_threshold]
        found = self.store.read(lambda db: [copies.get(db, copy_id) for copy_id in ids])
        done = [copy for copy in found if copy and copy.status is CopyStatus.PROCESSING]
        for copy_id in {*ids} - {copy.id for copy in done}:
            del self._done[copy_id]
        return done

    def learn(self, copy: Copy) -> bool:
        """Learn from the answer about a video; return whether a listing rightly showed it done."""
        if copy.id not in self._done:
            self._learn_from_sample(copy)
            return False
        workspace = self._done.pop(copy.id)
        self._samples.pop(copy.id, None)
        after = self.store.read(copies.get, copy.id)
        if after is None or after.status is not CopyStatus.PROCESSING:
            self._courses[workspace].failures = 0
            return True
        if after.error_message is None:
            state = after.processing_status or "processing"
            self._rest(workspace, f"it showed a video as done that is {state}")
        return False

    def _learn_from_sample(self, copy: Copy) -> None:
        """Stop following a listing that shows videos unfinished which are done."""
        if copy.id not in self._samples:
            return
        workspace = self._samples.pop(copy.id)
        after = self.store.read(copies.get, copy.id)
        course = self._courses[workspace]
        if after is None or after.status is not CopyStatus.PROCESSING:
            course.missed += 1
        elif after.error_message is None:
            course.missed = 0
        if course.missed >= MOST_MISSED and course.is_followed:
            course.missed = 0
            self._rest(workspace, "it shows videos as unfinished that are done")

    def _pending(self, now: float) -> dict[str | None, int]:
        """Count the videos by workspace whose next look is within the longest ordinary wait.

        A stalled one, or one in a long back-off, is due later: no listing is read for it.
        """
        return self.store.read(polls.pending, now + self.options.max_poll_seconds)

    def _read(self, workspace: str | None, course: _Course) -> bool:
        began = self.clock()
        balance = _Balance(self._pending(began).get(workspace, 0))
        if balance.wanted < self.options.listing_threshold:
            course.is_followed = False
            return False
        try:
            for files in self.client.newest_pages(
                workspace_uuid=workspace,
                file_type="video",
                limit=min(max(balance.wanted, FEWEST_FILES), MOST_FILES),
            ):
                self.gate.succeeded()
                self._record(workspace, files, balance, began)
                if self.pause(1.0 / self.options.polls_per_second):
                    return True
                if not balance.may_pay or self.gate.seconds_shut_for_all():
                    break
        except FilesApiError as error:
            self.gate.failed(error)
            self._rest(workspace, str(error))
            return False
        if balance.pays:
            self._plan(course, began, balance)
        else:
            self._rest(workspace, _why(balance))
        return False

    def _record(
        self, workspace: str | None, files: Sequence[FileDetail], balance: _Balance, began: float
    ) -> None:
        """Note what a page tells of videos of ours, in one commit; add it to the balance."""
        states = _states(files, workspace)
        now, soon = self.clock(), began + self.options.max_poll_seconds
        seen = told = 0
        unfinished: list[tuple[Copy, Progress]] = []
        for copy in self.store.read(polls.processing_among, workspace, list(states)):
            state, due_at = states[copy.file_uuid or ""], copy.due_at or 0.0
            seen += due_at <= soon
            told += due_at <= soon and state in _KNOWN
            if state in _ENDED:
                balance.done += 1
                if len(self._done) < MOST_DONE:
                    self._done[copy.id] = workspace
            elif state in _KNOWN and (due_at <= now or state != copy.processing_status):
                look_at = now + self.options.wait(copy, now) if due_at <= now else None
                unfinished.append((copy, Progress(copy.id, state or "", look_at)))
        self._put_off(workspace, unfinished, began)
        balance.add_page(len(files), seen, told)

    def _put_off(
        self, workspace: str | None, unfinished: Sequence[tuple[Copy, Progress]], began: float
    ) -> None:
        """Put the looks at unfinished videos off; now and then, all but one, to see if it is so."""
        course = self._courses[workspace]
        due = [copy for copy, _ in unfinished if (copy.due_at or 0.0) <= began]
        sample = None
        # A clock that was set back is no reason to wait.
        if (
            due
            and not course.sampled_at <= began < course.sampled_at + self.options.max_poll_seconds
        ):
            sample = min(due, key=lambda copy: copy.due_at or 0.0).id
            self._samples[sample], course.sampled_at = workspace, began
        rest = [what for copy, what in unfinished if copy.id != sample]
        if rest:
            self.store.write(self.ledger.still_processing_all, rest)

    def _plan(self, course: _Course, began: float, balance: _Balance) -> None:
        """Set when to read again: the later, the longer it is, and the longer nothing gets done."""
        least = balance.pages / (SHARE * self.options.polls_per_second)
        rare = 0.0 if balance.done else course.wait * 1.5
        rare = max(self.options.first_poll_seconds, min(rare, self.options.max_poll_seconds / 2))
        took = min(max(self.clock() - began, 0.0), LONGEST_READING_SECONDS)
        # A slow listing must leave time to ask for what it showed.
        course.read_at, course.wait = began, took + max(least, rare, took * (1 / SHARE - 1))

    def _rest(self, workspace: str | None, why: str) -> None:
        """Ask for the videos of a workspace one by one, for a while that grows each time."""
        course = self._courses[workspace]
        seconds = min(REST_SECONDS * 4.0**course.failures, LONGEST_REST_SECONDS)
        course.is_followed, course.wait = False, 0.0
        course.failures = min(course.failures + 1, 10)
        course.rests_until = self.clock() + seconds
        for known in (self._done, self._samples):
            for copy_id in [i for i, name in known.items() if name == workspace]:
                del known[copy_id]
        log.info("videos are asked for one by one for %s, not by a listing: %s", span(seconds), why)


def _states(files: Sequence[FileDetail], workspace: str | None) -> dict[str, str | None]:
    """Return the states of a page's files by uuid; None where it tells none, or two."""
    states: dict[str, str | None] = {}
    for file in files:
        if _is_in(file, workspace):
            state = file.processing_status
            is_same = states.setdefault(file.file_uuid, state) == state
            states[file.file_uuid] = state if is_same else None
    return states


def _is_in(file: FileDetail, workspace: str | None) -> bool:
    """Return whether a file may be in `workspace`; a service may name one where we named none."""
    named = file.workspace_uuid
    return workspace is None or named is None or named.lower() == workspace.lower()


def _why(balance: _Balance) -> str:
    if balance.is_mute:
        return "it tells no states that are known"
    videos, pages = counted(balance.told, "video"), counted(balance.pages, "page")
    return f"{pages} told of {videos} of {balance.wanted}"
