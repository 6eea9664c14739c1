"""Asks the service whether it holds an object whole: what a storage answered proves nothing."""

import enum
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import TypeVar

from syncd.files_api import (
    FileDetail,
    FilesApiError,
    FilesClient,
    NotFoundError,
    RefusedError,
)
from syncd.files_api.listing import PAGE_ITEMS as MOST_PAGE_ITEMS
from syncd.state.copies import Copy
from syncd.workers.gate import Gate

log = logging.getLogger(__name__)

T = TypeVar("T")

#: From so many objects of one workspace on, a listing is read before each is asked for.
LISTED_FROM = 3
#: Items of a page, at least: it has room for others' objects beside all that are looked for.
PAGE_ITEMS = 100
#: States that a video reaches only after its bytes arrived.
_ARRIVED = ("processing", "completed")


class Told(enum.Enum):
    """The service's answer about one object."""

    #: it has exactly the size that was sent
    WHOLE = enum.auto()
    #: a video that is processed, so its bytes arrived; its size does not prove that all did
    PROCESSED = enum.auto()
    #: it has another size
    OTHER_SIZE = enum.auto()
    #: it exists, but its bytes have not arrived, or not yet
    NOTHING_YET = enum.auto()
    #: it exists, but the service reports neither a size nor a download URL
    NO_SIZE = enum.auto()
    #: there is no such object, or the key is not valid
    NOT_FOUND = enum.auto()


@dataclass(kw_only=True, eq=False)
class Confirmation:
    """Looks at objects of ours, many in one listing where that is cheaper."""

    client: FilesClient
    gate: Gate

    def ask(self, wanted: Iterable[Copy], *, alone: int | None = None) -> Mapping[int, Told | None]:
        """Return the answer about each copy, by id; None about one that got none.

        Copies that no listing shows are asked for one by one, at most `alone` of them; those beyond
        are left out, and so are those that were not asked for because the service asks to wait.
        """
        told: dict[int, Told | None] = {}
        by_workspace = sorted(wanted, key=lambda copy: copy.workspace_uuid or "")
        for workspace, group in groupby(by_workspace, key=lambda copy: copy.workspace_uuid):
            copies = list(group)
            if len(copies) >= LISTED_FROM:
                told |= self._try(partial(self._listed, workspace, copies)) or {}
            for copy in [copy for copy in copies if copy.id not in told][:alone]:
                if not self.gate.seconds_shut_for_all():
                    told[copy.id] = self._try(partial(self._one, copy))
        return told

    def _try(self, look: Callable[[], T]) -> T | None:
        """Return what `look` finds; None if the service does not answer: other copies go on."""
        try:
            found = look()
        except FilesApiError as error:
            self.gate.failed(error)
            log.warning("cannot see now whether uploads arrived: %s", error)
            return None
        self.gate.succeeded()
        return found

    def _listed(self, workspace: str | None, copies: Sequence[Copy]) -> Mapping[int, Told]:
        """Read the newest pages; objects that are not on them are asked for one by one."""
        by_uuid = {copy.file_uuid: copy for copy in copies}
        told: dict[int, Told] = {}
        size = max(min(2 * len(copies), MOST_PAGE_ITEMS), PAGE_ITEMS)
        most = len(copies) // LISTED_FROM // 2
        unread = size + most * PAGE_ITEMS
        pages = self.client.newest_pages(workspace_uuid=workspace, limit=size)
        # The service may show fewer in a page than it was asked for.
        for items in islice(pages, 1 + most):
            unread -= len(items)
            ours = [(by_uuid.pop(item.file_uuid, None), item) for item in items]
            said = {copy.id: _judge(copy, item) for copy, item in ours if copy is not None}
            # A listing may keep sizes back that a look at the object tells.
            told |= {key: what for key, what in said.items() if what is not Told.NO_SIZE}
            if Told.NO_SIZE in said.values() or not by_uuid or unread <= 0:
                break
        return told

    def _one(self, copy: Copy) -> Told:
        try:
            detail = self.client.get(copy.file_uuid or "")
        except NotFoundError as error:
            if not error.is_the_services:
                raise
            return Told.NOT_FOUND
        said = _judge(copy, detail)
        if said is not Told.NO_SIZE or detail.file_url is None:
            return said
        try:
            length = self.client.length(detail.file_url)
        except RefusedError:
            return Told.NOTHING_YET
        return Told.NO_SIZE if length is None else _compare(copy, length)


def _judge(copy: Copy, detail: FileDetail) -> Told:
    size = detail.file_size_bytes
    # Once it is processed, a video may be shown with the size of what was made of it.
    says_nothing = size is None or (size != copy.size and detail.processing_status == "completed")
    if copy.is_video and detail.processing_status in _ARRIVED and says_nothing:
        return Told.PROCESSED
    return Told.NO_SIZE if size is None else _compare(copy, size)


def _compare(copy: Copy, size: int) -> Told:
    if size == copy.size:
        return Told.WHOLE
    # A record without bytes may say so.
    return Told.OTHER_SIZE if size else Told.NOTHING_YET
