"""What the service lets us do now: one judgement, shared by all workers.

A request that is refused for its key stops every mutation and is a hold; one that asks for
patience slows all of them; an unreachable service is tried by few until it answers.
"""

import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
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
from syncd.state.retry import LONGEST_ASKED_SECONDS, backoff_seconds
from syncd.state.retrying import try_unanswered_again
from syncd.state.store import Store, read_fact, set_fact
from syncd.workers.pace import Pace
from syncd.workers.probe import Probe
from syncd.workers.refusals import Refusals

log = logging.getLogger(__name__)

#: Failures in a row, of any requests, after which the service counts as unreachable.
TRIPPED_AFTER = 5
KEY_REFUSED, QUOTA, FORBIDDEN = "key_refused", "quota", "workspace_forbidden"
#: The fact by which a wait outlives its process.
REST = "rest"
#: Seconds for which sending rests after the service said that a quota is used up.
QUOTA_REST_SECONDS = 300.0

#: Seconds between two probes of a key that was refused.
KEY_PROBE_SECONDS = 30.0

#: Refusals that say nothing of the file: its copy stays planned, and it is no try of the file's.
PATIENCE = (RateLimitedError, UnauthorizedError, QuotaError)


class _Rest(NamedTuple):
    """Until when all requests rest, and until when the service asked for it: epoch seconds."""

    until: float
    asked: float
    failures: int


def _rest(text: str) -> _Rest:
    known = json.loads(text)
    return _Rest(float(known["until"]), float(known["asked"]), int(known["failures"]))


class Gate:
    """Counts what requests came to, and says whether the next one may be made.

    Thread-safe. Times are on `monotonic`; `clock` is the epoch's, for what is shown.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        key_remedy: str = "put a valid key where it comes from",
    ) -> None:
        """`key_remedy` says what a person does where the key is refused."""
        self._store = store
        self._key_commands = (key_remedy, "syncd status")
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures = 0
        self._throttled = 0
        #: how many pauses have begun: an answer to a request from before the last one is stale
        self._pauses = 0
        self._shut_until = 0.0
        self._cause: FilesApiError | None = None
        #: the files whose content the storage did not take since it last took one
        self._unstored: set[int] = set()
        self._storage_failures = 0
        self._storage_until = 0.0
        self._probe, self._storage_probe = Probe(monotonic), Probe(monotonic)
        self.refusals = Refusals(store=store, clock=clock, monotonic=monotonic)
        self.pace = Pace(monotonic)
        #: until when the service itself asked to wait: nothing shortens that
        self._asked_until = 0.0
        self._introduced = True
        self._checked = True
        self._suspects: set[str | None] = set()
        self._closed: frozenset[str | None] = frozenset()
        # A hold that outlived its process is believed until an answer says otherwise.
        before = store.read(holds.open_holds)
        self._refused = any(hold.reason == KEY_REFUSED for hold in before)
        self._quota_until = monotonic() if any(h.reason == QUOTA for h in before) else 0.0
        self._suspects.update(holds.workspace_of(h.scope) for h in before if h.reason == FORBIDDEN)
        self._closed = frozenset(self._suspects)
        self.last_success_at: float | None = None
        self._resume(store.read(lambda db: read_fact(db, REST, _rest)))

    @property
    def state(self) -> str:
        """ok, unreachable, refused, or unknown before the first answer."""
        if self._refused:
            return "refused"
        if self.tripped or self.storage_tripped:
            return "unreachable"
        return "unknown" if self.last_success_at is None and self._failures == 0 else "ok"

    @property
    def refused(self) -> bool:
        """Whether the key was refused and has not been accepted since."""
        return self._refused

    @property
    def introduced(self) -> bool:
        """Whether the key is known to open the ledger's organization."""
        return self._introduced

    def await_introduction(self) -> None:
        """Let nothing pass until `introduce`: the key is a new one."""
        self._introduced = False

    def introduce(self) -> None:
        """Let requests pass: the key opens the ledger's organization."""
        self._introduced = True

    @property
    def checked(self) -> bool:
        """Whether it was seen that the state is no older copy of itself."""
        return self._checked

    def await_check(self) -> None:
        """Let nothing pass until `check_done`: the state may be an older copy of itself."""
        self._checked = False

    def check_done(self) -> None:
        """Let requests pass: the state was checked, as far as it can be."""
        self._checked = True

    @property
    def tripped(self) -> bool:
        """Whether requests fail one after another: then one at a time probes the service."""
        return self._failures >= TRIPPED_AFTER

    @property
    def storage_tripped(self) -> bool:
        """Whether the storage takes the content of no file: then one at a time probes it."""
        # A single file that it does not take is no trouble of the others.
        return self._storage_failures >= TRIPPED_AFTER and len(self._unstored) > 1

    @property
    def cause(self) -> str:
        """What keeps the service from being reached, for a person; empty while it answers."""
        if self.state != "unreachable" or self._cause is None:
            return ""
        lasts = "; this does not mend itself (syncd doctor)" if self._cause.is_lasting else ""
        return f"{self._cause.text}{lasts}"

    @property
    def pauses(self) -> int:
        """How many pauses have begun: a request notes it, and its failure is told with it."""
        return self._pauses

    def seconds_rested(self) -> float:
        """Return the seconds for which requests rest because the service asked for patience."""
        with self._lock:
            until = max(self._asked_until, self._shut_until if self._throttled else 0.0)
            return max(0.0, until - self._monotonic())

    def next_tries(self) -> dict[str, float]:
        """Return, by the scope of what is held, the seconds until it is tried again by itself."""
        tries = {holds.workspace(name): KEY_PROBE_SECONDS for name in self._closed}
        tries |= {holds.workspace(name): wait for name, wait in self.refusals.next_probes()}
        if self._refused:
            tries[holds.EVERYWHERE] = KEY_PROBE_SECONDS
        elif self._resting():
            tries[holds.EVERYWHERE] = self._quota_until - self._monotonic()
        return tries

    def seconds_until_probe(self) -> float:
        """Return the seconds until what is broken is tried again, if something waits for it."""
        with self._lock:
            storage = self._storage_until if self.storage_tripped else 0.0
            return max(self._shut_until, storage, self._monotonic()) - self._monotonic()

    # Which file may go

    def admits(self, workspace: str | None, file_id: int, *, presigned: bool) -> bool:
        """Say whether a file may be sent now; while something is broken, only its probe may."""
        if not self.may_send() or workspace in self._closed:
            return False
        if self.tripped and not self._probe.has(file_id):
            return False
        if presigned and self.storage_tripped and not self._storage_probe.has(file_id):
            return False
        return self.refusals.admits(workspace, file_id)

    def claim(self, workspace: str | None, file_id: int, *, presigned: bool) -> bool:
        """Let a file be sent next, as the probe of whatever is broken; False if it has to wait."""
        storage = presigned and self.storage_tripped
        if storage and self._monotonic() < self._storage_until:
            return False
        claimed = (
            (not self.tripped or self._probe.claim(file_id))
            and (not storage or self._storage_probe.claim(file_id))
            and self.refusals.claim(workspace, file_id)
        )
        if not claimed:
            self.ended(file_id)
        return claimed

    def ended(self, file_id: int) -> None:
        """Note that a file is under way no more."""
        self._probe.end(file_id)
        self._storage_probe.end(file_id)
        self.refusals.ended(file_id)

    def sent(self, workspace: str | None, *, presigned: bool) -> None:
        """Record that a file's content was taken."""
        if presigned:
            with self._lock:
                was_tripped = self.storage_tripped
                self._unstored.clear()
                self._storage_failures = 0
            if was_tripped:
                log.info("the storage takes content again")
                self._try_unanswered()
        self.succeeded()
        self.refusals.passed(workspace)

    def not_stored(self, file_id: int, error: FilesApiError) -> None:
        """Record that the storage did not take a file's content."""
        with self._lock:
            was_tripped = self.storage_tripped
            self._unstored.add(file_id)
            self._storage_failures += 1
            pause = backoff_seconds(max(self._storage_failures - TRIPPED_AFTER + 1, 1))
            self._storage_until = self._monotonic() + pause
            if self.storage_tripped:
                self._cause = error
        if self.storage_tripped and not was_tripped:
            log.warning("the storage takes no content; waiting for it: %s", error)

    def forget_storage(self) -> None:
        """Nothing waits for the storage any more: whether it works is unknown."""
        with self._lock:
            self._unstored.clear()
            self._storage_failures = 0

    def _try_unanswered(self) -> None:
        now = self._clock()
        with suppress(StateError):
            self._store.submit(lambda db: try_unanswered_again(db, now))

    def seconds_shut(self) -> float:
        """Return the seconds until requests may be made again; 0 when they may be made now."""
        with self._lock:
            return max(0.0, self._shut_until - self._monotonic())

    def seconds_shut_for_all(self) -> float:
        """Return the seconds until any request but a probe may be made; 0 for now."""
        if not (self._introduced and self._checked):
            return max(self.seconds_shut(), 1.0)
        return KEY_PROBE_SECONDS if self._refused else self.seconds_shut()

    def may_send(self) -> bool:
        """Say whether an upload may be made now, to a workspace that is not `closed`."""
        if self._refused or not (self._introduced and self._checked) or self._resting():
            return False
        return self.seconds_shut() == 0.0

    def try_now(self) -> None:
        """Forget what the wait was for, but for what the service itself asked for."""
        with self._lock:
            # One more failure, and all wait again.
            self._failures = min(self._failures, TRIPPED_AFTER - 1)
            self._shut_until = self._asked_until
            self._storage_until = self._monotonic()
            self._quota_until = min(self._quota_until, self._monotonic())
        self.refusals.try_now()
        self._keep_rest()

    # A workspace for itself

    def forbidden(self, workspace: str | None) -> None:
        """Note that an upload to `workspace` got 403: whether all of it is closed is to be seen."""
        with self._lock:
            self._suspects.add(workspace)

    @property
    def closed(self) -> frozenset[str | None]:
        """The workspaces to which nothing may be sent."""
        return self._closed

    @property
    def suspects(self) -> frozenset[str | None]:
        """The workspaces that may be closed: a cheap request shows it."""
        with self._lock:
            return frozenset(self._suspects)

    def judge(self, workspace: str | None, *, refusal: FilesApiError | None) -> None:
        """Hold sending to one workspace for `refusal`; None releases it."""
        scope = holds.workspace(workspace)
        with self._lock:
            self._suspects.discard(workspace)
            was_closed = workspace in self._closed
            self._closed = (
                self._closed - {workspace} if refusal is None else self._closed | {workspace}
            )
        if refusal is not None:
            if not was_closed:
                log.error("nothing is sent to workspace %s: %s", scope, refusal)
            self._hold(FORBIDDEN, f"the key may not use it: {refusal}", _WORKSPACE_COMMANDS, scope)
        elif was_closed:
            log.info("workspace %s takes files again", scope)
            self._release(FORBIDDEN, scope)

    def _resting(self) -> bool:
        return self._monotonic() < self._quota_until

    def succeeded(self) -> None:
        """Record an answer that shows the service and the key to be good."""
        self.pace.succeeded()
        with self._lock:
            tripped, self._failures = self._failures >= TRIPPED_AFTER, 0
            self._throttled = 0
            if tripped:
                self._shut_until = self._asked_until
            refused, self._refused = self._refused, False
            self.last_success_at = self._clock()
        if tripped:
            log.info("the Files API answers again")
            self._keep_rest()
            self._try_unanswered()
        if refused:
            log.info("the Files API accepts the key again")
            self._release(KEY_REFUSED)

    def failed(self, error: FilesApiError, *, pauses: int | None = None) -> None:
        """Record a failed request, and draw what follows for all the others.

        `pauses` is what the gate had counted when the request was made: the answers to a burst
        are one request to wait. Raise `error` again when it is `Aborted`: a call that the stop
        cut short says nothing of the service or of a file, and ends the step that made it.
        """
        if isinstance(error, Aborted):
            raise error
        if isinstance(error, UnauthorizedError):
            self._refuse(error)
        elif isinstance(error, QuotaError):
            self._rest(error)
        elif isinstance(error, RateLimitedError) or (
            isinstance(error, ServerError)
            and (error.retry_after is not None or error.status == 503)
        ):
            self._slow_down(error, stale=pauses is not None and pauses != self._pauses)
        elif isinstance(error, RefusedError) and (
            error.is_the_services or error.operation != "list"
        ):
            # A clear answer, though not the one hoped for: the service is there.
            with self._lock:
                self._failures = 0
        else:
            self._missed(error)

    def _slow_down(self, error: FilesApiError, *, stale: bool) -> None:
        """Let all requests wait as long as asked, or longer each time where no time is given."""
        asked = error.retry_after
        if not stale:
            with self._lock:
                self._throttled += asked is None
                self._pauses += 1
                throttled = self._throttled
            pause = backoff_seconds(throttled, asked=asked)
            self._shut(pause, asked=asked is not None)
            if isinstance(error, RateLimitedError):
                self.pace.refused(pause)
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

    def _shut(self, seconds: float, *, asked: bool = False) -> None:
        until = self._monotonic() + seconds
        with self._lock:
            longer, self._shut_until = until > self._shut_until, max(self._shut_until, until)
            if asked:
                self._asked_until = max(self._asked_until, until)
        if longer:
            self._keep_rest()

    def _keep_rest(self) -> None:
        """Write down until when all requests rest, so that a restart does not cut it short."""
        with self._lock:
            now, clock = self._monotonic(), self._clock()
            rest = _Rest(
                until=clock + max(self._shut_until - now, 0.0),
                asked=clock + max(self._asked_until - now, 0.0),
                failures=self._failures,
            )
        with suppress(StateError):
            # Nobody waits for it: without it, a restart asks a little too early.
            self._store.submit(lambda db: set_fact(db, REST, json.dumps(rest._asdict())))

    def _resume(self, kept: "_Rest | None") -> None:
        if kept is None:
            return
        now, clock = self._monotonic(), self._clock()
        # A clock that was set meanwhile must not make us wait for days.
        self._shut_until, self._asked_until = (
            now + min(max(until - clock, 0.0), LONGEST_ASKED_SECONDS)
            for until in (kept.until, kept.asked)
        )
        self._failures = kept.failures

    def _refuse(self, error: FilesApiError) -> None:
        with self._lock:
            known, self._refused = self._refused, True
        if not known:
            log.error("the Files API refuses the key; nothing is sent or deleted: %s", error)
        message = f"the Files API refuses the key: {error.text}"
        self._hold(KEY_REFUSED, message, self._key_commands)

    def _rest(self, error: FilesApiError) -> None:
        with self._lock:
            known = self._resting()
            self._quota_until = self._monotonic() + QUOTA_REST_SECONDS
        if not known:
            log.warning("a quota is used up; nothing is sent until it is free again: %s", error)
        self._hold(QUOTA, f"a quota is used up: {error}", _QUOTA_COMMANDS)

    @property
    def resting(self) -> bool:
        """Whether sending rests because a quota is used up."""
        return self._resting()

    def end_rest(self) -> None:
        """Release the quota's hold once its rest is over: the next upload shows whether it is."""
        if self._quota_until and not self._resting():
            self._quota_until = 0.0
            self._release(QUOTA)

    def _hold(
        self,
        reason: str,
        message: str,
        commands: tuple[str, ...],
        scope: str = holds.EVERYWHERE,
    ) -> None:
        now = self._clock()
        self._store.write(
            lambda db: holds.place(
                db,
                stops="sending",
                scope=scope,
                reason=reason,
                message=message,
                commands=commands,
                now=now,
            )
        )

    def _release(self, reason: str, scope: str = holds.EVERYWHERE) -> None:
        now = self._clock()
        self._store.write(
            lambda db: holds.release(db, stops="sending", scope=scope, reason=reason, now=now)
        )


_QUOTA_COMMANDS = (
    f"raise the quota; it is tried again every {QUOTA_REST_SECONDS / 60:g} minutes, or at once by:",
    "syncd retry",
)
_WORKSPACE_COMMANDS = (
    "give the key access to the workspace, or set another workspace_uuid and start syncd again",
    "syncd status",
)
