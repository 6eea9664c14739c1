"""Tells a broken service from a bad file.

Ten different files of a workspace that are refused alike, with no success between, are a hold:
`refused`. One file at a time then probes, with growing pauses, and any success ends it.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from syncd.files_api import FilesApiError, QuotaError, RateLimitedError, UnauthorizedError
from syncd.state import holds
from syncd.state.backoff import backoff_seconds
from syncd.state.database.store import Store, Transaction
from syncd.state.ledger import Ledger
from syncd.state.manual_retry import try_again
from syncd.workers.probe import Probe

log = logging.getLogger(__name__)

#: Refusals that say nothing about the file: its copy stays planned, and no try is counted.
NOT_ABOUT_THE_FILE = (RateLimitedError, UnauthorizedError, QuotaError)
#: Different files in a row that are refused alike, after which no file is to blame.
ALIKE = 10
_ADVICE = (
    "see what answers there: a gateway, a proxy, or a service that checks wrongly; one file at a "
    "time is tried by itself, or at once by:"
)
_COMMANDS = (_ADVICE, "syncd retry")


@dataclass(slots=True)
class _Workspace:
    """The outcomes of uploads to one workspace since the last success."""

    probe: Probe
    #: the files that were refused, by what the refusals have in common
    refused: dict[tuple[str, int | None], set[int]] = field(default_factory=dict)
    #: those that were refused for the first time
    once: set[int] = field(default_factory=set)
    passed_at: float | None = None
    is_held: bool = False
    probes: int = 0
    probe_at: float = 0.0


@dataclass(kw_only=True, eq=False)
class Refusals:
    """Counts refusals for each workspace. Thread-safe; times are on `monotonic`."""

    store: Store
    clock: Callable[[], float]
    monotonic: Callable[[], float]

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._workspaces: dict[str | None, _Workspace] = {}
        for hold in self.store.read(holds.open_holds):
            if hold.reason == holds.REFUSED:
                self._of(holds.workspace_of(hold.scope)).is_held = True

    def _of(self, workspace: str | None) -> _Workspace:
        if (known := self._workspaces.get(workspace)) is not None:
            return known
        with self._lock:
            return self._workspaces.setdefault(workspace, _Workspace(Probe(self.monotonic)))

    @property
    def held(self) -> frozenset[str | None]:
        """The workspaces to which one file at a time is sent."""
        with self._lock:
            return frozenset(name for name, known in self._workspaces.items() if known.is_held)

    def passed_at(self, workspace: str | None) -> float | None:
        """Return when a file got through to `workspace` last, in seconds since the epoch."""
        return self._of(workspace).passed_at

    def admits(self, workspace: str | None, file_id: int) -> bool:
        """Return whether a file may be sent to `workspace` now."""
        known = self._of(workspace)
        return not known.is_held or known.probe.has(file_id)

    def may_probe(self, workspace: str | None) -> bool:
        """Return whether it is time for a probe."""
        known = self._of(workspace)
        return known.probe.is_free and self.monotonic() >= known.probe_at

    def next_probes(self) -> list[tuple[str | None, float]]:
        """Return each held workspace with the seconds until its next probe."""
        now = self.monotonic()
        with self._lock:
            return [
                (name, max(known.probe_at - now, 0.0))
                for name, known in self._workspaces.items()
                if known.is_held
            ]

    def claim(self, workspace: str | None, file_id: int) -> bool:
        """Make a file the probe of a held workspace; False while another one is."""
        known = self._of(workspace)
        return not known.is_held or known.probe.claim(file_id)

    def ended(self, file_id: int) -> None:
        """Record that a file is no longer under way."""
        with self._lock:
            workspaces = list(self._workspaces.values())
        for known in workspaces:
            known.probe.end(file_id)

    def try_now(self) -> None:
        """Let each held workspace be probed at once."""
        with self._lock:
            for known in self._workspaces.values():
                known.probe_at = self.monotonic()

    def refused(
        self, workspace: str | None, file_id: int, error: FilesApiError, ledger: Ledger
    ) -> None:
        """Count a refusal; the tenth of its kind holds the workspace and blames no file."""
        known = self._of(workspace)
        with self._lock:
            if not any(file_id in files for files in known.refused.values()):
                known.once.add(file_id)
            else:
                known.once.discard(file_id)
            alike = known.refused.setdefault((error.where, error.status), set())
            alike.add(file_id)
            blamed = set(alike)
            if known.is_held:
                known.probes += 1
                known.probe_at = self.monotonic() + backoff_seconds(known.probes)
                return
            if len(alike) < ALIKE:
                return
            known.is_held = True
            known.probes = 1
            known.probe_at = self.monotonic() + backoff_seconds(1)
        self._hold(workspace, blamed, error, ledger)

    def _hold(
        self, workspace: str | None, blamed: set[int], error: FilesApiError, ledger: Ledger
    ) -> None:
        now, where = self.clock(), error.where or error.operation
        message = f"{where} refuses file after file with status {error.status}: {error.message}"
        log.error("sending to workspace %s is held: %s", holds.workspace_scope(workspace), message)

        def work(db: Transaction) -> None:
            ledger.try_refused_again(db, now, blamed)
            holds.place(
                db,
                stops="sending",
                scope=holds.workspace_scope(workspace),
                reason=holds.REFUSED,
                message=message,
                affects=len(blamed),
                commands=_COMMANDS,
                now=now,
            )

        self.store.write(work)

    def passed(self, workspace: str | None) -> None:
        """Note a success: what was refused before is tried again, once or after a hold."""
        known = self._of(workspace)
        with self._lock:
            known.passed_at = self.clock()
            if not known.refused and not known.is_held:
                return
            once, was_held = set(known.once), known.is_held
            known.refused.clear()
            known.once.clear()
            known.is_held, known.probes = False, 0
        self._try_again(workspace, None if was_held else once)
        if was_held:
            log.info("workspace %s takes files again", holds.workspace_scope(workspace))

    def release_ended(self, workspace: str | None) -> None:
        """Release a hold that is over: the commit that should have released it failed."""
        if not self._of(workspace).is_held:
            self._try_again(workspace, None)

    def _try_again(self, workspace: str | None, refused: set[int] | None) -> None:
        """Let the refused files be tried again, or all of them, and release the hold."""
        now = self.clock()

        def work(db: Transaction) -> None:
            try_again(db, now, workspace=workspace, refused=refused)
            holds.release(
                db,
                stops="sending",
                scope=holds.workspace_scope(workspace),
                reason=holds.REFUSED,
                now=now,
            )

        self.store.write(work)
