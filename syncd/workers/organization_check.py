"""Checks that the key opens the organization that the ledger belongs to.

The service accepts a key of another organization like any other, but shows none of our files:
uploads would go to the wrong place, and each 404 would read as "gone". A new key is therefore
checked before the first request that changes anything; a known one costs no request.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from syncd.exceptions import ForeignStateError
from syncd.files_api import FileDetail, FilesApiError, FilesClient, NotFoundError
from syncd.state import due, holds
from syncd.state.binding import KEY_MARK, ORGANIZATION
from syncd.state.database.store import Store, Transaction, fact, set_fact
from syncd.workers.gate import Gate

log = logging.getLogger(__name__)

#: One object that others put there shows whose key it is.
UNPROVEN_MESSAGE = (
    "the key is new, and shows none of the files that the ledger knows: it may be of another "
    "organization"
)
UNPROVEN_REMEDY = (
    "use the previous key; or, if all remote files were deleted, put any one file into the key's "
    "organization by other means: it shows whose key it is, and syncd goes on by itself"
)
#: Objects of the ledger that are asked for when the listing shows nothing.
SAMPLES = 3


def key_mark(instance: str, key: str) -> str:
    """Return 32 bits of a digest, which distinguish keys and reveal nothing of them."""
    return hashlib.blake2s(key.encode(), salt=instance.encode()[:8], digest_size=4).hexdigest()


@dataclass(kw_only=True, eq=False)
class OrganizationCheck:
    """Compares the key's organization with the ledger's, and keeps what it learned."""

    store: Store
    client: FilesClient
    gate: Gate
    mark: str
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._bound, known = self.store.read(
            lambda db: (fact(db, ORGANIZATION), fact(db, KEY_MARK))
        )
        self._is_known = known == self.mark
        #: whether nothing shows whose key it is
        self.unproven = False
        is_held = any(hold.reason == holds.UNPROVEN for hold in self.store.read(holds.open_holds))
        if is_held or (self._bound is not None and not self._is_known):
            self.gate.organization_known = False

    @property
    def is_bound(self) -> bool:
        """Whether the ledger's organization is known."""
        return self._bound is not None

    def make(self) -> None:
        """Open the gate if the key belongs to the ledger's organization.

        Raise ForeignStateError when it belongs to another one, and FilesApiError when the service
        does not answer.
        """
        if self._is_known:
            # The previous key is back: release the hold that another one caused.
            self._welcome()
            return
        newest = self.client.list(limit=1).items
        items = list(newest) or list(self._samples())
        if items:
            self.learn(items)
        elif self.store.read(self._may_be_mistaken):
            self._hold()
        else:
            # Nothing here that could be mistaken for gone, and nothing there to compare with.
            self._welcome()

    def bind(self) -> None:
        """Learn whose the ledger is from an object of its own, unless a listing has shown it.

        The next start, perhaps with another key, has nothing else to compare with.
        """
        if not self.is_bound:
            with suppress(FilesApiError):
                self.learn(self._samples())

    def learn(self, items: Iterable[FileDetail]) -> None:
        """Keep the organization of listed objects; raise ForeignStateError when it differs."""
        found = next((item.organization_uuid for item in items), None)
        if found is None:
            return
        if self._bound is None:
            self.store.write(_bind, found, self.mark)
            self._bound = found
        elif found != self._bound:
            raise ForeignStateError(
                f"the key is of organization {found}, and the state in {self.store.directory} "
                f"belongs to {self._bound}: use a key of that organization, or give the other one "
                "its own [state] directory"
            )
        if not self.gate.organization_known:
            self._welcome()

    def _may_be_mistaken(self, db: Transaction) -> bool:
        """Return whether a wrong key would make something read as gone, or be sent once more."""
        return bool(due.live_samples(db)) or (self.is_bound and holds.is_ledger_incomplete(db))

    def _samples(self) -> Iterable[FileDetail]:
        for copy in self.store.read(due.live_samples)[:SAMPLES]:
            try:
                if copy.file_uuid is not None:
                    yield self.client.get(copy.file_uuid)
            except NotFoundError:
                continue

    def _welcome(self) -> None:
        now = self.clock()

        def record(db: Transaction) -> None:
            set_fact(db, KEY_MARK, self.mark)
            holds.release(
                db,
                stops="sending",
                scope=holds.EVERYWHERE,
                reason=holds.UNPROVEN,
                now=now,
            )

        self.store.write(record)
        self.unproven, self._is_known = False, True
        self.gate.organization_known = True
        self.store.changed.set()

    def _hold(self) -> None:
        self.unproven = True
        self.gate.organization_known = False
        now = self.clock()
        self.store.write(
            holds.place,
            stops="sending",
            scope=holds.EVERYWHERE,
            reason=holds.UNPROVEN,
            message=UNPROVEN_MESSAGE,
            commands=(UNPROVEN_REMEDY, "syncd verify"),
            now=now,
        )


def _bind(db: Transaction, organization: str, mark: str) -> None:
    set_fact(db, ORGANIZATION, organization)
    set_fact(db, KEY_MARK, mark)
