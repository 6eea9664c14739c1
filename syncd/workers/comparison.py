"""Compares a listing with the ledger while it is read, a few files at a time.

A listing may have a million files, so only one bit for each copy of the ledger is kept of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from syncd.files_api import FileDetail, FilesClient, NotFoundError
from syncd.state import audit
from syncd.state.audit import Claim
from syncd.state.database.store import Store

#: Files that are looked up in the ledger at once.
BATCH = 500
#: Called for each listed file, with the copy whose object it is.
Compare = Callable[[FileDetail, Claim | None], None]


@dataclass(kw_only=True, eq=False)
class Comparison:
    """Takes the files of one workspace's listing; then tells which copies it did not show."""

    store: Store
    client: FilesClient
    compare: Compare

    def __post_init__(self) -> None:
        self._batch: dict[str, FileDetail] = {}
        self._shown = bytearray()
        self.known = 0

    def take(self, item: FileDetail) -> None:
        """Take one file as the listing shows it."""
        self._batch[item.file_uuid] = item
        if len(self._batch) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Compare what was taken."""
        batch, self._batch = self._batch, {}
        if not batch:
            return
        claims = self.store.read(audit.known, uuids=batch.keys())
        for file_uuid, item in batch.items():
            claim = claims.get(file_uuid)
            if claim is not None:
                self.known += self._mark(claim.copy_id)
            self.compare(item, claim)

    def _mark(self, number: int) -> bool:
        """Note that a copy was shown; return whether that is news."""
        at, bit = divmod(number, 8)
        if at >= len(self._shown):
            self._shown.extend(bytes(at + 1 - len(self._shown)))
        is_new = not self._shown[at] >> bit & 1
        self._shown[at] |= 1 << bit
        return bool(is_new)

    def _was_shown(self, number: int) -> bool:
        at, bit = divmod(number, 8)
        return at < len(self._shown) and bool(self._shown[at] >> bit & 1)

    def missing(self, workspace: str | None, *, retiring: bool = False) -> Iterator[Claim]:
        """Yield the copies that should be there and are not: neither listed nor found by uuid.

        With `retiring`, include those that were to be deleted: an older ledger does not know
        whether they are gone.
        """
        after = 0
        known = partial(audit.claims, workspace=workspace, retiring=retiring)
        while claims := self.store.read(known, after=after):
            for claim in claims:
                if self.is_missing(claim):
                    yield claim
            after = claims[-1].copy_id

    def is_missing(self, claim: Claim) -> bool:
        """Return whether a copy's object is proven gone: not listed, and the service denies it."""
        if self._was_shown(claim.copy_id):
            return False
        try:
            self.client.get(claim.file_uuid)
        except NotFoundError as error:
            if not error.is_the_services:
                raise
            return True
        return False
