"""Judges which workspaces the key may send to, after an upload got 403."""

import logging
import threading

from syncd.files_api import FilesApiError
from syncd.state import holds
from syncd.workers.gate_holds import GateHolds

log = logging.getLogger(__name__)


class WorkspaceAccess:
    """Holds sending to the workspaces that are closed to the key. Thread-safe."""

    def __init__(self, placed: GateHolds) -> None:
        self._holds = placed
        self._lock = threading.Lock()
        closed = placed.scopes(holds.FORBIDDEN)
        self._suspects = {holds.workspace_of(scope) for scope in closed}
        self._closed = frozenset(self._suspects)

    @property
    def closed(self) -> frozenset[str | None]:
        """The workspaces to which nothing may be sent."""
        return self._closed

    @property
    def suspects(self) -> frozenset[str | None]:
        """The workspaces that may be closed."""
        with self._lock:
            return frozenset(self._suspects)

    def suspect(self, workspace: str | None) -> None:
        """Record that an upload to `workspace` got 403: all of it may be closed, or only that."""
        with self._lock:
            self._suspects.add(workspace)

    def judge(self, workspace: str | None, *, refusal: FilesApiError | None) -> None:
        """Hold sending to one workspace for `refusal`; None releases it."""
        scope = holds.workspace_scope(workspace)
        with self._lock:
            self._suspects.discard(workspace)
            was_closed = workspace in self._closed
            self._closed = (
                self._closed - {workspace} if refusal is None else self._closed | {workspace}
            )
        if refusal is not None:
            if not was_closed:
                log.error("nothing is sent to workspace %s: %s", scope, refusal)
            message = f"the key may not use it: {refusal}"
            self._holds.place(holds.FORBIDDEN, message, scope)
        elif was_closed:
            log.info("workspace %s takes files again", scope)
            self._holds.release(holds.FORBIDDEN, scope)
