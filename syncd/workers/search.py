"""Looks in a listing for the objects of requests that got no answer.

An object is that of an attempt if it is the oldest that carries the attempt's token, and fits: in
size, time and uploader, each as far as it was learned how the service tells them.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from syncd.files_api import MOST_PAGES, Answer, FileDetail, FilesClient, Listing
from syncd.state import copies, echo
from syncd.state.attempts import Attempt
from syncd.state.echo import Learned
from syncd.state.store import KEY_MARK, Store, Transaction, fact
from syncd.workers.introduction import Introduction

#: What clocks may differ by, in seconds, beyond what was learned.
SKEW_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What a listing showed of a few attempts: the object of each that was found, by token."""

    listing: Listing
    found: dict[str, FileDetail]


class Search:
    """Reads listings back to the time at which something was sent."""

    def __init__(
        self,
        *,
        store: Store,
        client: FilesClient,
        introduction: Introduction,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._client = client
        self._introduction = introduction
        self._clock = clock
        #: by how many seconds the service's clock is ahead of ours; None where it does not tell
        self.ahead: float | None = None

    def look(self, workspace: str | None, attempts: Collection[Attempt]) -> Sight:
        """Look for `attempts` in a workspace. FilesApiError where nobody answers."""
        wanted = {attempt.token for attempt in attempts}
        oldest: dict[str, FileDetail] = {}

        def take(item: FileDetail) -> None:
            token = item.token
            if token in wanted:
                known = oldest.get(token)
                if known is None or item.created_at < known.created_at:
                    oldest[token] = item

        listing = self.read(workspace, take, lambda: self.since(attempts))
        found = {}
        for attempt in attempts:
            item = oldest.get(attempt.token)
            if item is not None and self._store.read(
                partial(self._fits, attempt=attempt, item=item)
            ):
                found[attempt.token] = item
        return Sight(listing, found)

    def read(
        self,
        workspace: str | None,
        take: Callable[[FileDetail], object],
        since: Callable[[], datetime | None] = lambda: None,
        most_pages: int = MOST_PAGES,
    ) -> Listing:
        """Read a workspace's listing; the first file shows whose key it is."""
        is_first = [True]

        def learn_and_take(item: FileDetail) -> None:
            if is_first:
                is_first.clear()
                self._introduction.learn([item])
            take(item)

        return self._client.read_listing(
            learn_and_take,
            workspace_uuid=workspace,
            since=since,
            most_pages=most_pages,
            on_answer=self._note_date,
        )

    def since(self, attempts: Iterable[Attempt]) -> datetime | None:
        """Return the time, by the service's clock, before which none of `attempts` was sent."""
        known = self._store.read(lambda db: [self._earliest(db, a) for a in attempts])
        if None in known:
            return None
        return _moment(min((at for at in known if at is not None), default=0.0))

    def _earliest(self, db: Transaction, attempt: Attempt) -> float | None:
        """Return the earliest creation time of an attempt's object; None where it is not known."""
        learned = echo.learned(db, attempt.kind)
        if learned is not None and learned.skew is not None:
            return attempt.sent_at + (self.ahead or 0.0) + learned.skew - SKEW_SECONDS
        return None if self.ahead is None else attempt.sent_at + self.ahead - SKEW_SECONDS

    def _fits(self, db: Transaction, attempt: Attempt, item: FileDetail) -> bool:
        if copies.where(db, "file_uuid = ? LIMIT 1", (item.file_uuid,)):
            return False
        learned = echo.learned(db, attempt.kind) or Learned(echo=True)
        sizes = {attempt.size, None} | ({0} if attempt.method == "presigned" else set())
        if learned.sizes and item.file_size_bytes not in sizes:
            return False
        uploader = echo.uploader(db, fact(db, KEY_MARK))
        if None not in (uploader, item.uploaded_by_uuid) and uploader != item.uploaded_by_uuid:
            return False
        earliest = self._earliest(db, attempt) if learned.skew is not None else None
        return earliest is None or item.created_at.timestamp() >= earliest

    def _note_date(self, answer: Answer) -> None:
        date = answer.date
        self.ahead = None if date is None else date.timestamp() - self._clock()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(max(seconds, 0.0), tz=UTC)
