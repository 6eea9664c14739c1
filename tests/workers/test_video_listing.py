"""Many videos are followed by listings, which only decide whom to ask next."""

from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest

from syncd.disk import Fingerprint
from syncd.emulator import Emulator
from syncd.emulator.video import make_video
from syncd.files_api import NewFile, NotSentError, ProcessingStatus
from syncd.state import copies, files
from syncd.state.copies import Copy
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.workers.poll_options import PollOptions
from syncd.workers.video_listing import _Course
from tests.workers.conftest import KEY, OURS, Shop

WORKSPACE, OTHER_WORKSPACE = (f"00000000-0000-4000-8000-00000000000{n}" for n in "12")
FEW, MANY = PollOptions().listing_threshold - 1, 30


class Cinema(Shop):
    """A shop whose videos are sent and not processed yet; pauses let its time pass."""

    def __init__(self, store, tmp_path, emulator):
        super().__init__(store, tmp_path, emulator)
        self.poller.pause = self.poller.listing.pause = self.sleep
        self.stops_after = None
        self.make_video = lambda: tmp_path / "v.mp4"

    def limit(self, polls_per_second):
        """Let so few requests be made that asking for each video does not keep up."""
        options = PollOptions(polls_per_second=polls_per_second)
        self.poller.options = self.poller.listing.options = options

    def sleep(self, seconds):
        self.now += seconds
        if self.stops_after is not None:
            self.stops_after -= 1
        return self.stops_after == 0

    def pending(self, number, workspace=None, content_type="video/mp4"):
        """Reserve objects for videos, and note in the ledger that they were sent; return them."""
        new = [
            NewFile(local_file_path=f"{n}.mp4", content_type=content_type) for n in range(number)
        ]
        made = self.client.create(new, workspace_uuid=workspace).files
        self.store.write(lambda db: [self._note(db, file.file_uuid, workspace) for file in made])
        return made

    def _note(self, db, file_uuid, workspace, status=CopyStatus.PROCESSING):
        path = uuid4().hex.encode()
        file_id = files.insert(
            db,
            folder="f",
            path=path,
            status=FileStatus.READY,
            fingerprint=Fingerprint(1, 1, 1, 1),
            changed_at=0.0,
            due_at=None,
        )
        files.update(db, file_id, sha256="a" * 64)
        copy = Copy(
            id=0,
            file_id=file_id,
            token=path.decode(),
            file_uuid=file_uuid,
            status=status,
            wanted=True,
            in_flight=False,
            generation=1,
            sha256="a" * 64,
            size=1,
            content_type="video/mp4",
            workspace_uuid=workspace,
            method="direct",
            due_at=self.now,
            stored_at=self.now,
            created_at=self.now,
        )
        return copies.insert(db, copy)

    def process(self, file, content):
        """Have the service process a video to its end."""
        headers = {"content-type": file.content_type}
        urlopen(Request(file.file_url, content, headers, method="PUT")).close()
        while self.client.get_status(file.file_uuid).processing_status != "completed":
            pass

    def of(self, file):
        return self.store.read(lambda db: copies.where(db, "file_uuid = ?", (file.file_uuid,)))[0]

    def by_status(self):
        return Counter(copy.status for copy in self.copies())

    def poll(self, seconds):
        """Repeat the poller's step for so long; return the requests, by operation."""
        before, until = len(self.ask("requests")), self.now + seconds
        while self.now < until:
            wait = self.poller.step()
            if self.stops_after == 0:
                break
            self.now += min(15.0 if wait is None else max(wait, 0.02), until - self.now + 0.01)
        return self.asked(before)

    def asked(self, since):
        return Counter(_operation(request) for request in self.ask("requests")[since:])

    def relist(self, **changed):
        """Have each page of a listing show its files with something else."""
        read = self.client.newest_pages

        def pages(**how):
            for page in read(**how):
                yield tuple(replace(item, **changed) for item in page)

        self.client.newest_pages = pages


def _operation(request):
    if request["method"] == "GET" and request["path"].partition("?")[0] == "/v2/files":
        return "list"
    return "status" if request["path"].endswith("/status") else "other"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    make_video(path, seconds=0.5, fps=4, size=(64, 48))
    return path.read_bytes()


@pytest.fixture
def serve(store, tmp_path):
    """Return a function that opens a shop on a service of some personality."""

    def serve(*personality, **traits):
        emulator = Emulator(
            data=tmp_path / "emulator", api_keys={KEY: OURS}, personality=personality, **traits
        )
        cinema = Cinema(store, tmp_path, running.enter_context(emulator))
        running.enter_context(closing(cinema.client))
        return cinema

    with ExitStack() as running:
        yield serve


@pytest.fixture
def cinema(serve):
    return serve()


def test_few_videos_are_asked_for_one_by_one(cinema):
    cinema.pending(FEW)
    asked = cinema.poll(20)
    assert asked["list"] == 0
    assert asked["status"] >= 3 * FEW


@pytest.mark.long
def test_one_of_a_thousand_videos_is_noticed_within_half_a_minute_by_few_requests(cinema, video):
    some = cinema.pending(1000)
    cinema.poll(60)
    cinema.process(some[400], video)
    began, asked = cinema.now, Counter()
    while cinema.of(some[400]).status is CopyStatus.PROCESSING and cinema.now < began + 60:
        asked += cinema.poll(1)
    assert cinema.of(some[400]).status is CopyStatus.LIVE
    assert cinema.now - began <= 32
    assert asked.total() <= 6
    assert cinema.by_status() == {CopyStatus.PROCESSING: 999, CopyStatus.LIVE: 1}


def test_a_video_that_a_listing_shows_as_done_is_live_by_its_own_status(cinema, video):
    some = cinema.pending(MANY)
    cinema.process(some[7], video)
    asked = cinema.poll(5)
    assert asked["list"] >= 1
    assert asked["status"] == 1
    assert cinema.of(some[7]).frame_count == 2
    assert cinema.by_status() == {CopyStatus.PROCESSING: MANY - 1, CopyStatus.LIVE: 1}


def test_videos_that_are_done_are_asked_for_faster_than_those_that_may_be(cinema, monkeypatch):
    cinema.pending(3 * MANY)
    cinema.relist(processing_status="completed")
    done = partial(ProcessingStatus, processing_status="completed")
    detail = SimpleNamespace(video_metadata={"frame_count": 1}, remote_file_path=None)
    monkeypatch.setattr(cinema.client, "get_status", lambda uuid: done(file_uuid=uuid))
    monkeypatch.setattr(cinema.client, "get", lambda _: detail)
    cinema.poll(3)
    assert cinema.by_status() == {CopyStatus.LIVE: 3 * MANY}


def test_a_listing_that_says_completed_makes_nothing_live_and_is_believed_no_more(cinema):
    cinema.pending(MANY)
    cinema.relist(processing_status="completed")
    asked = cinema.poll(10)
    assert cinema.by_status() == {CopyStatus.PROCESSING: MANY}
    assert asked["list"] == 1
    assert asked["status"] >= MANY


def test_a_listing_that_says_failed_makes_nothing_fail(cinema):
    cinema.pending(MANY)
    cinema.relist(processing_status="failed")
    cinema.poll(10)
    assert cinema.by_status() == {CopyStatus.PROCESSING: MANY}


def test_states_are_kept_up_to_date_by_a_listing_in_one_commit(cinema, monkeypatch):
    cinema.pending(MANY)
    cinema.relist(processing_status="processing")
    written = []
    write = cinema.store.write
    monkeypatch.setattr(
        cinema.store, "write", lambda what, *more: written.append(what) or write(what, *more)
    )
    cinema.poll(1)
    assert {copy.processing_status for copy in cinema.copies()} == {"processing"}
    assert {copy.attempts for copy in cinema.copies()} == {1}
    assert [what.__name__ for what in written] == ["still_processing_all"]


def test_a_video_that_no_listing_shows_is_asked_for_by_itself(cinema):
    cinema.pending(MANY)
    # What is no video is on no page, and the service processed it at once.
    (unlisted,) = cinema.pending(1, content_type="text/plain")
    cinema.process(unlisted, b"text")
    asked = cinema.poll(10)
    assert cinema.of(unlisted).status is CopyStatus.LIVE
    assert asked["list"] >= 1
    assert asked["status"] == 1


def test_a_video_that_no_listing_shows_is_gone_only_by_two_answers_of_its_own(cinema):
    deleted, *_ = cinema.pending(MANY)
    cinema.client.delete(deleted.file_uuid)
    listed, seen = [], Counter()
    pages = cinema.client.newest_pages
    cinema.client.newest_pages = lambda **how: listed.append(1) or pages(**how)
    while cinema.of(deleted).status is CopyStatus.PROCESSING and cinema.now < 1_000_600:
        seen += cinema.poll(1)
    assert cinema.of(deleted).status is CopyStatus.GONE
    assert len(listed) > 1
    assert seen["status"] == 2
    assert cinema.by_status()[CopyStatus.PROCESSING] == MANY - 1


def test_a_service_that_lists_no_states_is_asked_for_each_video(serve):
    cinema = serve("no-states")
    cinema.pending(MANY)
    asked = cinema.poll(10)
    assert asked["list"] == 1
    assert asked["status"] >= MANY


@pytest.mark.parametrize(
    "status", [401, 429, *(pytest.param(n, marks=pytest.mark.long) for n in (403, 404, 500))]
)
def test_a_listing_that_breaks_off_keeps_what_it_told_and_rests(serve, status):
    cinema = serve("page-cap")
    cinema.limit(0.25)
    cinema.pending(MANY)
    action = {"status": status} | ({"retry_after": 30} if status == 429 else {})
    cinema.faults({"match": "GET /v2/files", "every": 2, "action": action})
    asked = cinema.poll(9)
    assert asked["list"] == 2
    assert (asked["status"] == 0) == (status in (401, 429)), "these stop all requests"
    assert sum(copy.attempts > 0 for copy in cinema.copies()) >= 20
    assert cinema.by_status() == {CopyStatus.PROCESSING: MANY}
    cinema.faults()
    cinema.gate.succeeded()
    assert cinema.poll(200)["list"] >= 2


def test_a_pause_that_the_service_asks_for_stops_all_requests_for_videos(cinema):
    cinema.pending(10)
    cinema.faults({"match": "GET /*", "action": {"status": 429, "retry_after": 40}})
    assert cinema.poll(39).total() == 1


def test_the_stop_ends_a_listing_after_the_page_that_is_read(serve):
    cinema = serve("page-cap")
    cinema.pending(MANY)
    cinema.stops_after = 1
    assert cinema.poll(60) == {"list": 1}


@pytest.mark.parametrize("order", ["oldest-first", "unordered"])
def test_every_order_of_a_listing_will_do(serve, order, video):
    cinema = serve(order, "page-cap")
    some = cinema.pending(MANY)
    cinema.process(some[15], video)
    asked = cinema.poll(5)
    assert asked["status"] == 1
    assert cinema.of(some[15]).status is CopyStatus.LIVE


@pytest.mark.long
def test_objects_of_others_in_between_do_no_harm(cinema, video):
    """They make a listing longer: what it does not reach is asked for one by one."""
    some = cinema.pending(MANY)
    others = [NewFile(local_file_path="o.mp4", content_type="video/mp4")] * 1000
    for _ in range(2):
        cinema.client.create(others)
    cinema.process(some[0], video)
    asked = cinema.poll(10)
    assert asked["list"] * 3 <= MANY, "not more than it might have saved"
    assert asked["status"] >= MANY
    assert cinema.of(some[0]).status is CopyStatus.LIVE
    assert cinema.by_status() == {CopyStatus.PROCESSING: MANY - 1, CopyStatus.LIVE: 1}


def test_a_listing_that_does_not_pay_is_tried_again_ever_more_rarely(cinema, monkeypatch):
    cinema.limit(0.25)
    cinema.pending(MANY)
    unfinished = partial(ProcessingStatus, processing_status="pending")
    monkeypatch.setattr(cinema.client, "get_status", lambda uuid: unfinished(file_uuid=uuid))
    cinema.relist(processing_status=None)
    tried = []
    pages = cinema.client.newest_pages
    cinema.client.newest_pages = lambda **how: tried.append(cinema.now) or pages(**how)
    cinema.poll(1000)
    rests = [later - earlier for earlier, later in pairwise(tried)]
    assert len(tried) == 3
    assert rests[0] >= 60
    assert rests[1] >= 240


def test_each_workspace_has_a_listing_of_its_own(cinema, video):
    some = cinema.pending(MANY, WORKSPACE)
    more = cinema.pending(MANY, OTHER_WORKSPACE)
    for file in (some[3], more[5]):
        cinema.process(file, video)
    asked = cinema.poll(5)
    assert asked["status"] == 2
    assert cinema.by_status()[CopyStatus.PROCESSING] == 2 * MANY - 2


def test_a_file_that_a_listing_shows_in_another_workspace_counts_as_not_shown(cinema):
    cinema.pending(MANY, WORKSPACE)
    cinema.relist(workspace_uuid=OTHER_WORKSPACE)
    asked = cinema.poll(10)
    assert asked["status"] >= MANY
    assert cinema.by_status() == {CopyStatus.PROCESSING: MANY}


def test_released_copies_are_asked_for_beside_a_listing(cinema, monkeypatch):
    released, *_ = cinema.pending(MANY)
    copy = cinema.of(released)
    move = "UPDATE copies SET status = 'released', content_type = 'text/plain' WHERE id = ?"
    cinema.store.write(lambda db: db.conn.execute(move, (copy.id,)) and None)
    found = []
    monkeypatch.setattr(cinema.poller, "_found", lambda copy, _: found.append(copy.id))
    cinema.poll(3)
    assert set(found) == {copy.id}
    assert cinema.of(released).processing_status == copy.processing_status


def test_stalled_videos_are_followed_by_no_listing_and_asked_for_once_an_hour(cinema):
    cinema.pending(MANY)
    cinema.now += 90_000
    cinema.poll(60)
    due = [copy.due_at - cinema.now for copy in cinema.copies()]
    assert min(due) > 3500
    # The looks are spread by then; none is early.
    assert cinema.poll(3000)["status"] == 0


def test_a_service_that_cannot_be_reached_is_not_listed_again_and_again(cinema, monkeypatch):
    cinema.pending(MANY)
    tried = []

    def refuse(**_):
        tried.append(cinema.now)
        raise NotSentError("cannot connect", operation="list")

    monkeypatch.setattr(cinema.client, "newest_pages", refuse)
    cinema.poll(10)
    assert len(tried) == 1


def test_a_clock_that_is_set_back_keeps_no_listing_waiting():
    course = _Course(is_followed=True, read_at=1000.0, wait=30.0)
    assert [course.is_due(now) for now in (1000, 1029, 1030, 900)] == [False, False, True, True]


@pytest.mark.long
def test_videos_that_are_done_are_asked_for_at_ten_times_the_rate_at_most(cinema, video):
    for file in cinema.pending(MANY):
        cinema.process(file, video)
    cinema.limit(0.5)
    waits, sleep = [], cinema.poller.pause
    cinema.poller.pause = lambda seconds: (waits.append(seconds), sleep(seconds))[1]
    cinema.poll(120)
    assert cinema.by_status() == {CopyStatus.LIVE: MANY}
    assert min(waits) == pytest.approx(0.2)


@pytest.mark.long
@pytest.mark.parametrize("word", ["processing", "pending", "COMPLETED", "uploaded"])
def test_videos_that_are_done_go_live_though_a_listing_never_shows_it(cinema, video, word):
    for file in cinema.pending(MANY):
        cinema.process(file, video)
    cinema.relist(processing_status=word)
    cinema.poll(600)
    assert cinema.by_status() == {CopyStatus.LIVE: MANY}


@pytest.mark.long
def test_a_foreign_object_with_our_uuid_keeps_no_video_from_going_live(cinema, video):
    for file in cinema.pending(MANY):
        cinema.process(file, video)
    read = cinema.client.newest_pages
    foreign = {"workspace_uuid": OTHER_WORKSPACE, "processing_status": "processing"}
    cinema.client.newest_pages = lambda **how: (
        (*page, *(replace(item, **foreign) for item in page)) for page in read(**how)
    )
    cinema.poll(600)
    assert cinema.by_status() == {CopyStatus.LIVE: MANY}


@pytest.mark.long
def test_a_slow_listing_leaves_time_to_ask_for_what_it_shows(cinema, video):
    for file in cinema.pending(4 * MANY):
        cinema.process(file, video)
    read = cinema.client.newest_pages

    def slow(**how):
        for page in read(**how):
            cinema.now += 30.0
            yield page

    cinema.client.newest_pages = slow
    asked = cinema.poll(120)
    assert cinema.by_status() == {CopyStatus.LIVE: 4 * MANY}
    assert asked["list"] <= 2
