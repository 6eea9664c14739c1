"""Checks at each start whether the whole state was replaced by an older copy.

Such a copy replaces the evidence as well, so the proof is looked for at the service: an object of a
later attempt than any that the ledger knows, or a recent live copy that is gone.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from syncd.files_api import (
    FileDetail,
    FilesApiError,
    FilesClient,
    Listing,
    UnauthorizedError,
)
from syncd.state import audit, due, echo, holds, rollback, tokens
from syncd.state.audit import Claim
from syncd.state.database.store import Store, Transaction, hold_everything
from syncd.state.planner import Policy
from syncd.workers.comparison import Comparison
from syncd.workers.gate import Gate
from syncd.workers.patience import Patience, may_not_list
from syncd.workers.search import SKEW_SECONDS, Search

log = logging.getLogger(__name__)

#: Files shown (500 pages), and seconds, after which sending goes on; deletions wait for the end.
FILES_AT_ONCE, SECONDS_AT_ONCE = 500_000, 60.0


@dataclass(kw_only=True, eq=False)
class RollbackCheck:
    """Keeps the gate shut until the listings were read back to the ledger's last commit.

    A long listing opens the gate for sending before it is read to its end; nothing is deleted
    until then. The gate stays shut until the service has shown a page.
    """

    store: Store
    client: FilesClient
    gate: Gate
    search: Search
    policies: Mapping[str, Policy]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._is_needed = self.store.read(rollback.is_needed)
        self._is_over = False
        self._shown = 0
        self._began_at: float | None = None
        self._patience = Patience(self.clock)
        if self._is_needed:
            self.gate.checked = False

    def step(self) -> None:
        """Read each workspace's listing; open the gate once that is done or impossible."""
        if self._is_over or self._patience.is_resting:
            return
        if self._began_at is None:
            self._began_at = self.clock()
        unread, shown = [], self._shown
        for workspace in self._workspaces() if self._is_needed else ():
            try:
                found, unproven = self._evidence(workspace)
            except FilesApiError as error:
                self.gate.failed(error)
                if not may_not_list(error):
                    self._broke_off(error, is_shown=self._shown > shown)
                    return
                found, unproven = "", str(error)
            if found:
                self._hold(found)
                break
            if unproven:
                unread.append(f"{holds.workspace_scope(workspace)}: {unproven}")
        self._end("; ".join(unread))

    def _end(self, why: str) -> None:
        """Let everything go on; `why` names what could not be checked."""
        now = self.clock()

        def record(db: Transaction) -> None:
            rollback.note_unchecked(db, why)
            holds.release(
                db, stops="deletions", scope=holds.EVERYWHERE, reason=holds.UNCHECKED, now=now
            )

        # Not over until it is committed: a gate that nobody opens would stay shut.
        self.store.write(record)
        self._is_over = True
        if why:
            log.warning("cannot check whether the state is an older copy: %s", why)
        if self._is_needed:
            self.gate.checked = True
            self.store.changed.set()

    def _broke_off(self, error: FilesApiError, *, is_shown: bool) -> None:
        """Try again later; sending need not wait if the service has shown pages."""
        if is_shown:
            self._patience.failed()
        self.store.write(rollback.note_unchecked, str(error))
        if not isinstance(error, UnauthorizedError) and self._is_long():
            self._go_on(f"reading it broke off: {error}")

    def _is_long(self) -> bool:
        """Return whether sending need not wait any more for a listing that is still being read."""
        if not self._shown or self.gate.checked:
            return False
        # A clock that was set back counts as well.
        seconds = abs(self.clock() - (self._began_at or 0.0))
        return self._shown > FILES_AT_ONCE or seconds > SECONDS_AT_ONCE

    def _go_on(self, why: str) -> None:
        """Let sending go on; deletions are held until the listing is read through."""
        now = self.clock()
        self.store.write(
            holds.place,
            stops="deletions",
            scope=holds.EVERYWHERE,
            reason=holds.UNCHECKED,
            message="nothing is deleted until the remote listing has shown that this state is "
            f"no older copy of itself ({why})",
            commands=("syncd doctor",),
            now=now,
        )
        self.gate.checked = True
        self.store.changed.set()

    def _workspaces(self) -> list[str | None]:
        known = set(self.store.read(due.workspaces))
        known |= {policy.workspace_uuid for policy in self.policies.values()}
        return sorted(known, key=str)

    def _evidence(self, workspace: str | None) -> tuple[str, str]:
        """Return what in a workspace the ledger cannot know unless it is an older copy.

        The second text says why the listing proves nothing, if there is no such thing.
        """
        last_commit = self.store.read(rollback.last_commit)

        def compare(item: FileDetail, claim: Claim | None) -> None:
            if claim is None and item.token is not None and self._is_later(item.token):
                raise _PutBackError(item.file_uuid)

        comparison = Comparison(store=self.store, client=self.client, compare=compare)

        def take(item: FileDetail) -> None:
            self._shown += 1
            comparison.take(item)
            if self._is_long():
                comparison.flush()
                self._go_on("it is long, and still being read")

        def since() -> datetime:
            ahead = (self.search.ahead or 0.0) + self.store.read(_least_skew)
            seconds = max(last_commit + ahead - SKEW_SECONDS, 0.0)
            return datetime.fromtimestamp(seconds, tz=UTC)

        try:
            try:
                listing = self.search.read(workspace, take, since)
            finally:
                # One such object is proof enough, however the reading ends.
                comparison.flush()
        except _PutBackError as found:
            return f"{found} was sent by this instance, and its ledger does not know it", ""
        self.gate.succeeded()
        return self._gone(workspace, listing, comparison, last_commit)

    def _gone(
        self,
        workspace: str | None,
        listing: Listing,
        comparison: Comparison,
        last_commit: float,
    ) -> tuple[str, str]:
        """Return the recent live copy that a listing lacks, or why it proves nothing."""
        # Copies that were sent since the oldest listed file must be listed; after a whole listing,
        # recent ones as well, even if it shows nothing.
        shown_since = math.inf
        if listing.oldest is not None:
            ahead = (self.search.ahead or 0.0) + self.store.read(_least_skew)
            shown_since = listing.oldest.timestamp() - ahead
        if listing.is_whole:
            shown_since = min(shown_since, last_commit - SKEW_SECONDS)
        if not listing.complete or shown_since == math.inf:
            return "", listing.reason
        recent = self.store.read(audit.live_since, workspace, shown_since)
        gone = next((claim for claim in recent if comparison.is_missing(claim)), None)
        return f"{gone.file_uuid} is live in the ledger, and deleted" if gone else "", ""

    def _is_later(self, text: str) -> bool:
        token = tokens.read(text)
        if token.instance != self.store.instance or token.attempt is None:
            return False
        attempt = token.attempt
        return self.store.read(
            lambda db: (
                attempt > tokens.last_attempt(db)
                and (tokens.is_genuine(db, text) or not tokens.is_verifiable(db, token))
            )
        )

    def _hold(self, found: str) -> None:
        log.error("this state is an older copy: %s", found)
        now = self.clock()
        loss = f"an older copy of the whole state was put into {self.store.directory} ({found})"
        self.store.write(hold_everything, loss, now)


class _PutBackError(Exception):
    """An object was shown of which only a later ledger than this one knows."""


def _least_skew(db: Transaction) -> float:
    known = [what.skew for kind in echo.KINDS if (what := echo.learned(db, kind))]
    return min((skew for skew in known if skew is not None), default=0.0)
