"""Decides for all workers whether the next request may be made.

A refused key stops every request that changes something, and places a hold. An answer that asks
for patience slows all requests. While the service is unreachable, one file at a time probes it.
While all requests wait for the service, they *rest*; a *pause* is a hold that a person placed.
"""

import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from syncd.exceptions import StateError
from syncd.files_api import (
    Aborted,
    FilesApiError,
    QuotaError,
    RateLimitedError,
    RefusedError,
    ServerError,
    UnauthorizedError,
)
from syncd.state import holds
from syncd.state.backoff import LONGEST_ASKED_SECONDS, backoff_seconds
from syncd.state.database.store import Store, read_fact, set_fact
from syncd.state.holds import pauses, standstill
from syncd.state.manual_retry import try_unanswered_again
from syncd.units import span
from syncd.workers.gate_holds import QUOTA_REST_SECONDS, GateHolds
from syncd.workers.pace import Pace
from syncd.workers.probe import TRIPPED_AFTER, Probe
from syncd.workers.refusals import Refusals
from syncd.workers.storage_outage import StorageOutage
from syncd.workers.workspace_access import WorkspaceAccess

log = logging.getLogger(__name__)

#: The fact that keeps a rest across a restart.
REST = "rest"
#: Seconds between two probes of a key that was refused.
KEY_PROBE_SECONDS = 30.0
#: Seconds from which on a wait that the service asks for is logged.
TOLD_SECONDS = 60.0


class _Rest(NamedTuple):
    """Until when all requests rest, and until when the service asked them to: epoch seconds."""

    until: float
    asked: float
    failures: int

    @classmethod
    def parse(cls, text: str) -> "_Rest":
        known = json.loads(text)
        return cls(float(known["until"]), float(known["asked"]), int(known["failures"]))


@dataclass(kw_only=True, eq=False)
class Gate:
    """Counts the outcomes of requests, and says whether the next one may be made.

    Thread-safe. Times are on `monotonic`; `clock` gives epoch seconds, for display.
    """

    store: Store
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    #: tells a person what to do about a refused key
    key_remedy: str = "put a valid key where it comes from"
    #: notices that the clock was set, before a person's pause ends
    look_at_clock: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._holds = GateHolds(self.store, self.clock, self.key_remedy)
        self._lock = threading.Lock()
        self._failures = self._throttled = 0
        #: how many rests have begun; a request notes this and passes it to `failed`
        self.rests = 0
        self._shut_until = 0.0
        self._cause: FilesApiError | None = None
        self._probe, self.storage = Probe(self.monotonic), StorageOutage(self.monotonic)
        self.workspaces = WorkspaceAccess(self._holds)
        self.refusals = Refusals(store=self.store, clock=self.clock, monotonic=self.monotonic)
        self.pace = Pace(self.monotonic)
        #: until when the service itself asked to wait; nothing shortens this
        self._asked_until = 0.0
        #: whether the key is known to belong to the ledger's organization; requests wait for it
        self.organization_known = True
        #: the folders at a standstill, by a pause for example; `EVERYWHERE` if all are
        self.at_standstill = self.store.read(standstill.scopes)
        #: whether the state was checked for being an older copy of itself; requests wait for it
        self.checked = True
        # A hold that an earlier process placed stands until an answer says otherwise.
        self.refused = bool(self._holds.scopes(holds.KEY_REFUSED))
        self._quota_until = self.monotonic() if self._holds.scopes(holds.QUOTA) else 0.0
        self.last_success_at: float | None = None
        self._resume_rest(self.store.read(read_fact, REST, _Rest.parse))

    @property
    def state(self) -> str:
        """ok, unreachable, refused, or unknown before the first answer."""
        if self.refused:
            return "refused"
        if self.tripped or self.storage_tripped:
            return "unreachable"
        return "unknown" if self.last_success_at is None and self._failures == 0 else "ok"

    @property
    def tripped(self) -> bool:
        """Whether requests fail one after another, so that one at a time probes the service."""
        return self._failures >= TRIPPED_AFTER

    @property
    def storage_tripped(self) -> bool:
        """Whether the storage takes no content, so that one file at a time probes it."""
        return self.storage.is_tripped

    @property
    def cause(self) -> str:
        """Why the service is unreachable, for a person; empty while it answers."""
        if self.state != "unreachable" or self._cause is None:
            return ""
        lasts = "; this does not mend itself (syncd doctor)" if self._cause.is_lasting else ""
        return f"{self._cause.text}{lasts}"

    def seconds_resting(self) -> float:
        """Return the seconds for which requests still rest because the service asked for it."""
        with self._lock:
            until = max(self._asked_until, self._shut_until if self._throttled else 0.0)
            return max(0.0, until - self.monotonic())

    def next_tries(self) -> dict[str, float]:
        """Return, by the scope of each hold, the seconds until syncd tries again by itself."""
        tries = {holds.workspace_scope(name): KEY_PROBE_SECONDS for name in self.workspaces.closed}
        tries |= {holds.workspace_scope(name): wait for name, wait in self.refusals.next_probes()}
        if self.refused:
            tries[holds.EVERYWHERE] = KEY_PROBE_SECONDS
        elif self.quota_used_up:
            tries[holds.EVERYWHERE] = self._quota_until - self.monotonic()
        return tries

    def seconds_until_probe(self) -> float:
        """Return the seconds until a broken service or storage is probed again."""
        with self._lock:
            storage = self.storage.until if self.storage_tripped else 0.0
            return max(self._shut_until, storage, self.monotonic()) - self.monotonic()

    def admits(self, file_id: int, *, folder: str, workspace: str | None, presigned: bool) -> bool:
        """Return whether a file may be sent now; while something is broken, only the probe may."""
        if self.is_at_standstill(folder):
            return False
        if not self.may_send() or workspace in self.workspaces.closed:
            return False
        if self.tripped and not self._probe.has(file_id):
            return False
        if presigned and self.storage_tripped and not self.storage.probe.has(file_id):
            return False
        return self.refusals.admits(workspace, file_id)

    def see_standstills(self) -> None:
        """End the pauses whose time has come, and take up which folders are at a standstill."""
        now = self.clock()
        if self.store.read(pauses.is_end_due, now):
            self.look_at_clock()
            for scope in self.store.write(pauses.end_due, now):
                log.info("the pause of %s is over", "everything" if scope == "*" else scope)
        self.at_standstill = self.store.read(standstill.scopes)

    def is_at_standstill(self, folder: str) -> bool:
        """Return whether a folder is at a standstill, alone or with everything."""
        return standstill.covers(self.at_standstill, folder)

    def claim(self, workspace: str | None, file_id: int, *, presigned: bool) -> bool:
        """Let a file be sent next, as the probe if something is broken; False if it has to wait."""
        storage = presigned and self.storage_tripped
        if storage and self.monotonic() < self.storage.until:
            return False
        claimed = (
            (not self.tripped or self._probe.claim(file_id))
            and (not storage or self.storage.probe.claim(file_id))
            and self.refusals.claim(workspace, file_id)
        )
        if not claimed:
            self.ended(file_id)
        return claimed

    def ended(self, file_id: int) -> None:
        """Record that a file is no longer being sent."""
        self._probe.end(file_id)
        self.storage.probe.end(file_id)
        self.refusals.ended(file_id)

    def sent(self, workspace: str | None, *, presigned: bool) -> None:
        """Record that a file's content was taken."""
        if presigned and self.storage.reset():
            log.info("the storage takes content again")
            self._try_unanswered()
        self.succeeded()
        self.refusals.passed(workspace)

    def not_stored(self, file_id: int, error: FilesApiError) -> None:
        """Record that the storage did not take a file's content."""
        was_tripped = self.storage_tripped
        self.storage.failed(file_id)
        if self.storage_tripped:
            self._cause = error
            if not was_tripped:
                log.warning("the storage takes no content; waiting for it: %s", error)

    def _try_unanswered(self) -> None:
        now = self.clock()
        with suppress(StateError):
            self.store.submit(try_unanswered_again, now)

    def seconds_shut(self) -> float:
        """Return the seconds until requests may be made again; 0 for now."""
        return max(0.0, self._shut_until - self.monotonic())

    def seconds_shut_for_all(self) -> float:
        """Return the seconds until any request but a probe may be made; 0 for now."""
        if not (self.organization_known and self.checked):
            return max(self.seconds_shut(), 1.0)
        return KEY_PROBE_SECONDS if self.refused else self.seconds_shut()

    def may_send(self) -> bool:
        """Return whether an upload may be made now, to a workspace that is not closed."""
        if self.refused or not (self.organization_known and self.checked) or self.quota_used_up:
            return False
        return self.seconds_shut() == 0.0

    def try_now(self) -> None:
        """End every rest, except for one that the service itself asked for."""
        with self._lock:
            # A single further failure makes all requests wait again.
            self._failures = min(self._failures, TRIPPED_AFTER - 1)
            self._shut_until = self._asked_until
            self.storage.until = self.monotonic()
            self._quota_until = min(self._quota_until, self.monotonic())
        self.refusals.try_now()
        self._keep_rest()

    @property
    def quota_used_up(self) -> bool:
        """Whether sending rests because a quota is used up."""
        return self.monotonic() < self._quota_until

    def succeeded(self) -> None:
        """Record an answer that proves the service and the key good."""
        self.pace.succeeded()
        with self._lock:
            tripped, self._failures = self._failures >= TRIPPED_AFTER, 0
            self._throttled = 0
            if tripped:
                self._shut_until = self._asked_until
            refused, self.refused = self.refused, False
            self.last_success_at = self.clock()
        if tripped:
            log.info("the Files API answers again")
            self._keep_rest()
            self._try_unanswered()
        if refused:
            log.info("the Files API accepts the key again")
            self._holds.release(holds.KEY_REFUSED)

    def failed(self, error: FilesApiError, *, rests: int | None = None) -> None:
        """Record a failed request, and draw the consequences for all others.

        `rests` is the gate's count from when the request was made: many answers to one burst
        count as one demand to wait. Raise `error` again if it is `Aborted`: a call cut short by
        the stop says nothing about the service or the file, and ends the step that made it.
        """
        if isinstance(error, Aborted):
            raise error
        if isinstance(error, UnauthorizedError):
            self._refuse(error)
        elif isinstance(error, QuotaError):
            self._rest_for_quota(error)
        elif isinstance(error, RateLimitedError) or (
            isinstance(error, ServerError)
            and (error.retry_after is not None or error.status == 503)
        ):
            self._slow_down(error, stale=rests is not None and rests != self.rests)
        elif isinstance(error, RefusedError) and (
            error.is_the_services or error.operation != "list"
        ):
            # A clear refusal shows that the service is there.
            with self._lock:
                self._failures = 0
        else:
            self._missed(error)

    def _slow_down(self, error: FilesApiError, *, stale: bool) -> None:
        """Make all requests wait as long as asked; without a time, longer after each failure."""
        asked = error.retry_after
        if not stale:
            with self._lock:
                self._throttled += asked is None
                self.rests += 1
                throttled = self._throttled
            seconds = backoff_seconds(throttled, asked=asked)
            if self._shut(seconds, asked=asked is not None) and seconds >= TOLD_SECONDS:
                log.warning("the service asks to wait: no request for %s: %s", span(seconds), error)
            if isinstance(error, RateLimitedError):
                self.pace.refused(seconds)
        if isinstance(error, ServerError):
            self._missed(error)

    def _missed(self, error: FilesApiError) -> None:
        with self._lock:
            self._failures += 1
            failures = self._failures
            self._cause = error
        if failures >= TRIPPED_AFTER:
            self._shut(backoff_seconds(failures - TRIPPED_AFTER + 1))
        if failures == TRIPPED_AFTER and error.is_lasting:
            log.error("the Files API cannot be used until this is mended: %s", error)
        elif failures == TRIPPED_AFTER:
            log.warning("the Files API cannot be reached; waiting for it: %s", error)

    def _shut(self, seconds: float, *, asked: bool = False) -> bool:
        """Make all requests wait for so many seconds; return whether that is longer than before."""
        until = self.monotonic() + seconds
        with self._lock:
            longer, self._shut_until = until > self._shut_until, max(self._shut_until, until)
            if asked:
                self._asked_until = max(self._asked_until, until)
        if longer:
            self._keep_rest()
        return longer

    def _keep_rest(self) -> None:
        """Record how long all requests rest, so that a restart does not cut it short."""
        with self._lock:
            now, clock = self.monotonic(), self.clock()
            rest = _Rest(
                until=clock + max(self._shut_until - now, 0.0),
                asked=clock + max(self._asked_until - now, 0.0),
                failures=self._failures,
            )
        with suppress(StateError):
            # The caller need not wait: if this is lost, a restart asks a little too early.
            self.store.submit(set_fact, REST, json.dumps(rest._asdict()))

    def _resume_rest(self, kept: _Rest | None) -> None:
        if kept is None:
            return
        now, clock = self.monotonic(), self.clock()
        # A clock that was set in the meantime must not make syncd wait for days.
        self._shut_until, self._asked_until = (
            now + min(max(until - clock, 0.0), LONGEST_ASKED_SECONDS)
            for until in (kept.until, kept.asked)
        )
        self._failures = kept.failures

    def _refuse(self, error: FilesApiError) -> None:
        with self._lock:
            known, self.refused = self.refused, True
        if not known:
            log.error("the Files API refuses the key; nothing is sent or deleted: %s", error)
        message = f"the Files API refuses the key: {error.text}"
        self._holds.place(holds.KEY_REFUSED, message)

    def _rest_for_quota(self, error: FilesApiError) -> None:
        with self._lock:
            known = self.quota_used_up
            self._quota_until = self.monotonic() + QUOTA_REST_SECONDS
        if not known:
            log.warning("a quota is used up; nothing is sent until it is free again: %s", error)
        self._holds.place(holds.QUOTA, f"a quota is used up: {error}")

    def end_quota_rest(self) -> None:
        """Release the quota's hold after its rest; the next upload shows whether it is free."""
        if self._quota_until and not self.quota_used_up:
            self._quota_until = 0.0
            self._holds.release(holds.QUOTA)

    def release_unused(self, used: set[str | None]) -> None:
        """Release the holds of workspaces that no folder uses any more."""
        for workspace in self.workspaces.closed - used:
            self.workspaces.judge(workspace, refusal=None)
        for workspace in self.refusals.held - used:
            self.refusals.passed(workspace)

    def release_ended(self) -> None:
        """Release each hold whose cause is gone and whose release failed to commit."""
        for hold in self.store.read(holds.open_holds):
            workspace = holds.workspace_of(hold.scope)
            is_over = {
                holds.KEY_REFUSED: not self.refused,
                holds.QUOTA: not self._quota_until,
                holds.FORBIDDEN: workspace not in self.workspaces.closed | self.workspaces.suspects,
            }
            if hold.reason == holds.REFUSED:
                self.refusals.release_ended(workspace)
            elif is_over.get(hold.reason):
                self._holds.release(hold.reason, hold.scope)
