"""What the service lets us do now: one judgement, shared by all workers.

A request that is refused for its key stops every mutation and is a hold; one that asks for
patience slows all of them; an unreachable service is tried by few until it answers.
"""

import logging
import threading
from collections.abc import Callable

from syncd.files_api import (
    FilesApiError,
    ForbiddenError,
    InDoubtError,
    NotSentError,
    QuotaError,
    RateLimitedError,
    RefusedError,
    ServerError,
    UnauthorizedError,
)
from syncd.state import holds
from syncd.state.retry import backoff_seconds
from syncd.state.store import Store

log = logging.getLogger(__name__)

#: Failures in a row, of any requests, after which the service counts as unreachable.
TRIPPED_AFTER = 5
KEY_REFUSED, QUOTA = "key_refused", "quota"
#: Seconds for which sending rests after the service said that a quota is used up.
QUOTA_REST_SECONDS = 300.0

#: Seconds between two probes of a key that was refused.
KEY_PROBE_SECONDS = 30.0

#: What makes a refusal no fault of the file's: its copy stays planned and is sent later.
PATIENCE = (RateLimitedError, UnauthorizedError, QuotaError, ForbiddenError)


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
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failures = 0
        self._shut_until = 0.0
        # A hold that outlived its process is believed until an answer says otherwise.
        open_before = {hold.reason for hold in store.read(holds.open_holds)}
        self._refused = KEY_REFUSED in open_before
        self._quota_until = monotonic() if QUOTA in open_before else 0.0
        self.last_success_at: float | None = None

    @property
    def state(self) -> str:
        """ok, unreachable, refused, or unknown before the first answer."""
        if self._refused:
            return "refused"
        if self._failures >= TRIPPED_AFTER:
            return "unreachable"
        return "unknown" if self.last_success_at is None and self._failures == 0 else "ok"

    @property
    def refused(self) -> bool:
        """Whether the key was refused and has not been accepted since."""
        return self._refused

    def seconds_shut(self) -> float:
        """Return the seconds until requests may be made again; 0 when they may be made now."""
        with self._lock:
            return max(0.0, self._shut_until - self._monotonic())

    def seconds_shut_for_all(self) -> float:
        """Return the seconds until any request but a probe may be made; 0 for now."""
        return KEY_PROBE_SECONDS if self._refused else self.seconds_shut()

    def may_send(self) -> bool:
        """Say whether a mutation may be made now."""
        return not self._refused and self.seconds_shut() == 0.0 and not self._resting()

    def _resting(self) -> bool:
        return self._monotonic() < self._quota_until

    def succeeded(self) -> None:
        """Record an answer that shows the service and the key to be good."""
        with self._lock:
            tripped, self._failures = self._failures >= TRIPPED_AFTER, 0
            refused, self._refused = self._refused, False
            self.last_success_at = self._clock()
        if tripped:
            log.info("the Files API answers again")
        if refused:
            log.info("the Files API accepts the key again")
            self._release(KEY_REFUSED)

    def failed(self, error: FilesApiError) -> None:
        """Record a failed request, and draw what follows for all the others."""
        if isinstance(error, UnauthorizedError):
            self._refuse(error)
        elif isinstance(error, QuotaError):
            self._rest(error)
        elif isinstance(error, RateLimitedError) or (
            isinstance(error, ServerError) and error.retry_after is not None
        ):
            self._shut(backoff_seconds(1, asked=error.retry_after))
        elif isinstance(error, RefusedError):
            # A clear answer, though not the one hoped for: the service is there.
            with self._lock:
                self._failures = 0
        elif isinstance(error, NotSentError | InDoubtError):
            self._missed(error)

    def _missed(self, error: FilesApiError) -> None:
        with self._lock:
            self._failures += 1
            failures = self._failures
        if failures >= TRIPPED_AFTER:
            self._shut(backoff_seconds(failures - TRIPPED_AFTER + 1))
        if failures == TRIPPED_AFTER:
            log.warning("the Files API cannot be reached; waiting for it: %s", error)

    def _shut(self, seconds: float) -> None:
        with self._lock:
            self._shut_until = max(self._shut_until, self._monotonic() + seconds)

    def _refuse(self, error: FilesApiError) -> None:
        with self._lock:
            known, self._refused = self._refused, True
        if not known:
            log.error("the Files API refuses the key; nothing is sent or deleted: %s", error)
        self._hold(KEY_REFUSED, f"the Files API refuses the key: {error}", _KEY_COMMANDS)

    def _rest(self, error: FilesApiError) -> None:
        with self._lock:
            self._quota_until = self._monotonic() + QUOTA_REST_SECONDS
        self._hold(QUOTA, f"a quota is used up: {error}", ())

    def end_rest(self) -> None:
        """Release the quota's hold once its rest is over: the next upload shows whether it is."""
        if self._quota_until and not self._resting():
            self._quota_until = 0.0
            self._release(QUOTA)

    def _hold(self, reason: str, message: str, commands: tuple[str, ...]) -> None:
        now = self._clock()
        self._store.write(
            lambda db: holds.place(
                db,
                stops="sending",
                scope=holds.EVERYWHERE,
                reason=reason,
                message=message,
                commands=commands,
                now=now,
            )
        )

    def _release(self, reason: str) -> None:
        now = self._clock()
        self._store.write(
            lambda db: holds.release(
                db, stops="sending", scope=holds.EVERYWHERE, reason=reason, now=now
            )
        )


_KEY_COMMANDS = (
    "check AYMARA_AI_API_KEY (or the file or credential it comes from) and restart syncd",
    "syncd status",
)
