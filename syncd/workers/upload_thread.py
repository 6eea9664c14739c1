"""The work of one upload thread: it takes a few files, commits intents, sends and records them.

The intents of the next few are committed while the first are sent, and outcomes while the next are:
a thread seldom waits for a commit. Files are sent in the order of their intents.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from syncd.exceptions import ShortageError, StateError
from syncd.files_api import FilesClient, FileUpload
from syncd.log import fields
from syncd.metrics import UPLOAD_SECONDS, UPLOADED_BYTES, UPLOADED_FILES
from syncd.one_cpu import ONE_CPU
from syncd.state import confirming
from syncd.state.database.store import Store
from syncd.state.files import File
from syncd.state.ledger import Arrival, Ledger
from syncd.units import counted
from syncd.workers.concurrency import Concurrency
from syncd.workers.handed_out import HandedOut
from syncd.workers.preparation import Hashed, Preparation, Prepared
from syncd.workers.sending import Sending, SentCopy
from syncd.workers.upload_queue import SMALL_BYTES, UploadQueue

log = logging.getLogger(__name__)

#: The most files of a thread in one batch, and so of one request that reserves objects for them;
#: and of all threads together.
BATCH, BATCHED = 50, 200
#: The files of a batch before anything is known of how long they take.
FIRST_BATCH = 4
#: Seconds that a batch may take.
BATCH_SECONDS = 0.5
#: The part of its time that a transfer may wait for the bandwidth and still count as a measure.
RESTED_PART = 0.1
#: Seconds for which an outcome waits for others to be committed with it.
OUTCOME_SECONDS = 0.1


class _Batch(NamedTuple):
    """Files that are open, and their intents being committed."""

    opened: ExitStack
    prepared: list[Prepared]


@dataclass(kw_only=True, eq=False)
class UploadThread:
    """Uploads files until the queue ends."""

    store: Store
    ledger: Ledger
    queue: UploadQueue
    handed_out: HandedOut
    preparation: Preparation
    sending: Sending
    concurrency: Concurrency
    make_client: Callable[[], FilesClient]
    is_stopped: Callable[[], bool]
    clock: Callable[[], float]
    first_poll_seconds: float
    #: the most files in the batches of all threads; each thread has two of them open
    batched: int
    #: called when more threads may be at work, or fewer
    on_limit: Callable[[], None]
    #: outcomes that are being committed
    _recorded: "list[tuple[SentCopy, Future[str]]]" = field(default_factory=list, init=False)
    #: when the thread began what it does for its batch, and the next
    _since: float = field(default=0.0, init=False)
    #: seconds that a file took lately to send; None before the first
    _seconds: float | None = field(default=None, init=False)

    def run(self) -> None:
        """Take files until told to end."""
        with ONE_CPU.shared():
            self._run()

    def _run(self) -> None:
        client = self.make_client()
        try:
            while True:
                if (first := self.queue.get_now()) is None:
                    # Settle before waiting: others may have taken all the rest.
                    self._settle()
                    if (first := self.queue.get()) is None:
                        break
                try:
                    # A longer file takes few turns for its bytes: the more CPUs, the better.
                    with nullcontext() if first.size <= SMALL_BYTES else ONE_CPU.left():
                        self._bring_up(client, first)
                except Exception as error:
                    self.handed_out.failed(first, error)
                finally:
                    self.queue.rest()
        finally:
            self._settle()
            client.close()

    def _bring_up(self, client: FilesClient, first: File) -> None:
        """Upload a file, and others that may go with it."""
        self._since = self.clock()
        batch: _Batch | None = self._prepare(first)
        while batch is not None:
            more = self.queue.next_of(first.folder)
            following = self._prepare(more) if more else None
            with batch.opened:
                sent = self._send(client, batch.prepared)
            self._settle()
            self._recorded += sent
            self._since = self.clock()
            batch = following

    # Before

    def _prepare(self, first: File) -> _Batch:
        """Open and hash a file, and further small ones of its folder; hand in their intents."""
        files = [first]
        if first.size <= SMALL_BYTES:
            files += self.queue.more(first, self._batch_size() - 1)
        opened = ExitStack()
        hashed = [ready for file in files if (ready := self._hashed(file, opened))]
        try:
            return _Batch(opened, self.preparation.promised(hashed))
        except Exception as error:
            for one in hashed:
                self.handed_out.failed(one.file, error)
            return _Batch(opened, [])

    def _batch_size(self) -> int:
        most = min(BATCH, self.batched // self.concurrency.limit)
        if self._seconds is None:
            return min(most, FIRST_BATCH)
        return min(most, int(BATCH_SECONDS / max(self._seconds, 1e-3)))

    def _hashed(self, file: File, opened: ExitStack) -> Hashed | None:
        ready = None
        try:
            if self.preparation.admits(file) and not self.is_stopped():
                ready = self.preparation.hashed(file, opened)
        except (ShortageError, MemoryError) as error:
            self.handed_out.shed(file, error)
            return None
        except Exception as error:
            self.handed_out.failed(file, error)
            return None
        if ready is None:
            self.handed_out.finished(file.id)
        return ready

    # Sending

    def _send(
        self, client: FilesClient, prepared: Sequence[Prepared]
    ) -> "list[tuple[SentCopy, Future[str]]]":
        """Send files; return the outcomes that are being committed."""
        try:
            reserved = self.sending.reserve(client, prepared)
        except Exception as error:
            for one in prepared:
                self.handed_out.failed(one.file, error)
            return []
        recorded: list[tuple[SentCopy, Future[str]]] = []
        answered: list[SentCopy] = []
        since = self.clock()
        for number, one in enumerate(prepared):
            if self.is_stopped():
                self._withdraw(prepared[number:])
                break
            if one.file.id in reserved and reserved[one.file.id] is None:
                self.handed_out.finished(one.file.id)
                continue
            if (sent := self._sent(client, one, reserved.get(one.file.id))) is None:
                continue
            answered.append(sent)
            self._measure(sent, (self.clock() - self._since) / (number + 1))
            if self.clock() - since > OUTCOME_SECONDS:
                recorded += self._record(answered)
                answered, since = [], self.clock()
        return recorded + self._record(answered)

    def _withdraw(self, prepared: Sequence[Prepared]) -> None:
        """Take back the intents to send files, with one commit."""
        try:
            self.sending.withdraw(prepared)
        except Exception as error:
            for one in prepared:
                self.handed_out.failed(one.file, error)
        else:
            for one in prepared:
                self.handed_out.finished(one.file.id)

    def _sent(
        self, client: FilesClient, ready: Prepared, reserved: FileUpload | None
    ) -> SentCopy | None:
        sent = None
        try:
            sent = self.sending.send(client, ready, reserved)
        except ShortageError as error:
            self.handed_out.shed(ready.file, error)
            return None
        except Exception as error:
            self.handed_out.failed(ready.file, error)
            return None
        if sent is None:
            self.handed_out.finished(ready.file.id)
            return None
        return sent

    def _measure(self, sent: SentCopy, seconds_each: float) -> None:
        """Learn from a transfer how many should go at a time, and how many in a batch.

        The thread has spent `seconds_each` on this file and those of its batch before it: where
        threads wait for the interpreter or for commits, more of them make nothing faster.
        """
        before = sent.seconds if self._seconds is None else self._seconds
        self._seconds = (before + sent.seconds) / 2
        if sent.transfer.rested > RESTED_PART * sent.seconds:
            # Its speed is that of the limit, and says nothing of the service.
            return
        if self.queue.at_work >= self.concurrency.limit and self.concurrency.finished(
            sent.copy.size, seconds_each
        ):
            self.on_limit()

    # Afterwards

    def _record(self, sent: Sequence[SentCopy]) -> "list[tuple[SentCopy, Future[str]]]":
        """Hand in outcomes, without waiting for their commit."""
        direct = [one for one in sent if one.copy.method == "direct"]
        # A storage's success proves nothing yet: the service is asked.
        stored = [one for one in sent if one.copy.method != "direct"]
        now = self.clock()
        look = now + self.first_poll_seconds
        try:
            became = self.store.writer.submit_all(
                self.ledger.stored_all,
                [Arrival(one.copy.id, one.stored, now, look) for one in direct],
            ) + self.store.writer.submit_all(
                confirming.begin_all,
                [
                    confirming.Taken(
                        one.copy.id, one.stored.remote_file_path, now, one.transfer.has_etag
                    )
                    for one in stored
                ],
            )
        except Exception as error:
            for one in sent:
                self.handed_out.failed(one.file, error)
            return []
        return list(zip(direct + stored, became, strict=True))

    def _settle(self) -> None:
        """Wait until the previous outcomes are committed, and log them."""
        recorded, self._recorded = self._recorded, []
        for sent, future in recorded:
            try:
                became = future.result()
            except Exception as error:
                # A failure here concerns one file; the thread goes on.
                log.error(
                    "%s: stored, but not recorded: %s; looked up later",
                    sent.file.shown,
                    error,
                    exc_info=None if isinstance(error, StateError) else error,
                )
                self.handed_out.note_unknown(sent.file.id)
                continue
            self.handed_out.stored(sent.file)
            _tell(sent, became)


def _tell(sent: SentCopy, became: str) -> None:
    """Count and log an upload whose outcome is committed."""
    folder, shown, size = sent.file.folder, sent.file.shown, sent.copy.size
    UPLOADED_FILES.add(folder)
    UPLOADED_BYTES.add(folder, by=size)
    UPLOAD_SECONDS.observe(sent.copy.method, seconds=sent.seconds)
    # An upload that a storage took is logged once it is confirmed.
    level = logging.INFO if sent.copy.method == "direct" else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    log.log(
        level,
        "%s: %s, %s (%s in %.1f s)",
        shown,
        became,
        sent.stored.file_uuid,
        counted(size, "byte"),
        sent.seconds,
        extra=fields(
            "uploaded",
            folder=folder,
            path=shown,
            status=became,
            file_uuid=sent.stored.file_uuid,
            bytes=size,
            seconds=round(sent.seconds, 3),
            request_id=sent.transfer.request_id,
        ),
    )
