"""The holds on sending that the gate places: a refused key, a used-up quota, a closed workspace."""

from collections.abc import Callable

from syncd.state import holds
from syncd.state.database.store import Store

#: Seconds for which sending rests after the service reports that a quota is used up.
QUOTA_REST_SECONDS = 300.0
_QUOTA_REMEDY = (
    f"raise the quota; it is tried again every {QUOTA_REST_SECONDS / 60:g} minutes, or at once by:"
)
_WORKSPACE_REMEDY = (
    "give the key access to the workspace, or set another workspace_uuid and start syncd again"
)


class GateHolds:
    """Places and releases holds on sending, each with the commands that settle it."""

    def __init__(self, store: Store, clock: Callable[[], float], key_remedy: str) -> None:
        self._store = store
        self._clock = clock
        self._commands = {
            holds.KEY_REFUSED: (key_remedy, "syncd status"),
            holds.QUOTA: (_QUOTA_REMEDY, "syncd retry"),
            holds.FORBIDDEN: (_WORKSPACE_REMEDY, "syncd status"),
        }

    def scopes(self, reason: str) -> list[str]:
        """Return the scopes of the open holds with that reason."""
        return [h.scope for h in self._store.read(holds.open_holds) if h.reason == reason]

    def place(self, reason: str, message: str, scope: str = holds.EVERYWHERE) -> None:
        """Open a hold, or update its message."""
        self._store.write(
            holds.place,
            stops="sending",
            scope=scope,
            reason=reason,
            message=message,
            commands=self._commands[reason],
            now=self._clock(),
        )

    def release(self, reason: str, scope: str = holds.EVERYWHERE) -> None:
        """Close a hold, if it is open."""
        now = self._clock()
        self._store.write(holds.release, stops="sending", scope=scope, reason=reason, now=now)
