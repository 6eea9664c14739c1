"""Writes receipts: small files with the uuids of what is synced, for those without a terminal."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from syncd import disk, relocation
from syncd.log import printable
from syncd.state import receipts
from syncd.state.after_upload import MOVED
from syncd.state.backoff import backoff_seconds
from syncd.state.database.store import Store
from syncd.state.receipts import Receipt, ReceiptProgress
from syncd.state.texts import shown
from syncd.workers.emptied_folder import Later, known_mount

log = logging.getLogger(__name__)

#: Receipts that are noted together.
BATCH = 50
#: Receipts that could not be written, beyond which new ones wait for them.
MOST_FAILED = 1000
#: Copies of a file whose receipts its newest one may replace.
EARLIER = 20
ENDING = b".receipt.json"
#: The bytes of a file's name that its receipt's name begins with: there may be `-2` in it as well.
NAME_BYTES = 230


@dataclass(frozen=True, slots=True)
class ReceiptFolder:
    """The place of a watch folder's receipts, and whether a newer one replaces the old."""

    target: bytes
    #: whether its files are moved there, and the receipts are put beside them
    is_beside: bool
    #: whether a file's new receipt replaces its old one, as its new copy the old
    replaces: bool


@dataclass(kw_only=True, eq=False)
class Receipts:
    """Writes the receipts that are due; what cannot be written holds up only its directory."""

    store: Store
    folders: Mapping[str, ReceiptFolder]
    clock: Callable[[], float]
    stopped: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        #: directories beneath a folder's target in which nothing can be written now
        self._later: dict[tuple[str, bytes], Later] = {}

    def begin(self, *, forget: bool) -> None:
        """Note from where on the receipts of each folder are due, before anything else is done."""
        self.store.write(receipts.begin, self.folders, forget=forget)

    def step(self) -> float | None:
        """Write what is due; return the seconds until more may be."""
        waits = [self._write_due(name, folder) for name, folder in self.folders.items()]
        return min((wait for wait in waits if wait is not None), default=None)

    def _write_due(self, name: str, folder: ReceiptFolder) -> float | None:
        known = self.store.read(receipts.progress, name) or ReceiptProgress(0)
        if obstacle := self._obstacle(folder):
            self._note(name, known, ReceiptProgress(known.after, known.again, obstacle))
            return None
        beside = folder.is_beside
        tried = self.store.read(receipts.failed, name, known, beside=beside)
        found: list[Receipt] = []
        if len(known.again) < MOST_FAILED:
            found = self.store.read(receipts.due, name, known, BATCH, beside=beside)
        again = []
        for receipt in (*tried, *found):
            if self.stopped():
                return None
            if not self._write(receipt, folder):
                again.append(receipt.id)
        after = found[-1].id if found else known.after
        texts = (later.message for (of, _), later in self._later.items() if of == name)
        obstacle = next(texts, "") if again else ""
        self._note(name, known, ReceiptProgress(after, tuple(again), obstacle))
        if len(found) == BATCH:
            return 0.0
        now = self.clock()
        return min((later.again_at - now for later in self._later.values()), default=None)

    def _note(self, name: str, known: ReceiptProgress, now: ReceiptProgress) -> None:
        if now == known:
            return
        self.store.write(receipts.note, name, now)
        if now.obstacle and now.obstacle != known.obstacle:
            log.warning("%s: receipts cannot be written: %s", name, now.obstacle)
        elif known.obstacle and not now.obstacle:
            log.info("%s: receipts are written again", name)

    def _obstacle(self, folder: ReceiptFolder) -> str:
        """Return why no receipt can be written to a folder's target; record a new mount there."""
        setting = "move_to" if folder.is_beside else "receipts"
        mounted_on = known_mount(self.store, folder.target)
        return printable(relocation.obstacle(folder.target, folder.target, mounted_on, setting))

    def _write(self, receipt: Receipt, folder: ReceiptFolder) -> bool:
        """Write one receipt; return whether it is there."""
        path = _moved_to(receipt, folder) if folder.is_beside else receipt.path
        parent, name = disk.split(path)
        key, now = (receipt.folder, parent), self.clock()
        later = self._later.get(key)
        if later is not None and later.again_at > now:
            return False
        earlier = []
        if folder.replaces:
            earlier = self.store.read(receipts.earlier, receipt, EARLIER)
        new = os.path.join(parent, _shortened(name) + ENDING)  # noqa: PTH118 - bytes
        draft = f".{receipt.file_uuid}.syncd.part".encode()
        try:
            written = relocation.leave(
                folder.target, new, receipt.content, draft=draft, earlier=earlier
            )
        except OSError as error:
            failures = later.failures + 1 if later else 1
            where = printable(os.path.join(folder.target, parent))  # noqa: PTH118
            text = f"{where}: {error.strerror or error}"
            self._later[key] = Later(text, failures, now + backoff_seconds(failures))
            return False
        self._later.pop(key, None)
        log.debug("%s: its receipt is %s", shown(receipt.path), shown(written))
        return True


def _moved_to(receipt: Receipt, folder: ReceiptFolder) -> bytes:
    """Return where beneath the target the file was moved to, as far as that can be told."""
    prefix = folder.target.rstrip(b"/") + b"/"
    told = receipt.detail.removeprefix(MOVED).encode()
    if told.startswith(prefix) and os.path.lexists(told):
        return told.removeprefix(prefix)
    return relocation.moved(folder.target, receipt.path, receipt.size, receipt.sha256)


def _shortened(name: bytes) -> bytes:
    """Return the beginning of a name, and no half of a character."""
    if len(name) <= NAME_BYTES:
        return name
    return name[:NAME_BYTES].decode("utf-8", "ignore").encode()
