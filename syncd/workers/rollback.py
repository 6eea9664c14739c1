"""Sees, at each start, whether the state was put back whole from an older copy.

Such a copy takes its own evidence along, so the proof is looked for at the service: an object of a
later attempt than any that the ledger knows, or a recent live copy that is gone.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from syncd.files_api import FileDetail, FilesApiError, FilesClient, InDoubtError, NotSentError
from syncd.state import audit, due, echo, holds, rollback, tokens
from syncd.state.audit import Claim
from syncd.state.planner import Policy
from syncd.state.store import Store, Transaction
from syncd.workers.comparison import Comparison
from syncd.workers.gate import Gate
from syncd.workers.search import SKEW_SECONDS, Search

log = logging.getLogger(__name__)

#: Pages of a listing that are read before syncd goes on without having seen the end.
MOST_PAGES = 500
#: Seconds for which a listing that fails is asked for again before syncd goes on without.
PATIENCE_SECONDS = 60.0
AGAIN_SECONDS = 5.0


class RollbackCheck:
    """Keeps the gate shut until the listings were read back to the ledger's last commit."""

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
        self._began_at: float | None = None
        if store.read(rollback.is_needed):
            gate.await_check()

    def step(self) -> None:
        """Read each workspace's listing; open the gate once that is done, or cannot be."""
        if self._gate.checked:
            return
        now = self._clock()
        if self._began_at is None:
            self._began_at = now
        unread = []
        for workspace in self._workspaces():
            try:
                found = self._evidence(workspace)
            except FilesApiError as error:
                self._gate.failed(error)
                is_passing = isinstance(error, NotSentError | InDoubtError)
                if is_passing and abs(now - self._began_at) < PATIENCE_SECONDS:
                    return
                unread.append(f"{holds.workspace(workspace)}: {error}")
                continue
            if found:
                self._hold(found)
                break
        why = "; ".join(unread)
        if why:
            log.warning("cannot check whether the state is an older copy: %s", why)
        self._store.write(lambda db: rollback.note_unchecked(db, why))
        self._gate.check_done()
        self._store.changed.set()

    def _workspaces(self) -> list[str | None]:
        known = set(self._store.read(due.workspaces))
        known |= {policy.workspace_uuid for policy in self._policies.values()}
        return sorted(known, key=str)

    def _evidence(self, workspace: str | None) -> str:
        """Return what in a workspace the ledger cannot know unless it is an older copy."""
        last_commit = self._store.read(rollback.last_commit)
        later: list[str] = []

        def compare(item: FileDetail, claim: Claim | None) -> None:
            if claim is None and item.token is not None and self._is_later(item.token):
                later.append(item.file_uuid)

        comparison = Comparison(store=self._store, client=self._client, compare=compare)

        def since() -> datetime:
            ahead = (self._search.ahead or 0.0) + self._store.read(_least_skew)
            seconds = max(last_commit + ahead - SKEW_SECONDS, 0.0)
            return datetime.fromtimestamp(seconds, tz=UTC)

        listing = self._search.read(workspace, comparison.take, since, most_pages=MOST_PAGES)
        comparison.flush()
        self._gate.succeeded()
        if later:
            return f"{later[0]} was sent by this instance, and its ledger does not know it"
        if not listing.complete or listing.oldest is None:
            return ""
        # What was sent since the oldest file that was shown must be among them; all that is live,
        # where the listing was read whole.
        ahead = (self._search.ahead or 0.0) + self._store.read(_least_skew)
        shown_since = 0.0 if listing.is_whole else listing.oldest.timestamp() - ahead
        recent = self._store.read(lambda db: audit.live_since(db, workspace, shown_since))
        gone = next((claim for claim in recent if comparison.is_missing(claim)), None)
        return f"{gone.file_uuid} is live in the ledger, and deleted" if gone else ""

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
        self._store.write(lambda db: self._store.hold_everything(db, loss, now))


def _least_skew(db: Transaction) -> float:
    known = [what.skew for kind in echo.KINDS if (what := echo.learned(db, kind))]
    return min((skew for skew in known if skew is not None), default=0.0)
