"""Settles doubts by looking: a copy whose request got no answer is searched for by its token.

It alone reads listings, and only while a doubt is open, once to learn what the service echoes,
and in a daily sweep for strays.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from syncd.files_api import (
    FileDetail,
    FilesApiError,
    FilesClient,
    Listing,
    NotFoundError,
    tokens_in,
)
from syncd.state import due, holds
from syncd.state.copies import Copy
from syncd.state.ledger import Ledger, Stored
from syncd.state.store import (
    ECHO,
    NO_ECHO,
    PROVEN,
    Store,
    Transaction,
    fact,
    set_fact,
)
from syncd.workers.gate import Gate

log = logging.getLogger(__name__)

#: The reason of the hold on an upload that may neither be found nor sent again.
HELD_REASON = "no_echo"
#: Seconds between two looks for the same doubt, at least.
LOOK_SECONDS = 5.0
#: Seconds between two looks while the request may still arrive, at most.
RELOOK_SECONDS = 30.0
#: Seconds between two looks where nothing may be sent again, whatever they find.
HELD_LOOK_SECONDS = 3600.0
SWEEP_SECONDS = 86_400.0
#: Objects of a listing that are compared with the ledger at once.
SWEEP_BATCH = 500
#: What clocks may differ by, in seconds, when a listing is read back to a time.
SKEW_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """How long a request may still arrive after it was sent, in seconds."""

    resend_after_seconds: float = 120.0
    first_poll_seconds: float = 2.0


class Reconciler:
    """The stage that looks: `step` settles what is in doubt."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        client: FilesClient,
        gate: Gate,
        options: ReconcileOptions,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._client = client
        self._gate = gate
        self._options = options
        self._clock = clock
        self._sweep_at = clock() + SWEEP_SECONDS

    def step(self) -> float | None:
        """Look for what is in doubt; return the seconds until the next look is due."""
        if self._gate.refused:
            self._probe()
        if shut := self._gate.seconds_shut_for_all():
            return shut
        now = self._clock()
        doubts = self._store.read(due.doubts)
        urgent = [copy for copy in doubts if (copy.due_at or 0.0) <= now]
        try:
            for workspace in {copy.workspace_uuid for copy in urgent}:
                self._settle(workspace, [c for c in doubts if c.workspace_uuid == workspace])
            self._learn_echo()
            if now >= self._sweep_at:
                self._sweep_at = now + SWEEP_SECONDS
                self._sweep()
        except FilesApiError as error:
            self._gate.failed(error)
            log.warning("what is in doubt cannot be looked up now: %s", error)
            return LOOK_SECONDS
        return self._next_seconds()

    def _next_seconds(self) -> float | None:
        times = [copy.due_at or 0.0 for copy in self._store.read(due.doubts)]
        return max(min(times) - self._clock(), 0.0) if times else None

    def _probe(self) -> None:
        """Ask for next to nothing, to see whether the key is accepted again."""
        try:
            self._client.list(limit=1)
        except FilesApiError as error:
            self._gate.failed(error)
        else:
            self._gate.succeeded()

    def _settle(self, workspace: str | None, doubts: Sequence[Copy]) -> None:
        reserved = [copy for copy in doubts if copy.file_uuid is not None]
        for copy in reserved:
            self._settle_reserved(copy)
        doubts = [copy for copy in doubts if copy.file_uuid is None]
        if not doubts:
            return
        oldest = min(copy.sent_at or copy.created_at for copy in doubts)
        listing = self._client.read_listing(
            workspace_uuid=workspace, since=datetime.fromtimestamp(oldest - SKEW_SECONDS, tz=UTC)
        )
        self._gate.succeeded()
        by_token = _by_token(listing)
        self._retire_twins(by_token)
        for copy in doubts:
            found = by_token.get(copy.token)
            if found:
                self._adopt(copy, found)
            else:
                self._not_found(copy, listing)

    def _adopt(self, copy: Copy, found: Sequence[FileDetail]) -> None:
        """Take the first that arrived for the copy's own; the others are twins, and retire.

        What has its content comes first: an earlier try may have left a record without.
        """

        def rank(item: FileDetail) -> tuple[bool, datetime, str]:
            return item.file_size_bytes != copy.size, item.created_at, item.file_uuid

        first, *twins = sorted(found, key=rank)
        now = self._clock()
        if copy.method == "presigned" or first.file_size_bytes != copy.size:
            self._adopt_reserved(copy, first, twins, now)
            return
        stored = self._stored(first)

        def record(db: Transaction) -> str:
            set_fact(db, ECHO, PROVEN)
            self._release(db, copy, now)
            became = self._ledger.stored(
                db, copy.id, stored, now, look=now + self._options.first_poll_seconds
            )
            strays = [(copy, twin.file_uuid) for twin in twins]
            self._ledger.twins(db, strays=strays, now=now)
            return became

        became = self._store.write(record)
        log.info("found what was in doubt: %s is %s, %d twins", first.file_uuid, became, len(twins))

    def _adopt_reserved(
        self, copy: Copy, first: FileDetail, twins: Sequence[FileDetail], now: float
    ) -> None:
        """Take a reserved record for the copy's own: only its size tells whether content came."""

        def record(db: Transaction) -> None:
            set_fact(db, ECHO, PROVEN)
            self._ledger.reserved(db, copy.id, first.file_uuid)
            strays = [(copy, twin.file_uuid) for twin in twins]
            self._ledger.twins(db, strays=strays, now=now)

        self._store.write(record)
        self._settle_reserved(copy._replace(file_uuid=first.file_uuid))

    def _stored(self, item: FileDetail) -> Stored:
        status = item.processing_status
        if status is None and (item.content_type or "").startswith("video/"):
            # Where the listing does not say, the object itself does.
            status = self._client.get_status(item.file_uuid).processing_status
        # A failed video is processing's outcome: the poller records it.
        status = "processing" if status == "failed" else status
        return Stored(item.file_uuid, item.remote_file_path, status)

    def _settle_reserved(self, copy: Copy) -> None:
        """A reserved object is known by its uuid: see whether its content arrived."""
        if copy.file_uuid is None:
            return
        now = self._clock()
        try:
            item = self._client.get(copy.file_uuid)
        except NotFoundError:
            self._client.list(workspace_uuid=copy.workspace_uuid, limit=1)
            item = None
        self._gate.succeeded()
        whole = item is not None and item.file_size_bytes == copy.size
        if item is not None and whole:
            stored, look = self._stored(item), now + self._options.first_poll_seconds
            self._store.write(lambda db: self._ledger.stored(db, copy.id, stored, now, look=look))
        else:
            self._store.write(lambda db: self._ledger.not_sent(db, copy.id, now))

    def _not_found(self, copy: Copy, listing: Listing) -> None:
        """Conclude absence only from a complete listing, long enough after the last attempt."""
        now = self._clock()
        safe_at = (copy.sent_at or now) + self._options.resend_after_seconds
        # A create that did arrive left a record without content: repeating it loses nothing.
        harmless = copy.method == "presigned"
        proven = harmless or self._store.read(lambda db: fact(db, ECHO)) == PROVEN
        if now < safe_at or not listing.complete:
            look_at = min(safe_at, now + RELOOK_SECONDS) if now < safe_at else now + LOOK_SECONDS
            self._store.write(lambda db: self._ledger.look_later(db, copy.id, look_at))
        elif proven:
            log.info("an upload in doubt never arrived; it is sent again")

            def record(db: Transaction) -> None:
                self._release(db, copy, now)
                self._ledger.absent(db, copy.id, now)

            self._store.write(record)
        else:
            self._hold(copy, now)

    def _hold(self, copy: Copy, now: float) -> None:
        """Without proof that tokens are echoed, absence means nothing: do not send twice."""

        def record(db: Transaction) -> None:
            holds.place(
                db,
                stops="sending",
                scope=_scope(copy),
                reason=HELD_REASON,
                message=(
                    "an upload got no answer, and this service has not been seen to echo names: "
                    "it may have arrived, so it is not sent again by itself"
                ),
                affects=1,
                commands=("change the file (a new version is sent)", "syncd status"),
                now=now,
            )
            self._ledger.look_later(db, copy.id, now + HELD_LOOK_SECONDS)

        self._store.write(record)

    def _release(self, db: Transaction, copy: Copy, now: float) -> None:
        holds.release(db, stops="sending", scope=_scope(copy), reason=HELD_REASON, now=now)

    def _learn_echo(self) -> None:
        """After the first upload, see whether its token is in the listing."""
        sample = self._store.read(lambda db: due.echo_sample(db, ECHO))
        if sample is None:
            return
        listing = self._client.read_listing(
            workspace_uuid=sample.workspace_uuid,
            since=datetime.fromtimestamp(
                (sample.sent_at or sample.created_at) - SKEW_SECONDS, tz=UTC
            ),
        )
        self._gate.succeeded()
        item = next((i for i in listing.items if i.file_uuid == sample.file_uuid), None)
        if item is None:
            return
        echoed = sample.token in tokens_in(item.strings())
        now = self._clock()

        def record(db: Transaction) -> None:
            set_fact(db, ECHO, PROVEN if echoed else NO_ECHO)
            # Doubts that were held for want of this proof can be looked at with it.
            for copy in due.doubts(db) if echoed else ():
                self._ledger.look_later(db, copy.id, now)

        self._store.write(record)
        log.info("the Files API %s the names it is sent", "echoes" if echoed else "does not echo")

    def _sweep(self) -> None:
        """Once a day: what carries our token and arrived unnoticed gets a row, and retires."""
        for workspace in self._store.read(due.workspaces):
            listing = self._client.read_listing(workspace_uuid=workspace)
            self._gate.succeeded()
            self._retire_twins(_by_token(listing))

    def _retire_twins(self, by_token: dict[str, list[FileDetail]]) -> None:
        """Retire objects whose copy the ledger knows under another uuid."""
        found = [(token, item.file_uuid) for token, items in by_token.items() for item in items]
        now = self._clock()
        for start in range(0, len(found), SWEEP_BATCH):
            part = found[start : start + SWEEP_BATCH]
            strays = self._store.read(partial(due.strays, found=part))
            if strays:
                self._store.write(partial(self._ledger.twins, strays=strays, now=now))
                log.warning("%d stray twins of known copies retire", len(strays))


def _by_token(listing: Listing) -> dict[str, list[FileDetail]]:
    found: dict[str, list[FileDetail]] = {}
    for item in listing.items:
        for token in tokens_in(item.strings()):
            found.setdefault(token, []).append(item)
    return found


def _scope(copy: Copy) -> str:
    return f"copy {copy.id}"
