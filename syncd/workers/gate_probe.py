"""Makes a cheap request to see whether a shut gate may open again."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from syncd.files_api import FilesApiError, FilesClient, ForbiddenError, UnauthorizedError
from syncd.state import due
from syncd.state.database.store import Store
from syncd.workers.gate import KEY_PROBE_SECONDS, Gate
from syncd.workers.organization_check import OrganizationCheck
from syncd.workers.patience import Throttle

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class GateProbe:
    """Checks whether the key, the service and each workspace are usable again."""

    store: Store
    client: FilesClient
    gate: Gate
    organization_check: OrganizationCheck
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._throttle = Throttle(self.clock)

    def ask_for_key(self) -> None:
        """Check whether a refused key is accepted again, and which organization a new key opens.

        Raise ForeignStateError when it belongs to another organization.
        """
        if self.gate.refused:
            if self._throttle.may("key", KEY_PROBE_SECONDS):
                self._probe()
        elif (
            not self.gate.organization_known
            and not self.gate.seconds_shut()
            and (
                not self.organization_check.unproven or self._throttle.may("key", KEY_PROBE_SECONDS)
            )
        ):
            self._check_organization()

    def ask_for_service(self) -> None:
        """Check whether the service is back, unless an upload is waiting to find out."""
        if self.gate.tripped and not self.store.read(due.are_uploads_waiting):
            self._probe()

    def judge_workspaces(self) -> None:
        """Check each workspace that the key may no longer be allowed to use."""
        access = self.gate.workspaces
        doubtful = access.suspects
        if access.closed and self._throttle.may("workspaces", KEY_PROBE_SECONDS):
            doubtful |= access.closed
        for workspace in doubtful:
            if not self.store.read(due.is_in_use, workspace=workspace):
                access.judge(workspace, refusal=None)
                continue
            try:
                self.client.list(workspace_uuid=workspace, limit=1)
            except ForbiddenError as error:
                access.judge(workspace, refusal=error)
            except FilesApiError as error:
                self.gate.failed(error)
            else:
                access.judge(workspace, refusal=None)

    def _probe(self) -> None:
        try:
            self.client.list(limit=1)
        except FilesApiError as error:
            self.gate.failed(error)
        else:
            self.gate.succeeded()

    def _check_organization(self) -> None:
        try:
            self.organization_check.make()
        except FilesApiError as error:
            self.gate.failed(error)
            # The gate itself reports a refused key.
            if not isinstance(error, UnauthorizedError):
                log.warning("cannot check yet which organization the new key belongs to: %s", error)
