"""Looks in a listing for the objects of requests that got no answer.

The object of an attempt is the oldest one that carries its token, if it fits in size, time and
uploader, as far as the service is known to tell them.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from syncd.files_api import MOST_PAGES, Answer, FileDetail, FilesClient, Listing
from syncd.state import copies, echo
from syncd.state.attempts import Attempt
from syncd.state.binding import KEY_MARK
from syncd.state.database.store import Store, Transaction, fact
from syncd.state.echo import Learned
from syncd.workers.organization_check import OrganizationCheck

#: Seconds by which clocks may differ beyond what was learned.
SKEW_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The objects of a few attempts that a listing showed, by token."""

    listing: Listing
    found: dict[str, FileDetail]


@dataclass(kw_only=True, eq=False)
class Search:
    """Reads listings back to the time at which something was sent."""

    store: Store
    client: FilesClient
    organization_check: OrganizationCheck
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        #: seconds by which the service's clock is ahead of ours; None when it does not tell
        self.ahead: float | None = None

    def look(self, workspace: str | None, attempts: Collection[Attempt]) -> SearchResult:
        """Look for `attempts` in a workspace; raise FilesApiError when nobody answers."""
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
            if item is not None and self.store.read(self._fits, attempt=attempt, item=item):
                found[attempt.token] = item
        return SearchResult(listing, found)

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
                self.organization_check.learn([item])
            take(item)

        return self.client.read_listing(
            learn_and_take,
            workspace_uuid=workspace,
            since=since,
            most_pages=most_pages,
            on_answer=self._note_date,
        )

    def since(self, attempts: Iterable[Attempt]) -> datetime | None:
        """Return the time, by the service's clock, before which none of `attempts` was sent."""
        known = self.store.read(lambda db: [self._earliest(db, a) for a in attempts])
        if None in known:
            return None
        return _moment(min((at for at in known if at is not None), default=0.0))

    def _earliest(self, db: Transaction, attempt: Attempt) -> float | None:
        """Return the earliest creation time of an attempt's object; None when it is not known."""
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
        self.ahead = None if date is None else date.timestamp() - self.clock()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(max(seconds, 0.0), tz=UTC)
