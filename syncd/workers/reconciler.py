"""Settles doubts by looking: a copy whose request got no answer is searched for by its token.

It alone reads listings, and only while a doubt is open, once to learn what the service echoes,
and in a daily sweep for strays.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from syncd.files_api import (
    FileDetail,
    FilesApiError,
    FilesClient,
    ForbiddenError,
    Listing,
    NotFoundError,
    UnauthorizedError,
    tokens_in,
)
from syncd.state import due, files, holds, texts, unknown
from syncd.state.copies import Copy
from syncd.state.ledger import Ledger, Stored
from syncd.state.store import (
    ECHO,
    NO_ECHO,
    PROVEN,
    Store,
    Transaction,
    fact,
    read_fact,
    set_fact,
)
from syncd.workers.gate import KEY_PROBE_SECONDS, Gate
from syncd.workers.introduction import Introduction
from syncd.workers.tokens import by_token, of_instance

log = logging.getLogger(__name__)

#: Seconds between two looks for the same doubt, at least.
LOOK_SECONDS = 5.0
#: Seconds between two looks while the request may still arrive, at most.
RELOOK_SECONDS = 30.0
#: Seconds between two looks where nothing may be sent again, whatever they find.
HELD_LOOK_SECONDS = 3600.0
SWEEP_SECONDS = 86_400.0
#: Seconds until a sweep that could not be made whole is tried again: listings may be long.
SWEEP_AGAIN_SECONDS = 300.0
#: How long a doubt counts as recent, in times of `resend_after_seconds`: what was sent twice is
#: looked for once more at its end.
RECENT_TIMES = 5.0
#: The facts by which the next looks outlive the process.
SWEEP_AT, LOOK_BACK = "sweep_at", "look_back"
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
        introduction: Introduction,
        options: ReconcileOptions,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._client = client
        self._gate = gate
        self._introduction = introduction
        self._options = options
        self._clock = clock
        self._sweep_at, self._look_back = self._next_looks()
        #: when what was refused was last asked for, on `clock`
        self._asked_at: dict[str, float] = {}

    def _next_looks(self) -> tuple[float, tuple[float, float] | None]:
        """Return when the next sweep is due, and the next look back with what it reads back to."""
        now = self._clock()
        sweep = self._store.read(lambda db: read_fact(db, SWEEP_AT, float))
        look = self._store.read(lambda db: read_fact(db, LOOK_BACK, _look_back))
        if sweep is None:
            # From the first start on: a process that never lives for a day sweeps, too.
            first = str(now + SWEEP_SECONDS)
            self._store.write(lambda db: set_fact(db, SWEEP_AT, first))
        # A clock that was set back must not put the sweep off for months.
        latest = now + SWEEP_SECONDS
        return latest if sweep is None else min(sweep, latest), look

    def step(self) -> float | None:
        """Look for what is in doubt; return the seconds until the next look is due.

        ForeignStateError where the key turns out to be another organization's.
        """
        if self._gate.refused:
            if self._may_ask_again("key"):
                self._probe()
        elif (
            not self._gate.introduced
            and not self._gate.seconds_shut()
            and (not self._introduction.unproven or self._may_ask_again("key"))
        ):
            self._introduce()
        if shut := self._gate.seconds_shut_for_all():
            return shut
        if self._gate.tripped and not self._store.read(due.are_uploads_waiting):
            # Nothing else would ever ask whether the service is back.
            self._probe()
        self._judge_workspaces()
        now = self._clock()
        # Nor must a clock that is set back meanwhile.
        self._sweep_at = min(self._sweep_at, now + SWEEP_SECONDS)
        self._settle_due(now)
        if shut := self._gate.seconds_shut_for_all():
            return shut
        try:
            self._learn_echo()
            if now >= self._sweep_at:
                self._sweep()
            elif self._look_back and now >= self._look_back[0]:
                self._sweep(since=self._look_back[1])
        except FilesApiError as error:
            self._gate.failed(error)
            log.warning("whether names are echoed cannot be seen now: %s", error)
            return LOOK_SECONDS
        return self._next_seconds()

    def _settle_due(self, now: float) -> None:
        """Look for what is in doubt: reserved objects one by one, the rest of a workspace at once.

        A listing is read for all of a workspace's doubts as soon as one of them is due.
        """
        doubts = self._store.read(due.doubts)
        urgent = {copy.id for copy in doubts if (copy.due_at or 0.0) <= now}
        for copy in doubts:
            if copy.file_uuid is not None and copy.id in urgent:
                self._try([copy], partial(self._settle_reserved, copy))
        nameless = [copy for copy in doubts if copy.file_uuid is None]
        for workspace in {copy.workspace_uuid for copy in nameless if copy.id in urgent}:
            here = [copy for copy in nameless if copy.workspace_uuid == workspace]
            self._try(here, partial(self._settle, workspace, here))

    def _try(self, doubts: Sequence[Copy], look: Callable[[], None]) -> None:
        """Look for `doubts`: those that nobody answers for wait, and keep no other waiting."""
        if self._gate.seconds_shut_for_all():
            return
        try:
            look()
        except FilesApiError as error:
            self._gate.failed(error)
            log.warning("what is in doubt cannot be looked up now: %s", error)
            ids, later = {copy.id for copy in doubts}, self._clock() + RELOOK_SECONDS

            def put_off(db: Transaction) -> None:
                for copy in due.doubts(db):
                    if copy.id in ids:
                        self._ledger.look_later(db, copy.id, later)

            self._store.write(put_off)

    def _may_ask_again(self, what: str, seconds: float = KEY_PROBE_SECONDS) -> bool:
        """Say whether `what` may be asked for once more: not with every hint.

        The hold that a refusal places is a commit, and so a hint to look again.
        """
        now = self._clock()
        # A clock that was set back must not put it off.
        if abs(now - self._asked_at.get(what, -math.inf)) < seconds:
            return False
        self._asked_at[what] = now
        return True

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

    def _introduce(self) -> None:
        try:
            self._introduction.make()
        except FilesApiError as error:
            self._gate.failed(error)
            # Of a key that is refused, the gate has told.
            if not isinstance(error, UnauthorizedError):
                log.warning("the key is new; whose it is cannot be asked now: %s", error)

    def _judge_workspaces(self) -> None:
        """See which workspaces the key may use, where an upload made it doubtful."""
        doubtful = self._gate.suspects
        if self._gate.closed and self._may_ask_again("workspaces"):
            doubtful |= self._gate.closed
        for workspace in doubtful:
            if not self._store.read(partial(due.is_in_use, workspace=workspace)):
                self._gate.judge(workspace, refusal=None)
                continue
            try:
                self._client.list(workspace_uuid=workspace, limit=1)
            except ForbiddenError as error:
                self._gate.judge(workspace, refusal=error)
            except FilesApiError as error:
                self._gate.failed(error)
            else:
                self._gate.judge(workspace, refusal=None)

    def _settle(self, workspace: str | None, doubts: Sequence[Copy]) -> None:
        """Look for doubts without a uuid in one listing."""
        oldest = min(copy.sent_at or copy.created_at for copy in doubts)
        listing = self._client.read_listing(workspace_uuid=workspace, since=_back_to(oldest))
        self._gate.succeeded()
        self._introduction.learn(listing.items)
        found = by_token(listing)
        self._retire_twins(found)
        for copy in doubts:
            if arrived := found.get(copy.token):
                self._adopt(copy, arrived)
            else:
                self._not_found(copy, listing)
        self._look_back_later(oldest)

    def _look_back_later(self, since: float) -> None:
        """Look once more, later, for what a doubt of now may still bring."""
        at = self._clock() + RECENT_TIMES * self._options.resend_after_seconds
        if self._look_back is not None:
            since = min(since, self._look_back[1])
        self._look_back = (at, since)
        kept = json.dumps({"at": at, "since": since})
        self._store.write(lambda db: set_fact(db, LOOK_BACK, kept))

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
        # A long upload that got no answer may still be carried out a while after its end.
        ended_at = max(copy.sent_at or now, copy.doubted_at or 0.0)
        safe_at = ended_at + self._options.resend_after_seconds
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
        path = self._shown_path(copy)

        def record(db: Transaction) -> None:
            holds.place(
                db,
                stops="sending",
                scope=_scope(copy),
                reason=holds.NO_ECHO,
                message=(
                    "an upload got no answer, and this service has not been seen to echo names: "
                    "it may have arrived, so it is not sent again by itself"
                ),
                affects=1,
                first=(path,),
                commands=(
                    f"syncd retry {path} (sends it again: the service may then keep it twice)",
                    "syncd status",
                ),
                now=now,
            )
            self._ledger.look_later(db, copy.id, now + HELD_LOOK_SECONDS)

        self._store.write(record)

    def _shown_path(self, copy: Copy) -> str:
        file = self._store.read(lambda db: files.get(db, copy.file_id))
        return texts.argument(file.path) if file else "PATH"

    def _release(self, db: Transaction, copy: Copy, now: float) -> None:
        holds.release(db, stops="sending", scope=_scope(copy), reason=holds.NO_ECHO, now=now)

    def _learn_echo(self) -> None:
        """After the first upload, see whether its token is in the listing."""
        known = self._introduction.is_bound and self._store.read(lambda db: fact(db, ECHO))
        sample = None if known else self._store.read(due.echo_sample)
        if sample is None or not self._may_ask_again("echo", LOOK_SECONDS):
            return
        listing = self._client.read_listing(
            workspace_uuid=sample.workspace_uuid,
            since=_back_to(sample.sent_at or sample.created_at),
        )
        self._gate.succeeded()
        self._introduction.learn(listing.items)
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

    def _sweep(self, *, since: float | None = None) -> None:
        """Give what carries our token and arrived unnoticed a row, and retire it.

        Once a day over everything; `since` a time, in seconds since the epoch, after a doubt.
        """
        swept = [self._sweep_one(each, since) for each in self._store.read(due.workspaces)]
        now = self._clock()
        if not all(swept):
            if since is None:
                self._sweep_at = now + SWEEP_AGAIN_SECONDS
            else:
                self._look_back = (now + SWEEP_AGAIN_SECONDS, since)
            return
        self._look_back = None
        if since is None:
            self._sweep_at = now + SWEEP_SECONDS
        at = str(self._sweep_at)

        def record(db: Transaction) -> None:
            set_fact(db, SWEEP_AT, at)
            set_fact(db, LOOK_BACK, "null")

        self._store.write(record)

    def _sweep_one(self, workspace: str | None, since: float | None) -> bool:
        """Sweep a workspace; return whether that is done with, for now."""
        if self._gate.seconds_shut_for_all():
            return False
        try:
            listing = self._client.read_listing(
                workspace_uuid=workspace, since=None if since is None else _back_to(since)
            )
        except FilesApiError as error:
            self._gate.failed(error)
            log.warning("strays in %s cannot be seen: %s", holds.workspace(workspace), error)
            # What the key may not see is none of its business until it may.
            return isinstance(error, ForbiddenError)
        self._gate.succeeded()
        self._introduction.learn(listing.items)
        self._retire_twins(by_token(listing))
        self._note_unknown(workspace, listing, whole=since is None)
        return True

    def _note_unknown(self, workspace: str | None, listing: Listing, *, whole: bool) -> None:
        """Keep in mind what is ours by its token and stands nowhere in the ledger."""
        now, instance = self._clock(), self._store.instance
        seen = of_instance(listing, instance, workspace, now).values()
        there = {item.file_uuid for item in listing.items}

        def record(db: Transaction) -> int:
            if whole and listing.complete:
                unknown.keep_only(db, workspace, there)
            return unknown.note(db, unknown.select(db, seen))

        if new := self._store.write(record):
            log.warning(
                "%d remote objects carry this instance's token and are unknown to its ledger; they "
                "are kept: `syncd verify` lists them",
                new,
            )

    def _retire_twins(self, listed: Mapping[str, Sequence[FileDetail]]) -> None:
        """Retire objects, by token, whose copy the ledger knows, and shows, under another uuid."""
        found = [(token, item.file_uuid) for token, items in listed.items() for item in items]
        uuids = {file_uuid for _, file_uuid in found}
        now = self._clock()
        for start in range(0, len(found), SWEEP_BATCH):
            part = found[start : start + SWEEP_BATCH]
            strays = self._store.read(partial(due.strays, found=part, listed=uuids))
            if strays:
                self._store.write(partial(self._ledger.twins, strays=strays, now=now))
                log.warning("%d stray twins of known copies retire", len(strays))


def _look_back(text: str) -> tuple[float, float] | None:
    known = json.loads(text)
    return (float(known["at"]), float(known["since"])) if known else None


def _back_to(seconds: float) -> datetime:
    """Return the time down to which a listing is read for what was sent at `seconds`."""
    return datetime.fromtimestamp(max(seconds - SKEW_SECONDS, 0.0), tz=UTC)


def _scope(copy: Copy) -> str:
    return f"copy {copy.id}"
