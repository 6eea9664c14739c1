"""Sees, at each start, whether the state was put back whole from an older copy.

Such a copy takes its own evidence along, so the proof is looked for at the service: an object of a
later attempt than any that the ledger knows, or a recent live copy that is gone.
"""

import logging
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from syncd.files_api import (
    FileDetail,
    FilesApiError,
    FilesClient,
    UnauthorizedError,
)
from syncd.state import audit, due, echo, holds, rollback, tokens
from syncd.state.audit import Claim
from syncd.state.planner import Policy
from syncd.state.store import Store, Transaction, hold_everything
from syncd.workers.comparison import Comparison
from syncd.workers.gate import Gate
from syncd.workers.patience import Patience, may_not_list
from syncd.workers.search import SKEW_SECONDS, Search

log = logging.getLogger(__name__)

#: Files shown (500 pages), and seconds, after which sending goes on; deletions wait for the end.
FILES_AT_ONCE, SECONDS_AT_ONCE = 500_000, 60.0
UNCHECKED = "state_unchecked"


class RollbackCheck:
    """Keeps the gate shut until the listings were read back to the ledger's last commit.

    A long listing opens the gate for sending before it is read to its end; nothing is deleted
    until then. A service that has shown no page yet keeps the gate shut, whatever it answers.
    """

    def __init__(
        self,
        *,
        store: Store,
        client: FilesClient,
        gate: Gate,
        search: Search,
        policies: Mapping[str, Policy],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._client = client
        self._gate = gate
        self._search = search
        self._policies = policies
        self._clock = clock
        self._is_needed = store.read(rollback.is_needed)
        self._is_over = False
        self._shown = 0
        self._began_at: float | None = None
        self._patience = Patience(clock)
        if self._is_needed:
            gate.await_check()

    def step(self) -> None:
        """Read each workspace's listing; open the gate once that is done, or cannot be."""
        if self._is_over or self._patience.is_resting:
            return
        if self._began_at is None:
            self._began_at = self._clock()
        unread, shown = [], self._shown
        for workspace in self._workspaces() if self._is_needed else ():
            try:
                found, unproven = self._evidence(workspace)
            except FilesApiError as error:
                self._gate.failed(error)
                if not may_not_list(error):
                    self._broke_off(error, is_shown=self._shown > shown)
                    return
                found, unproven = "", str(error)
            if found:
                self._hold(found)
                break
            if unproven:
                unread.append(f"{holds.workspace(workspace)}: {unproven}")
        self._end("; ".join(unread))

    def _end(self, why: str) -> None:
        """Let everything go on; `why` says what could not be checked."""
        self._is_over = True
        if why:
            log.warning("cannot check whether the state is an older copy: %s", why)
        now = self._clock()

        def record(db: Transaction) -> None:
            rollback.note_unchecked(db, why)
            holds.release(db, stops="deletions", scope=holds.EVERYWHERE, reason=UNCHECKED, now=now)

        self._store.write(record)
        if self._is_needed:
            self._gate.check_done()
            self._store.changed.set()

    def _broke_off(self, error: FilesApiError, *, is_shown: bool) -> None:
        """Try again later; sending need not wait where the service has shown pages."""
        if is_shown:
            self._patience.failed()
        self._store.write(lambda db: rollback.note_unchecked(db, str(error)))
        if not isinstance(error, UnauthorizedError):
            self._go_on_if_long(f"reading it broke off: {error}")

    def _go_on_if_long(self, why: str) -> None:
        """Let sending go on where reading takes long; deletions are held until it is through."""
        if not self._shown or self._gate.checked:
            return
        # A clock that was set back counts as well.
        seconds = abs(self._clock() - (self._began_at or 0.0))
        if self._shown <= FILES_AT_ONCE and seconds <= SECONDS_AT_ONCE:
            return
        now = self._clock()
        self._store.write(
            lambda db: holds.place(
                db,
                stops="deletions",
                scope=holds.EVERYWHERE,
                reason=UNCHECKED,
                message="nothing is deleted until the remote listing has shown that this state is "
                f"no older copy of itself ({why})",
                commands=("syncd doctor",),
                now=now,
            )
        )
        self._gate.check_done()
        self._store.changed.set()

    def _workspaces(self) -> list[str | None]:
        known = set(self._store.read(due.workspaces))
        known |= {policy.workspace_uuid for policy in self._policies.values()}
        return sorted(known, key=str)

    def _evidence(self, workspace: str | None) -> tuple[str, str]:
        """Return what in a workspace the ledger cannot know unless it is an older copy.

        And, where there is no such thing, why the listing does not prove it.
        """
        last_commit = self._store.read(rollback.last_commit)
        later: list[str] = []

        def compare(item: FileDetail, claim: Claim | None) -> None:
            if claim is None and item.token is not None and self._is_later(item.token):
                later.append(item.file_uuid)

        comparison = Comparison(store=self._store, client=self._client, compare=compare)

        def take(item: FileDetail) -> None:
            self._shown += 1
            self._go_on_if_long("it is long, and still being read")
            comparison.take(item)

        def since() -> datetime:
            ahead = (self._search.ahead or 0.0) + self._store.read(_least_skew)
            seconds = max(last_commit + ahead - SKEW_SECONDS, 0.0)
            return datetime.fromtimestamp(seconds, tz=UTC)

        listing = self._search.read(workspace, take, since)
        comparison.flush()
        self._gate.succeeded()
        if later:
            return f"{later[0]} was sent by this instance, and its ledger does not know it", ""
        # What was sent since the oldest file that was shown must be among them; and what is recent,
        # where the listing was read whole, though it shows nothing.
        shown_since = math.inf
        if listing.oldest is not None:
            ahead = (self._search.ahead or 0.0) + self._store.read(_least_skew)
            shown_since = listing.oldest.timestamp() - ahead
        if listing.is_whole:
            shown_since = min(shown_since, last_commit - SKEW_SECONDS)
        if not listing.complete or shown_since == math.inf:
            return "", listing.reason
        recent = self._store.read(lambda db: audit.live_since(db, workspace, shown_since))
        gone = next((claim for claim in recent if comparison.is_missing(claim)), None)
        return f"{gone.file_uuid} is live in the ledger, and deleted" if gone else "", ""

    def _is_later(self, text: str) -> bool:
        token = tokens.read(text)
        if token.instance != self._store.instance or token.attempt is None:
            return False
        attempt = token.attempt
        return self._store.read(
            lambda db: (
                attempt > tokens.last_attempt(db)
                and (tokens.is_genuine(db, text) or not tokens.is_verifiable(db, token))
            )
        )

    def _hold(self, found: str) -> None:
        log.error("this state is an older copy: %s", found)
        now = self._clock()
        loss = f"an older copy of the whole state was put into {self._store.directory} ({found})"
        self._store.write(lambda db: hold_everything(db, loss, now))


def _least_skew(db: Transaction) -> float:
    known = [what.skew for kind in echo.KINDS if (what := echo.learned(db, kind))]
    return min((skew for skew in known if skew is not None), default=0.0)
