"""Lists read page by page while others upload and delete: what was shown, and what that proves.

A list may be longer than memory: each file is handed on as it comes, and only the last page is
kept. The order of a list is not documented, so it is believed only as far as the pages show it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from syncd.files_api.models import FileDetail, FilePage

#: Reads one page: (limit, offset).
ReadPage = Callable[[int, int], FilePage]
#: Takes a file as the list shows it; the same file may come again.
Take = Callable[[FileDetail], object]
#: Returns, once a page was read, the time back to which the list is read; None for all of it.
Since = Callable[[], datetime | None]

#: Files of a page: as many as are asked for first, and then where the service refuses so many.
PAGE_ITEMS, FEWER_PAGE_ITEMS = 1000, (100, 10, 2)
#: Pages after which a list counts as endless, however many files it claims to have.
MOST_PAGES = 20_000


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The result of reading a list.

    `complete` is true only where the pages prove that no file was missed that was there when the
    reading began (and, with `since`, was created then or later); else `reason` says what is not
    proven. Presence is evidence either way; absence is only in a complete listing. `oldest` is
    the creation time of the oldest file that was shown.
    """

    complete: bool
    reason: str = ""
    pages: int = 0
    items: int = 0
    oldest: datetime | None = None
    #: whether it was read from its beginning to its end, and not only back to a time
    is_whole: bool = False


class _Order:
    """Which way the creation times of a list run, as far as it was read."""

    def __init__(self) -> None:
        self._last: datetime | None = None
        self._falls = False
        self._rises = False

    def note(self, items: Sequence[FileDetail]) -> None:
        for item in items:
            if self._last is not None:
                self._falls |= item.created_at < self._last
                self._rises |= item.created_at > self._last
            self._last = item.created_at

    @property
    def newest_first(self) -> bool:
        return self._falls and not self._rises

    @property
    def oldest_first(self) -> bool:
        return self._rises and not self._falls

    @property
    def is_proven(self) -> bool:
        return self._falls != self._rises

    def passed(self, since: datetime) -> bool:
        """Return whether all that follows is older than `since`."""
        return self.newest_first and self._last is not None and self._last < since


class _Pages:
    """Walks a list so that each page begins with the last file of the one before.

    Where it does, nothing was removed before that point in between. Where it does not, the walk
    steps back until it meets a file of the page before, as long as the number of pages stays sane.
    """

    def __init__(
        self, read_page: ReadPage, limit: int, offset: int = 0, most_pages: int = MOST_PAGES
    ) -> None:
        self._read_page = read_page
        self._limit = max(limit, 2)
        self._start = self._offset = offset
        self._left = most_pages
        self._largest = 0
        self._known: set[str] = set()
        self._last: FileDetail | None = None
        self.order = _Order()
        self.least_count: int | None = None
        self.count = 0
        self.read = 0
        self.shifted = False  # a page did not begin where the one before ended
        self.gap = False  # files may lie between two pages, unseen
        self.endless = False  # the list does not come to an end

    def __iter__(self) -> Iterator[Sequence[FileDetail]]:
        """Yield what each page adds."""
        while True:
            page = self._next()
            new = self._new(page.items)
            self.order.note(new)
            yield new
            if self._ends(page, new) or self.endless:
                return
            if new:
                # Else it shows what was there before, moved on by what others added.
                self._known = {item.file_uuid for item in page.items}
                self._last = page.items[-1]
            # The next page begins with this page's last file; a page of one cannot overlap.
            self._offset += max(len(page.items) - 1, 1)

    def _ends(self, page: FilePage, new: Sequence[FileDetail]) -> bool:
        """Return whether nothing follows that was there when the page was read."""
        at_end = self._offset + len(page.items) >= page.count
        is_short = len(page.items) < self._largest
        self._largest = max(self._largest, len(page.items))
        return not page.items or (at_end and (not new or (is_short and self.order.is_proven)))

    def _next(self) -> FilePage:
        while True:
            page = self._read_page(self._limit, self._offset)
            self._count(page)
            if self._last is None or not page.items:
                return page
            self.shifted |= page.items[0].file_uuid != self._last.file_uuid
            if self._adjoins(page.items) or self.endless:
                return page
            if self._offset <= self._start:
                self.gap = True
                return page
            # By half of what a page shows, which may be less than was asked for.
            step = max(min(self._limit, self._largest) // 2, 1)
            self._offset = max(self._offset - step, self._start)

    def _count(self, page: FilePage) -> None:
        self.read += 1
        self.count = page.count
        self.least_count = page.count if self.read == 1 else min(self.least_count or 0, page.count)
        if self.read == 1:
            # Twice the pages that the list should have, and some.
            step = max(len(page.items) - 1, 1)
            self._left = min(2 * (page.count // step) + 16, self._left)
        self._left -= 1
        self.endless = self._left <= 0

    def _adjoins(self, items: Sequence[FileDetail]) -> bool:
        """Return whether nothing can lie unseen between the page before and these files."""
        if any(item.file_uuid in self._known for item in items):
            return True
        # In a proven order, files of another time show on which side of the last one they are.
        return self._last is not None and (
            self.order.newest_first and items[0].created_at > self._last.created_at
        )

    def _new(self, items: Sequence[FileDetail]) -> Sequence[FileDetail]:
        """Return what follows the last file of the page before; what was put before it is new."""
        known = [at for at, item in enumerate(items) if item.file_uuid in self._known]
        if known:
            return items[known[-1] + 1 :]
        if self._last is None or not self.order.newest_first:
            return items
        last = self._last.created_at
        return [item for item in items if item.created_at <= last]


def walk(
    read_page: ReadPage, limit: int | None = None, offset: int | None = None
) -> Iterator[FileDetail]:
    """Yield each file once, however the pages shift meanwhile."""
    seen: set[str] = set()
    for new in _Pages(read_page, limit or FEWER_PAGE_ITEMS[0], offset or 0):
        for item in new:
            if item.file_uuid not in seen:
                seen.add(item.file_uuid)
                yield item


def newest_pages(read_page: ReadPage, limit: int) -> Iterator[Sequence[FileDetail]]:
    """Yield pages as they are read, the newest files first if the first page shows an order.

    Others upload and delete meanwhile, so a file may come twice, or not at all: a file that comes
    is there, and one that does not come may be.
    """
    page = read_page(limit, 0)
    yield page.items
    size, order = len(page.items), _Order()
    order.note(page.items)
    if order.oldest_first:
        for offset in range(page.count - size, 0, -size):
            yield read_page(size, offset).items
        return
    offset = size
    while page.items and offset < page.count:
        page = read_page(limit, offset)
        yield page.items
        offset += len(page.items)


def read_listing(
    read_page: ReadPage,
    take: Take,
    *,
    since: Since = lambda: None,
    limit: int = PAGE_ITEMS,
    most_pages: int = MOST_PAGES,
) -> Listing:
    """Hand on all files, or all that were created at `since` or later; say what is proven.

    Where the pages prove that newest come first, reading stops at `since`, and what others add
    meanwhile disproves nothing. Where they prove that oldest come first, it is read from its end
    back. Without an order, the listing is complete if each page began where the one before
    ended.
    """
    pages = _Pages(read_page, limit, most_pages=most_pages)
    seen = _Seen(take)
    for new in pages:
        seen.add(new)
        if (until := since()) is None:
            continue
        if pages.order.passed(until):
            reason = "files may lie unseen between two pages" if pages.gap else ""
            return seen.listing(reason, pages.read)
        is_long = pages.count > 2 * len(new)
        if pages.read == 1 and pages.order.oldest_first and is_long:
            found = _read_from_the_end(read_page, seen, pages, until, len(new))
            if found is not None:
                return found
    return seen.listing(_unproven(pages, seen.count), pages.read, is_whole=True)


class _Seen:
    """Hands files on, and counts them."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self.count = 0
        self._oldest: datetime | None = None

    def add(self, items: Sequence[FileDetail]) -> None:
        for item in items:
            self._take(item)
            if self._oldest is None or item.created_at < self._oldest:
                self._oldest = item.created_at
        self.count += len(items)

    def listing(self, reason: str, pages: int, *, is_whole: bool = False) -> Listing:
        return Listing(
            complete=not reason,
            reason=reason,
            pages=pages,
            items=self.count,
            oldest=self._oldest,
            is_whole=is_whole,
        )


def _read_from_the_end(
    read_page: ReadPage, seen: _Seen, first: _Pages, since: datetime, size: int
) -> Listing | None:
    """Read a list, oldest first, from its end back to `since`; None if the order breaks."""
    offset = max(first.count - size, 0)
    tail = _Pages(read_page, max(size, 2), offset)
    edge: FileDetail | None = None
    for new in tail:
        edge = edge or (new[0] if new else None)
        seen.add(new)
    pages = first.read + tail.read
    if not tail.order.oldest_first or tail.gap or tail.endless or edge is None:
        return None
    while offset > 0 and edge.created_at >= since:
        offset = max(offset - size + 1, 0)
        items = read_page(max(size, 2), offset).items
        pages += 1
        order = _Order()
        order.note(items)
        adjoins = any(item.file_uuid == edge.file_uuid for item in items)
        if not order.oldest_first or not (adjoins or items[-1].created_at > edge.created_at):
            return None
        seen.add(items)
        edge = items[0]
    return seen.listing("", pages)


def _unproven(pages: _Pages, found: int) -> str:
    if pages.endless:
        return "the list does not come to an end"
    if pages.gap:
        return "files may lie unseen between two pages"
    if pages.shifted and not pages.order.is_proven:
        return "the pages shifted while they were read"
    if found < (pages.least_count or 0):
        return f"{found} files were shown, and {pages.count} counted"
    return ""
