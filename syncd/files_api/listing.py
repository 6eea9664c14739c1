"""Lists read page by page while others upload and delete: what was seen, and what that proves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from syncd.files_api.models import FileDetail, FilePage

#: Reads one page: (limit, offset).
ReadPage = Callable[[int, int], FilePage]

PAGE_ITEMS = 100


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a listing showed: each file once, in the order seen.

    `complete` is true only where the pages prove that no file was missed that was there when the
    reading began (and, with `since`, was created then or later); else `reason` says what is not
    proven. Presence is evidence either way; absence is only in a complete listing.
    """

    items: tuple[FileDetail, ...]
    complete: bool
    reason: str = ""
    pages: int = 0


class _Pages:
    """Walks a list so that each page begins with the last file of the one before.

    Where it does, nothing was removed before that point in between. Where it does not, the walk
    steps back until it meets known files again, as long as the number of pages stays sane.
    """

    def __init__(self, read_page: ReadPage, limit: int, offset: int = 0) -> None:
        self._read_page = read_page
        self._limit = max(limit, 2)
        self._start = self._offset = offset
        self._left: int | None = None
        self._last: FileDetail | None = None
        self._seen: set[str] = set()
        self.counts: set[int] = set()
        self.read = 0
        self.shifted = False  # a page did not begin where the one before ended
        self.gap = False  # files may lie between two pages, unseen
        self.twice = False  # a file came again where none should
        self.endless = False  # the list does not come to an end

    def __iter__(self) -> Iterator[list[FileDetail]]:
        """Yield the new files of each page."""
        while True:
            page = self._next()
            new = self._take(page)
            yield new
            at_end = self._offset + len(page.items) >= page.count
            self._last = page.items[-1] if page.items else self._last
            if (at_end and not new) or not page.items or self.endless:
                return
            # The next page begins with this page's last file; a page of one cannot overlap.
            self._offset += max(len(page.items) - 1, 1)

    def _next(self) -> FilePage:
        while True:
            page = self._read_page(self._limit, self._offset)
            self.read += 1
            self.counts.add(page.count)
            self._left = self._budget(page) if self._left is None else self._left - 1
            self.endless = self._left <= 0
            if self._last is None or not page.items:
                return page
            first = page.items[0]
            self.shifted |= first.file_uuid != self._last.file_uuid
            if first.file_uuid in self._seen:
                return page
            if self._offset <= self._start or self.endless:
                self.gap = True
                return page
            self._offset = max(self._offset - self._limit // 2, self._start)

    def _take(self, page: FilePage) -> list[FileDetail]:
        known = 0 if self._last is None else 1
        new = [item for item in page.items if item.file_uuid not in self._seen]
        unique = {item.file_uuid: item for item in new}
        self.twice |= len(unique) != len(new) or len(page.items) - len(new) > known
        self._seen.update(unique)
        return list(unique.values())

    def _budget(self, first: FilePage) -> int:
        """Twice the pages that the list should have, and some."""
        step = max(len(first.items) - 1, 1)
        return 2 * (first.count // step) + 16


def walk(
    read_page: ReadPage, limit: int | None = None, offset: int | None = None
) -> Iterator[FileDetail]:
    """Yield each file once, however the pages shift meanwhile."""
    for new in _Pages(read_page, limit or PAGE_ITEMS, offset or 0):
        yield from new


def read_listing(
    read_page: ReadPage, *, since: datetime | None = None, limit: int = PAGE_ITEMS
) -> Listing:
    """Read all files, or all that were created at `since` or later, and say what is proven.

    Reading stops early only where the pages themselves prove that newest come first. Without
    that, the listing is complete if each page began where the one before ended, no file came
    twice, and the count stayed the same and is the number of files.
    """
    pages = _Pages(read_page, limit)
    order = _Order()
    items: list[FileDetail] = []
    for new in pages:
        order.note(new)
        items.extend(new)
        if since is not None and order.passed(since):
            reason = "files may lie unseen between two pages" if pages.gap else ""
            return Listing(items=tuple(items), complete=not reason, reason=reason, pages=pages.read)
    reason = _unproven(pages, len(items))
    return Listing(items=tuple(items), complete=not reason, reason=reason, pages=pages.read)


class _Order:
    """Whether the files came newest first, and how far back they went."""

    def __init__(self) -> None:
        self._last: datetime | None = None
        self._falls = False
        self._rises = False

    def note(self, items: list[FileDetail]) -> None:
        for item in items:
            if self._last is not None:
                self._falls |= item.created_at < self._last
                self._rises |= item.created_at > self._last
            self._last = item.created_at

    def passed(self, since: datetime) -> bool:
        newest_first = self._falls and not self._rises
        return newest_first and self._last is not None and self._last < since


def _unproven(pages: _Pages, found: int) -> str:
    if pages.endless:
        return "the list does not come to an end"
    if pages.gap or pages.shifted or pages.twice:
        return "the pages shifted while they were read"
    if pages.counts != {found}:
        return f"{found} files found, and a count of {sorted(pages.counts)}"
    return ""
