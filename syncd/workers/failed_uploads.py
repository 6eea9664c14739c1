"""The consequences of a failed upload: for its copy, the gate, and how many go at a time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from syncd.files_api import (
    Aborted,
    ConflictError,
    FilesApiError,
    ForbiddenError,
    NotSentError,
    RateLimitedError,
    RefusedError,
)
from syncd.log import fields
from syncd.metrics import RETRIES
from syncd.state.backoff import backoff_seconds
from syncd.state.copies import Copy
from syncd.state.database.store import Store
from syncd.state.files import File
from syncd.state.ledger import Failure, Ledger
from syncd.state.texts import error_text
from syncd.workers.concurrency import Concurrency
from syncd.workers.gate import Gate
from syncd.workers.refusals import NOT_ABOUT_THE_FILE

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class FailedUploads:
    """Records failures. Thread-safe."""

    store: Store
    ledger: Ledger
    gate: Gate
    concurrency: Concurrency
    clock: Callable[[], float]

    def unsent(self, copy: Copy) -> None:
        """Record that nothing of a copy was sent, and nothing failed."""
        now = self.clock()
        self.store.write(self.ledger.not_sent, copy.id, now)

    def overloaded(self, error: FilesApiError) -> None:
        """Send fewer at a time if the service says that it has too much to do."""
        if isinstance(error, RateLimitedError) or error.status == 503:
            self.concurrency.overloaded()

    def record(
        self,
        file: File,
        copy: Copy,
        error: FilesApiError,
        rests: int,
        *,
        tell_gate: bool = True,
    ) -> None:
        """Record what a failure means.

        `rests` is what the gate had counted when the request was made. The gate is told once of a
        request that was for several files.
        """
        failure = Failure(error.message, error.status, error.code, error.request_id)
        if not isinstance(error, Aborted):
            self.overloaded(error)
            self._tell_gate(file, copy, error, rests, tell_gate=tell_gate)
        is_final = self._record(file, copy, error, failure)
        if not isinstance(error, Aborted):
            RETRIES.add(file.folder)
            log.warning(
                "%s: %s",
                file.shown,
                error,
                extra=fields(
                    "upload_failed",
                    folder=file.folder,
                    path=file.shown,
                    bytes=copy.size,
                    status=error.status,
                    # A final failure is logged for each file.
                    cause=None
                    if is_final
                    else error_text(error.message, error.status, error.code, None),
                    request_id=error.request_id,
                ),
            )

    def _tell_gate(
        self, file: File, copy: Copy, error: FilesApiError, rests: int, *, tell_gate: bool
    ) -> None:
        at_storage = error.operation == "put" and not isinstance(error, RateLimitedError)
        if at_storage:
            self.gate.not_stored(file.id, error)
        if tell_gate and (not at_storage or error.retry_after is not None):
            self.gate.failed(error, rests=rests)
        if isinstance(error, ForbiddenError) and not at_storage:
            self.gate.workspaces.suspect(copy.workspace_uuid)

    def _record(self, file: File, copy: Copy, error: FilesApiError, failure: Failure) -> bool:
        """Record what a failure means for its copy; return whether it is final."""
        now = self.clock()
        record = self.ledger.not_sent
        if isinstance(error, Aborted) and isinstance(error, NotSentError):
            self.store.write(record, copy.id, now)
        elif isinstance(error, NotSentError):
            again_at = now + backoff_seconds(copy.attempts, asked=error.retry_after)
            self.store.write(record, copy.id, now, failure=failure, again_at=again_at)
        elif isinstance(error, NOT_ABOUT_THE_FILE):
            again_at = now + self.gate.seconds_shut()
            self.store.write(record, copy.id, now, failure=failure, again_at=again_at, counts=False)
        elif isinstance(error, RefusedError) and not isinstance(error, ConflictError):
            return self._judge_refusal(file, copy, error, failure)
        else:
            # The conflict may be with this very copy, if it arrived: look it up.
            self.store.write(self.ledger.doubt, copy.id, failure, now)
        return False

    def _judge_refusal(self, file: File, copy: Copy, error: RefusedError, failure: Failure) -> bool:
        now, refusals = self.clock(), self.gate.refusals
        passed_at = refusals.passed_at(copy.workspace_uuid)
        is_final = self.store.write(
            self.ledger.judge_refusal,
            copy.id,
            failure,
            now,
            enveloped=error.enveloped and error.operation != "put",
            passed_at=passed_at,
        )
        refusals.refused(copy.workspace_uuid, file.id, error, self.ledger)
        return is_final
