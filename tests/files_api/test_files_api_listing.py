"""Lists that change while they are read: what is found, and what counts as proven."""

import random
import tracemalloc
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from hypothesis import given, settings, strategies as st

from syncd.emulator import Emulator
from syncd.files_api import FileDetail, NewFile, listing as listings
from syncd.files_api.listing import walk
from syncd.files_api.models import FilePage

START = datetime(2026, 1, 1, tzinfo=UTC)


def detail(number):
    return FileDetail(
        file_uuid=str(UUID(int=number)),
        organization_uuid=str(UUID(int=0)),
        created_at=START + timedelta(seconds=number),
    )


class Remote:
    """A list, newest first, that is changed before the reads that `changes` names."""

    def __init__(self, count, changes=None, *, cap=10, newest_first=True, lies=0):
        self.files = [detail(number) for number in range(1, count + 1)]
        if newest_first:
            self.files.reverse()
        self.made = count
        self.changes = changes or {}
        self.cap = cap
        self.lies = lies
        self.reads = 0

    def add(self, count=1):
        for _ in range(count):
            self.made += 1
            self.files.insert(0, detail(self.made))

    def remove(self, index=0, count=1):
        for _ in range(count):
            if self.files:
                self.files.pop(min(index, len(self.files) - 1))

    def read_page(self, limit, offset):
        self.reads += 1
        if change := self.changes.get(self.reads):
            change(self)
        items = tuple(self.files[offset : offset + min(limit, self.cap)])
        return FilePage(items=items, count=len(self.files) + self.lies)


def read_listing(read_page, *, since=None, **more):
    """Read a list, and keep what a caller would have seen of it."""
    items = []
    listing = listings.read_listing(read_page, items.append, since=lambda: since, **more)
    return SimpleNamespace(
        items=tuple(items), complete=listing.complete, pages=listing.pages, reason=listing.reason
    )


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10, 11, 19, 20, 95])
@pytest.mark.parametrize("cap", [2, 7, 10])
def test_a_quiet_list_is_read_completely(count, cap):
    remote = Remote(count, cap=cap)
    listing = read_listing(remote.read_page, limit=10)
    assert listing.complete
    assert listing.items == tuple(remote.files)
    assert listing.pages == remote.reads


@pytest.mark.row(45)
@pytest.mark.parametrize(
    "change",
    [
        lambda remote: remote.add(),
        lambda remote: remote.add(15),
        lambda remote: remote.remove(),
        lambda remote: remote.remove(count=5),
        lambda remote: (remote.remove(index=-1), remote.add()),
        lambda remote: random.Random(1).shuffle(remote.files),
    ],
)
@pytest.mark.parametrize("when", [2, 3, 5])
def test_a_list_without_an_order_that_changes_between_pages_proves_no_absence(change, when):
    remote = Remote(50, {when: change})
    random.Random(3).shuffle(remote.files)
    assert not read_listing(remote.read_page, limit=10).complete


@pytest.mark.row(77)
@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("count", [3, 50])
def test_what_others_add_disproves_nothing_where_the_order_is_proven(count, newest_first):
    """As in a young workspace, where others upload all the time."""

    def add(remote):
        remote.made += 1
        remote.files.insert(0 if newest_first else len(remote.files), detail(remote.made))

    remote = Remote(count, dict.fromkeys(range(2, 100), add), newest_first=newest_first)
    before = {item.file_uuid for item in remote.files}
    listing = read_listing(remote.read_page, since=START - timedelta(seconds=900), limit=10)
    assert listing.complete
    assert before <= {item.file_uuid for item in listing.items}


@pytest.mark.row(45)
@pytest.mark.parametrize("lies", [1, 100])
def test_files_that_are_counted_and_not_shown_prove_no_absence(lies):
    assert not read_listing(Remote(50, lies=lies).read_page, limit=10).complete


@pytest.mark.row(45)
@pytest.mark.parametrize("lies", [-40, -1])
def test_a_list_is_read_to_its_end_whatever_it_counts(lies):
    assert len(read_listing(Remote(50, lies=lies).read_page, limit=10).items) == 50


@pytest.mark.row(45)
def test_a_list_is_read_to_its_end_where_it_counts_the_page_alone():
    remote = Remote(50)

    def read_page(limit, offset):
        page = remote.read_page(limit, offset)
        return FilePage(items=page.items, count=len(page.items))

    assert len(read_listing(read_page, limit=10).items) == 50


@pytest.mark.row(45)
def test_a_page_without_overlap_proves_no_absence():
    assert not read_listing(Remote(5, cap=1).read_page, limit=10).complete


@pytest.mark.long
@pytest.mark.row(45, 85)
@pytest.mark.parametrize(("count", "overlap"), [(10**4, 0), (2**62, 1)])
def test_a_list_without_end_is_left_proves_no_absence_and_takes_no_memory(count, overlap):
    numbers = iter(range(10**9))
    shown = []

    def read_page(_limit, _offset):
        shown[:] = [*shown[len(shown) - overlap :], *(detail(next(numbers)) for _ in range(5))]
        return FilePage(items=tuple(shown), count=count)

    tracemalloc.start()
    listing = listings.read_listing(read_page, lambda _: None, limit=100_000, most_pages=5000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not listing.complete
    assert listing.items > 5_000
    assert peak < 1 << 20


def test_a_server_that_ignores_the_offset_is_left():
    remote = Remote(50)
    listing = read_listing(lambda limit, _offset: remote.read_page(limit, 0), limit=10)
    assert not listing.complete
    assert len(listing.items) == 10


def test_a_recent_look_stops_where_the_pages_prove_newest_first():
    remote = Remote(500)
    listing = read_listing(remote.read_page, since=START + timedelta(seconds=480), limit=10)
    assert listing.complete
    assert remote.reads == 3
    assert {item.file_uuid for item in remote.files[:20]} <= {i.file_uuid for i in listing.items}


def test_a_recent_look_is_complete_though_files_are_added_meanwhile():
    remote = Remote(500, {2: lambda remote: remote.add(3), 3: lambda remote: remote.add(8)})
    before = {item.file_uuid for item in remote.files[:20]}
    listing = read_listing(remote.read_page, since=START + timedelta(seconds=480), limit=10)
    assert listing.complete
    assert before <= {item.file_uuid for item in listing.items}


def test_a_recent_look_misses_nothing_when_files_are_removed_meanwhile():
    remote = Remote(500, {2: lambda remote: remote.remove(count=5)})
    before = {item.file_uuid for item in remote.files[5:20]}
    listing = read_listing(remote.read_page, since=START + timedelta(seconds=480), limit=10)
    assert before <= {item.file_uuid for item in listing.items}


def test_a_recent_look_reads_from_the_end_back_where_the_pages_prove_oldest_first():
    remote = Remote(500, newest_first=False)
    listing = read_listing(remote.read_page, since=START + timedelta(seconds=480), limit=10)
    assert listing.complete
    assert remote.reads <= 8
    assert {item.file_uuid for item in remote.files[479:]} <= {i.file_uuid for i in listing.items}


@pytest.mark.row(77)
def test_a_recent_look_from_the_end_is_complete_though_files_are_added_meanwhile():
    def add(remote):
        remote.made += 1
        remote.files.append(detail(remote.made))

    remote = Remote(500, dict.fromkeys(range(2, 50), add), newest_first=False)
    before = {item.file_uuid for item in remote.files[479:]}
    listing = read_listing(remote.read_page, since=START + timedelta(seconds=480), limit=10)
    assert listing.complete
    assert before <= {item.file_uuid for item in listing.items}


def test_a_recent_look_reads_everything_where_there_is_no_order():
    remote = Remote(60)
    random.Random(2).shuffle(remote.files)
    listing = read_listing(remote.read_page, since=START + timedelta(seconds=50), limit=10)
    assert listing.complete
    assert len(listing.items) == 60


def test_equal_times_prove_no_order():
    remote = Remote(30)
    same = [
        FileDetail(file_uuid=f.file_uuid, organization_uuid=f.organization_uuid, created_at=START)
        for f in remote.files
    ]
    remote.files = same
    listing = read_listing(remote.read_page, since=START + timedelta(days=1), limit=10)
    assert len(listing.items) == 30


def test_every_file_is_yielded_once_though_the_pages_shift():
    changes = {2: lambda r: r.add(2), 3: lambda r: r.remove(count=4), 5: lambda r: r.add()}
    remote = Remote(80, changes)
    stable = {item.file_uuid for item in remote.files[10:]}
    found = [item.file_uuid for item in walk(remote.read_page, 10)]
    assert len(found) == len(set(found))
    assert stable <= set(found)


@pytest.mark.parametrize("count", [0, 1, 10, 25, 30])
@pytest.mark.parametrize("newest_first", [True, False])
def test_the_newest_pages_come_first_and_each_file_is_on_one(count, newest_first):
    remote = Remote(count, newest_first=newest_first)
    pages = list(listings.newest_pages(remote.read_page, 10))
    assert {item.file_uuid for page in pages for item in page} == {
        f.file_uuid for f in remote.files
    }
    assert len(pages) == max(-(-count // 10), 1)
    if not newest_first and count > 10:
        # The first page shows the order; the newest files follow.
        assert pages[1][-1] == detail(count)


def test_newest_pages_end_where_a_service_ignores_the_offset_and_shows_nothing():
    pages = listings.newest_pages(lambda *_: FilePage(items=(), count=1000), 10)
    assert list(pages) == [()]


def test_a_walk_can_begin_further_on():
    remote = Remote(30)
    assert list(walk(remote.read_page, 7, 12)) == remote.files[12:]


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 60),
    cap=st.integers(1, 12),
    changes=st.dictionaries(
        st.integers(2, 12),
        st.one_of(
            st.integers(1, 5).map(lambda n: lambda remote: remote.add(n)),
            st.tuples(st.integers(0, 40), st.integers(1, 5)).map(
                lambda at: lambda remote: remote.remove(*at)
            ),
        ),
        max_size=4,
    ),
    since=st.none() | st.integers(0, 60).map(lambda n: START + timedelta(seconds=n)),
)
def test_a_complete_listing_has_every_file_that_stayed(count, cap, changes, since):
    remote = Remote(count, changes, cap=cap)
    before = list(remote.files)
    listing = read_listing(remote.read_page, since=since, limit=10)
    stayed = {
        f.file_uuid for f in before if f in remote.files and (not since or f.created_at >= since)
    }
    found = [item.file_uuid for item in listing.items]
    if listing.complete:
        assert stayed <= set(found)


def test_small_pages_of_which_one_is_deleted_from_are_stepped_back_over_and_read_whole():
    """The service shows ten files of a page, whatever is asked for; the oldest come first."""
    remote = Remote(200, {6: lambda remote: remote.remove(count=3)}, newest_first=False)
    listing = read_listing(remote.read_page, limit=1000)
    assert listing.complete
    assert {item.file_uuid for item in listing.items} >= {item.file_uuid for item in remote.files}


@pytest.mark.parametrize("most", [10, 20, 100, 999])
def test_a_service_that_refuses_large_pages_is_asked_for_smaller_ones(tmp_path, client_of, most):
    names = ["page-refused"]
    with Emulator(data=tmp_path / "data", personality=names, page_limit=most) as emulator:
        client = client_of(emulator.url)
        made = {file.file_uuid for file in client.create([NewFile(local_file_path="a")] * 25).files}
        sizes = []
        client.read_listing(lambda _: None, on_answer=lambda answer: sizes.append(answer.status))
        assert sizes.count(422) == (1 if most >= 100 else 2)
        sizes.clear()
        items = []
        assert client.read_listing(
            items.append, on_answer=lambda a: sizes.append(a.status)
        ).complete
        assert 422 not in sizes, "what it takes is remembered"
        assert {item.file_uuid for item in items} == made
        assert {item.file_uuid for item in client.list_all(limit=500)} == made
        assert len(client.list(limit=1).items) == 1
