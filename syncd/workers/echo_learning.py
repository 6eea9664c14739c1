"""Learns from the first uploads how the service shows what it stored: names, sizes and times."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from syncd.files_api import FileDetail
from syncd.state import due, echo
from syncd.state.attempts import Attempt
from syncd.state.binding import KEY_MARK
from syncd.state.copies import Copy
from syncd.state.database.store import Store, Transaction, fact
from syncd.state.echo import Learned
from syncd.state.ledger import Ledger
from syncd.state.probing import ProbeObject
from syncd.workers.gate import Gate
from syncd.workers.patience import Throttle
from syncd.workers.search import Search

log = logging.getLogger(__name__)

#: Seconds between two tries to learn: the first pause, and the longest.
SHORTEST_SECONDS, LONGEST_SECONDS = 5.0, 3600.0


@dataclass(kw_only=True, eq=False)
class EchoLearning:
    """Reads listings only while there is something to learn, with growing pauses."""

    store: Store
    ledger: Ledger
    gate: Gate
    search: Search
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._throttle = Throttle(self.clock)
        self._pause_seconds = SHORTEST_SECONDS

    def step(self) -> None:
        """Look for a stored copy of each kind of upload about which there is more to learn.

        Raise FilesApiError when the service does not answer.
        """
        samples = self.store.read(echo.samples)
        if not samples or not self._throttle.may("echo", self._pause_seconds):
            return
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_SECONDS)
        for workspace in {copy.workspace_uuid for copy in samples.values()}:
            here = {k: copy for k, copy in samples.items() if copy.workspace_uuid == workspace}
            shown = self._show(workspace, here.values())
            self.gate.succeeded()
            for kind, copy in here.items():
                if item := shown.get(copy.file_uuid or ""):
                    self._learn_from(kind, copy, item)

    def _show(self, workspace: str | None, stored: Iterable[Copy]) -> dict[str, FileDetail]:
        """Return what the listing shows of stored copies, by uuid."""
        wanted = {copy.file_uuid: Attempt.of(copy) for copy in stored}
        shown: dict[str, FileDetail] = {}

        def take(item: FileDetail) -> None:
            if item.file_uuid in wanted:
                shown[item.file_uuid] = item

        self.search.read(workspace, take, lambda: self.search.since(wanted.values()))
        if len(shown) < len(wanted):
            # Creation times may be far from ours: that is yet to be learned.
            self.search.read(workspace, take)
        return shown

    def _learn_from(self, kind: str, copy: Copy, item: FileDetail) -> None:
        stored_at = (copy.stored_at or copy.created_at) + (self.search.ahead or 0.0)
        self.learn(kind, copy, stored_at, item)

    def learn(
        self, kind: str, sent: Copy | ProbeObject, stored_at: float, shown: FileDetail
    ) -> None:
        """Learn from what a listing shows of an own upload that the service holds whole.

        `stored_at` is by the service's clock. Also keep whom the service names as uploader.
        """
        now = self.clock()
        what = Learned(
            echo=shown.token == sent.token,
            sizes=echoed_size(sent.size, shown),
            skew=shown.created_at.timestamp() - stored_at,
        )

        def record(db: Transaction) -> None:
            echo.learn(db, kind, what)
            echo.learn_uploader(db, fact(db, KEY_MARK), shown.uploaded_by_uuid)
            # Doubts that were held for lack of this proof can be looked up now.
            for doubt in due.doubts(db) if what.echo else ():
                self.ledger.look_later(db, doubt, now)

        self.store.write(record)
        self._pause_seconds = SHORTEST_SECONDS
        echoes = "echoes" if what.echo else "does not echo"
        log.info("the Files API %s the names it is sent (%s)", echoes, kind)


def echoed_size(size: int, item: FileDetail) -> bool | None:
    """Return whether an object is shown with the size that was sent; None when it shows none."""
    return None if item.file_size_bytes is None else item.file_size_bytes == size
