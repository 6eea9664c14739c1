import time

import pytest

from syncd.files_api import ForbiddenError, ServerError
from syncd.state import copies
from syncd.state.lifecycle import CopyStatus
from syncd.state.sightings import Seen
from syncd.workers.passage import UploadOptions

UPLOAD = "POST /v2/files/-/uploads"


def learn_the_echo(shop):
    shop.drop("first", b"first")
    shop.upload()
    shop.reconciler.step()
    assert shop.store.fact("echo") == "proven"


def doubt(shop, action, name="a", content=b"a"):
    shop.faults({"match": UPLOAD, "times": 1, "action": action})
    shop.drop(name, content)
    shop.upload()
    assert shop.copy(name).in_doubt
    shop.faults()


def until(condition):
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def sent_twice(shop):
    """Have "a" sent again before the first try, which got no answer, is carried out."""
    learn_the_echo(shop)
    doubt(shop, {"commit_late": 0.3})
    shop.now += 121
    shop.reconciler.step()
    shop.upload()


def test_a_copy_that_did_arrive_is_adopted_and_not_sent_again(shop):
    doubt(shop, "drop_after")
    shop.reconciler.step()
    copy = shop.copy("a")
    assert copy.status is CopyStatus.LIVE
    assert list(shop.live()) == [copy.file_uuid]
    assert shop.store.fact("echo") == "proven", "finding it proves the echo"


def test_a_copy_that_did_not_arrive_is_sent_again_only_after_the_wait(shop):
    learn_the_echo(shop)
    doubt(shop, "drop_before")
    shop.now += 119
    shop.reconciler.step()
    assert shop.copy("a").in_doubt
    shop.now += 2
    shop.reconciler.step()
    assert shop.copy("a").status is CopyStatus.PLANNED
    token = shop.copy("a").token
    shop.upload()
    assert (shop.copy("a").status, shop.copy("a").token) == (CopyStatus.LIVE, token)
    assert len(shop.live()) == 2


def test_a_copy_that_arrives_after_it_was_sent_again_is_a_twin_and_retires(shop):
    sent_twice(shop)
    until(lambda: len(shop.live()) == 3)
    shop.now += 86_401
    shop.reconciler.step()
    shop.deleter.step()
    assert shop.live().keys() == {shop.copies("first")[-1].file_uuid, shop.copies("a")[0].file_uuid}


@pytest.mark.row(44)
def test_a_stray_is_found_after_everything_else_of_its_workspace_is_gone(shop):
    sent_twice(shop)
    for name in ("first", "a"):
        (shop.root / name).unlink()
        shop.notice(name, Seen.MISSING)
    shop.now += 61
    shop.deleter.step()
    until(lambda: len(shop.live()) == 1)
    shop.now += 86_401
    shop.reconciler.step()
    shop.deleter.step()
    assert shop.live() == {}


def test_a_video_found_in_doubt_is_followed_and_not_taken_for_done(shop):
    doubt(shop, "drop_after", "broken.mp4", b"no video")
    shop.reconciler.step()
    assert shop.copy("broken.mp4").status is CopyStatus.PROCESSING


@pytest.mark.parametrize("echo", ["none"])
def test_without_an_echo_nothing_is_sent_twice_and_the_hold_says_why(shop, echo):
    shop.drop("first", b"first")
    shop.upload()
    shop.reconciler.step()
    assert shop.store.fact("echo") == "none"
    doubt(shop, "drop_after")
    shop.now += 1000
    shop.reconciler.step()
    assert shop.copy("a").in_doubt
    assert shop.holds() == [("sending", "no_echo")]
    shop.upload()
    assert len(shop.live()) == 2


def test_the_next_look_is_for_the_doubt_that_is_due_first(shop):
    learn_the_echo(shop)
    doubt(shop, "drop_before", "a")
    doubt(shop, "drop_before", "b", b"b")
    for name, seconds in (("a", 50.0), ("b", 20.0)):
        copy_id, look_at = shop.copy(name).id, shop.now + seconds
        shop.store.write(lambda db, i=copy_id, at=look_at: shop.ledger.look_later(db, i, at))
    assert shop.reconciler.step() == 20.0


def test_a_quiet_day_reads_no_listing(shop):
    learn_the_echo(shop)
    asked = len(shop.ask("requests"))
    for _ in range(20):
        shop.now += 3600
        shop.reconciler.step()
    assert len(shop.ask("requests")) == asked


def test_other_peoples_objects_are_never_touched(shop):
    from syncd.files_api import NewFile

    shop.client.create([NewFile(local_file_path="clip.sy1-00000000-" + "1" * 28 + ".mp4")])
    learn_the_echo(shop)
    shop.now += 86_401
    shop.reconciler.step()
    shop.deleter.step()
    assert [o["state"] for o in shop.ask("objects")] == ["reserved", "live"]


@pytest.mark.parametrize("echo", ["none"])
def test_without_an_echo_a_create_in_doubt_is_repeated_because_it_left_no_content(shop, echo):
    shop.uploader._passage._options = UploadOptions(workers=2)
    shop.faults({"match": "POST /v2/files", "times": 1, "action": "drop_before"})
    shop.drop("a", b"a")
    shop.upload()
    assert shop.copy("a").in_doubt
    shop.now += 121
    shop.reconciler.step()
    shop.upload()
    assert shop.copy("a").status is CopyStatus.LIVE
    assert shop.holds() == []


def test_a_record_found_without_its_content_never_goes_live(shop):
    shop.uploader._passage._options = UploadOptions(workers=2, method="presigned")
    shop.faults({"match": "POST /v2/files", "times": 1, "action": "drop_after"})
    shop.drop("a", b"content")
    shop.upload()
    assert shop.copy("a").in_doubt
    shop.reconciler.step()
    assert [copy.status for copy in shop.copies("a")] == ["planned", "retiring"]
    shop.now += 1
    shop.upload()
    shop.deleter.step()
    assert [copy.status for copy in shop.copies("a")] == ["live", "gone"]
    assert [o["state"] for o in shop.ask("objects")] == ["deleted", "live"]


def test_of_an_empty_record_and_a_whole_object_the_whole_one_is_the_copys_own(shop):
    learn_the_echo(shop)
    shop.uploader._passage._options = UploadOptions(workers=2, method="presigned")
    shop.faults({"match": "POST /v2/files", "times": 1, "action": {"commit_late": 0.3}})
    shop.drop("a", b"content")
    shop.upload()
    shop.now += 121
    shop.reconciler.step()
    assert shop.copy("a").status is CopyStatus.PLANNED
    until(lambda: [o for o in shop.ask("objects") if o["state"] == "reserved"])
    shop.uploader._passage._options = UploadOptions(workers=2, method="direct")
    shop.faults({"match": UPLOAD, "times": 1, "action": "drop_after"})
    shop.upload()
    assert shop.copy("a").in_doubt
    shop.reconciler.step()
    shop.deleter.step()
    copy = shop.copies("a")[0]
    assert copy.status is CopyStatus.LIVE
    assert shop.live()[copy.file_uuid] == copy.sha256
    assert [o["state"] for o in shop.ask("objects")] == ["live", "deleted", "live"]


@pytest.mark.row(44)
def test_the_wait_before_it_is_sent_again_begins_when_nobody_waits_for_the_answer_any_more(shop):
    learn_the_echo(shop)
    doubt(shop, "drop_before")
    copy = shop.copy("a")
    # It took ten minutes to send before its answer was lost.
    shop.store.write(lambda db: copies.update(db, copy.id, sent_at=shop.now - 600))
    shop.reconciler.step()
    assert shop.copy("a").in_doubt
    shop.now += 121
    shop.reconciler.step()
    assert shop.copy("a").status is CopyStatus.PLANNED


@pytest.mark.row(16)
@pytest.mark.parametrize("action", ["drop_before", "drop_after"])
def test_a_doubt_is_settled_though_the_clock_was_ahead_when_it_arose(shop, action):
    learn_the_echo(shop)
    shop.deleter._steady = time.monotonic
    shop.now = time.time() + 30 * 86_400
    shop.deleter.step()
    doubt(shop, action)
    shop.now = time.time()
    shop.deleter.step()
    shop.reconciler.step()
    shop.now += 121
    shop.reconciler.step()
    shop.upload()
    assert shop.copy("a").status is CopyStatus.LIVE
    assert len(shop.live()) == 2


class Closed:
    """A client that is refused one workspace, and counts the listings that it reads."""

    def __init__(self, client, workspace, error):
        self._client, self._workspace, self._error = client, workspace, error
        self.read = []

    def read_listing(self, *, workspace_uuid, since=None):
        self.read.append(workspace_uuid)
        if workspace_uuid == self._workspace:
            raise self._error
        return self._client.read_listing(workspace_uuid=workspace_uuid, since=since)

    def __getattr__(self, name):
        return getattr(self._client, name)


CLOSED = "44444444-4444-4444-8444-444444444444"
ERRORS = {
    "forbidden": ForbiddenError("no", operation="list", status=403),
    "failing": ServerError("no", operation="list", status=500),
}


def move_to_closed(shop, name):
    """Let a file's copy be one of a workspace that is refused to the key."""
    copy = shop.copy(name)
    shop.store.write(lambda db: copies.update(db, copy.id, workspace_uuid=CLOSED))


@pytest.mark.row(38)
@pytest.mark.parametrize("error", ERRORS)
def test_a_workspace_that_cannot_be_listed_keeps_no_other_waiting(shop, error):
    learn_the_echo(shop)
    for name in "abcd":
        doubt(shop, "drop_after", name, name.encode())
    for name in "ac":
        move_to_closed(shop, name)
    shop.reconciler._client = closed = Closed(shop.client, CLOSED, ERRORS[error])
    for _ in range(20):
        shop.reconciler.step()
        shop.now += 5
    assert [shop.copy(name).status for name in "bd"] == [CopyStatus.LIVE] * 2
    assert all(shop.copy(name).in_doubt for name in "ac")
    assert closed.read.count(CLOSED) <= 5, "twice a minute"


@pytest.mark.row(38)
@pytest.mark.parametrize("error", ERRORS)
def test_a_sweep_that_one_workspace_is_refused_to_is_no_loop_and_sweeps_the_others(shop, error):
    sent_twice(shop)
    until(lambda: len(shop.live()) == 3)
    shop.drop("away", b"away")
    shop.upload()
    move_to_closed(shop, "away")
    assert len(shop.live()) == 4
    shop.now += 86_401
    shop.reconciler._client = closed = Closed(shop.client, CLOSED, ERRORS[error])
    for _ in range(100):
        shop.reconciler.step()
        shop.now += 5
    shop.deleter.step()
    assert len(shop.live()) == 3, "the stray is swept"
    assert closed.read.count(CLOSED) <= 10


@pytest.mark.row(26)
@pytest.mark.parametrize("why", ["the ledger is wrong", "others deleted it"])
def test_a_twin_is_kept_while_its_copy_is_not_to_be_seen(shop, why):
    """Else the only object of a file's content would be the one that is deleted."""
    sent_twice(shop)
    until(lambda: len(shop.live()) == 3)
    copy = shop.copy("a")
    if why == "the ledger is wrong":
        other = "f" * 8 + copy.file_uuid[8:]
        shop.store.write(lambda db: copies.update(db, copy.id, file_uuid=other))
    else:
        shop.client.delete(copy.file_uuid)
    there = shop.live()
    shop.now += 86_401
    shop.reconciler.step()
    shop.deleter.step()
    assert shop.live() == there
