"""Whether the key opens the organization that the ledger belongs to.

A key of another organization is accepted like any other, and finds none of our files: uploads would
go to the wrong place, and each 404 would read as "gone". A new key is therefore introduced before
the first request that changes anything; a known one costs no request.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable

from syncd.exceptions import ForeignStateError
from syncd.files_api import FileDetail, FilesClient, NotFoundError
from syncd.state import due, holds
from syncd.state.store import KEY_MARK, ORGANIZATION, Store, Transaction, fact, set_fact
from syncd.workers.gate import Gate

log = logging.getLogger(__name__)

UNPROVEN = "organization_unproven"
#: Why, and what an operator can do: one object that others put there tells whose key it is.
UNPROVEN_MESSAGE = (
    "the key is new, and shows none of the files that the ledger knows: it may be of another "
    "organization"
)
UNPROVEN_REMEDY = (
    "use the key of before; or, if all remote files were deleted, put any one file into the key's "
    "organization by other means: it shows whose key it is, and syncd goes on by itself"
)
#: Objects of the ledger that are asked for where the listing shows nothing.
SAMPLES = 3


def key_mark(instance: str, key: str) -> str:
    """Return what tells one key from another and says nothing of either: 32 bits of a digest."""
    return hashlib.blake2s(key.encode(), salt=instance.encode()[:8], digest_size=4).hexdigest()


class Introduction:
    """Compares the key's organization with the ledger's, and keeps what it learned."""

    def __init__(
        self,
        *,
        store: Store,
        client: FilesClient,
        gate: Gate,
        mark: str,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._client = client
        self._gate = gate
        self._mark = mark
        self._clock = clock
        self._bound, known = store.read(lambda db: (fact(db, ORGANIZATION), fact(db, KEY_MARK)))
        self._is_known = known == mark
        #: whether nothing was found that shows whose key it is
        self.unproven = False
        is_held = any(hold.reason == UNPROVEN for hold in store.read(holds.open_holds))
        if is_held or (self._bound is not None and not self._is_known):
            gate.await_introduction()

    @property
    def is_bound(self) -> bool:
        """Whether the ledger's organization is known."""
        return self._bound is not None

    def make(self) -> None:
        """See whose key this is; the gate opens if it is the ledger's organization's.

        ForeignStateError where it is another's. FilesApiError where the service did not answer.
        """
        if self._is_known:
            # The key of before: what another one brought about ends.
            self._welcome()
            return
        newest = self._client.list(limit=1).items
        items = list(newest) or list(self._samples())
        if items:
            self.learn(items)
        elif self._store.read(self._may_be_mistaken):
            self._hold()
        else:
            # Nothing here that could be mistaken for gone, and nothing there to compare with.
            self._welcome()

    def learn(self, items: Iterable[FileDetail]) -> None:
        """Keep the organization that listed objects belong to; ForeignStateError for another."""
        found = next((item.organization_uuid for item in items), None)
        if found is None:
            return
        if self._bound is None:
            self._store.write(lambda db: _bind(db, found, self._mark))
            self._bound = found
        elif found != self._bound:
            raise ForeignStateError(
                f"the key is of organization {found}, and the state in {self._store.directory} "
                f"belongs to {self._bound}: use a key of that organization, or give the other one "
                "its own [state] directory"
            )
        if not self._gate.introduced:
            self._welcome()

    def _may_be_mistaken(self, db: Transaction) -> bool:
        """Say whether, under a wrong key, something would read as gone, or be sent once more."""
        return bool(due.live_samples(db)) or (self.is_bound and holds.is_lost(db))

    def _samples(self) -> Iterable[FileDetail]:
        for copy in self._store.read(due.live_samples)[:SAMPLES]:
            try:
                if copy.file_uuid is not None:
                    yield self._client.get(copy.file_uuid)
            except NotFoundError:
                continue

    def _welcome(self) -> None:
        now = self._clock()

        def record(db: Transaction) -> None:
            set_fact(db, KEY_MARK, self._mark)
            holds.release(db, stops="sending", scope=holds.EVERYWHERE, reason=UNPROVEN, now=now)

        self._store.write(record)
        self.unproven, self._is_known = False, True
        self._gate.introduce()
        self._store.changed.set()

    def _hold(self) -> None:
        self.unproven = True
        self._gate.await_introduction()
        now = self._clock()
        self._store.write(
            lambda db: holds.place(
                db,
                stops="sending",
                scope=holds.EVERYWHERE,
                reason=UNPROVEN,
                message=UNPROVEN_MESSAGE,
                commands=(UNPROVEN_REMEDY, "syncd verify"),
                now=now,
            )
        )


def _bind(db: Transaction, organization: str, mark: str) -> None:
    set_fact(db, ORGANIZATION, organization)
    set_fact(db, KEY_MARK, mark)
