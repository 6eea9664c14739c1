import tempfile
import time
import uuid
from dataclasses import replace

import pytest

from syncd.files_api import MOST_PAGES, FilesClient, ForbiddenError, ServerError, UploadSource
from syncd.files_api.models import FilePage
from syncd.state import attempts, copies
from syncd.state.lifecycle import CopyStatus
from syncd.state.observations import Seen
from syncd.workers.preparation import UploadOptions

UPLOAD = "POST /v2/files/-/uploads"


def learn_the_echo(shop):
    shop.drop("first", b"first")
    shop.upload()
    shop.reconciler.step()
    assert shop.echo() == "proven"


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


def given_up(shop):
    """Have "a" given up before its request, which got no answer, is carried out."""
    learn_the_echo(shop)
    doubt(shop, {"commit_late": 0.3})
    shop.now += 121
    shop.reconciler.step()
    assert shop.copy("a").status is CopyStatus.PLANNED


def sent_twice(shop):
    """Have "a" sent again before the first try is carried out."""
    given_up(shop)
    shop.upload()
    until(lambda: len(shop.live()) == 3)


def work(shop):
    shop.reconciler.step()
    shop.deleter.step()


def test_a_copy_that_did_arrive_is_adopted_and_not_sent_again(shop):
    doubt(shop, "drop_after")
    shop.reconciler.step()
    copy = shop.copy("a")
    assert copy.status is CopyStatus.LIVE
    assert list(shop.live()) == [copy.file_uuid]
    assert shop.echo() == "proven", "finding it proves the echo"


def test_a_copy_that_was_answered_with_the_uuid_of_another_file_is_looked_for_at_once(
    shop, monkeypatch
):
    learn_the_echo(shop)
    taken = shop.copy("first").file_uuid
    upload = FilesClient.upload
    monkeypatch.setattr(
        FilesClient,
        "upload",
        lambda *args, **how: replace(upload(*args, **how), file_uuid=taken),
    )
    shop.drop("a", b"a")
    shop.upload()
    assert shop.copy("a").in_doubt
    shop.reconciler.step()
    copy = shop.copy("a")
    assert copy.status is CopyStatus.LIVE
    assert set(shop.live()) == {taken, copy.file_uuid}


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
    assert shop.copy("a").status is CopyStatus.LIVE
    assert shop.copy("a").token != token, "each request has a token of its own"
    assert len(shop.live()) == 2


@pytest.mark.long
@pytest.mark.row(44)
@pytest.mark.parametrize("seconds", [480, 3600, 86_400, 604_800])
def test_what_arrives_after_it_was_sent_again_is_found_by_a_late_look_and_retires(shop, seconds):
    given_up(shop)
    shop.upload()
    if seconds > 480:
        # The looks before found nothing.
        attempt = shop.store.read(attempts.every)[0]
        at = {3600: 1, 86_400: 2, 604_800: 3}[seconds]
        look_at = attempt.sent_at + attempts.LATE_LOOKS[at]
        shop.store.write(
            lambda db: db.conn.execute(
                "UPDATE unanswered SET looks = ?, look_at = ?", (at, look_at)
            )
        )
    until(lambda: len(shop.live()) == 3)
    work(shop)
    assert len(shop.live()) == 3, "not before it is due"
    shop.now += seconds
    work(shop)
    known = {shop.copy("first").file_uuid, shop.copies("a")[0].file_uuid}
    if seconds < 86_400:
        assert shop.live().keys() == known
    else:
        assert known < shop.live().keys(), "what is found so late is never deleted by syncd"
        assert shop.copies("a")[1].status is CopyStatus.RELEASED
    assert shop.store.read(attempts.every) == []


@pytest.mark.long
def test_what_arrives_while_nothing_of_its_file_is_live_is_its_copy(shop):
    given_up(shop)
    until(lambda: len(shop.live()) == 2)
    shop.now += 600
    work(shop)
    shop.upload()
    assert [copy.status for copy in shop.copies("a")] == [CopyStatus.LIVE]
    assert len(shop.live()) == 2, "it is not sent again"


def test_an_attempt_that_never_arrived_is_forgotten_after_a_week(shop):
    learn_the_echo(shop)
    doubt(shop, "drop_before")
    for seconds in (121, 480, 3001, 82_801, 518_401):
        assert seconds == 121 or len(shop.store.read(attempts.every)) == 1
        shop.now += seconds
        shop.reconciler.step()
        shop.upload()
    assert shop.store.read(attempts.every) == []
    assert shop.copy("a").status is CopyStatus.LIVE


@pytest.mark.long
@pytest.mark.row(44)
def test_what_is_late_is_found_after_everything_else_of_its_workspace_is_gone(shop):
    sent_twice(shop)
    for name in ("first", "a"):
        (shop.root / name).unlink()
        shop.notice(name, Seen.MISSING)
    shop.now += 61
    shop.deleter.step()
    until(lambda: len(shop.live()) == 1)
    shop.now += 600
    work(shop)
    assert shop.live() == {}


def upload_as(shop, name, content):
    """Have a colleague upload `content` under a name that the service shows for ours."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        source = UploadSource(fd=file.fileno(), size=len(content))
        return shop.client.upload(source, name=name, content_type="text/plain").file_uuid


@pytest.mark.long
@pytest.mark.row(63)
@pytest.mark.parametrize("content", [b"a", b"b", b"an edited version, nowhere else"])
@pytest.mark.parametrize("name", ["{}", "report about {}-final.pdf"])
def test_what_others_made_under_a_name_of_ours_is_never_touched(shop, name, content):
    learn_the_echo(shop)
    shop.drop("a", b"a")
    shop.upload()
    shown = shop.client.get(shop.copy("a").file_uuid).original_file_url
    theirs = upload_as(shop, name.format(shown), content)
    doubt(shop, "drop_before", "b", b"b")
    for seconds in (0, 121, 600, 3600, 86_400, 604_800):
        shop.now += seconds
        work(shop)
        shop.upload()
    assert len(shop.live()) == 4
    assert theirs in shop.live()
    assert theirs not in {copy.file_uuid for copy in shop.copies()}


@pytest.mark.row(63)
@pytest.mark.parametrize("content", [b"a", b"b", b"an edited version"])
def test_of_several_objects_with_the_token_of_a_doubt_the_oldest_is_the_copy(shop, content):
    learn_the_echo(shop)
    doubt(shop, "drop_after")
    ours = next(uuid for uuid in shop.live() if uuid != shop.copy("first").file_uuid)
    theirs = upload_as(shop, shop.client.get(ours).original_file_url, content)
    for seconds in (0, 121, 600, 86_400):
        shop.now += seconds
        work(shop)
    assert shop.copy("a").file_uuid == ours
    assert theirs in shop.live()


@pytest.mark.row(63)
def test_an_object_that_does_not_fit_is_not_the_copy_of_a_doubt(shop):
    """As where its own was removed: the size is another one, so it is somebody else's."""
    learn_the_echo(shop)
    doubt(shop, "drop_before")
    token = shop.copy("a").token
    theirs = upload_as(shop, f"a.{token}", b"of another size")
    shop.reconciler.step()
    assert shop.copy("a").in_doubt
    shop.now += 121
    work(shop)
    shop.upload()
    assert shop.copy("a").file_uuid != theirs
    assert len(shop.live()) == 3


@pytest.mark.row(64)
def test_a_file_with_a_sent_name_of_ours_is_a_file_like_any_other(shop):
    learn_the_echo(shop)
    shop.drop("a.txt", b"one")
    shop.upload()
    downloaded = shop.client.get(shop.copy("a.txt").file_uuid).original_file_url
    doubt(shop, "drop_after", downloaded, b"two, of its own content")
    work(shop)
    assert shop.copy(downloaded).status is CopyStatus.LIVE
    assert len(shop.live()) == 3


@pytest.mark.long
@pytest.mark.row(77)
def test_a_doubt_is_settled_while_others_upload_all_the_time(shop, monkeypatch):
    """Ten a page, in a workspace that is younger than what is looked for."""
    monkeypatch.setattr(shop.client, "_page_items", 20)
    learn_the_echo(shop)
    for number in range(30):
        upload_as(shop, f"theirs {number}", b"theirs")
    doubt(shop, "drop_before")
    listed, asked = shop.client.list, []

    def busy(**arguments):
        asked.append(arguments)
        for number in range(10):
            upload_as(shop, f"theirs {len(asked)} {number}", b"theirs")
        return listed(**arguments)

    monkeypatch.setattr(shop.client, "list", busy)
    for _ in range(5):
        shop.now += 31
        shop.reconciler.step()
    assert shop.copy("a").status is CopyStatus.PLANNED
    assert len(asked) < 150, "each look reads back to what it looks for"


@pytest.mark.long
@pytest.mark.row(85)
def test_a_listing_that_does_not_end_proves_no_absence(shop, monkeypatch):
    learn_the_echo(shop)
    doubt(shop, "drop_before")
    (known,) = shop.client.list(limit=1).items
    last, asked = [known], []

    def endless(**_):
        asked.append(1)
        following = replace(known, file_uuid=str(uuid.uuid4()))
        before, last[:] = last[0], [following]
        return FilePage(items=(before, following), count=2**62)

    monkeypatch.setattr(shop.client, "list", endless)
    shop.now += 500
    shop.reconciler.step()
    assert shop.copy("a").in_doubt
    assert len(asked) <= MOST_PAGES
    shop.reconciler.step()
    assert len(asked) <= MOST_PAGES, "it is not read again at once"


def test_a_video_found_in_doubt_is_followed_and_not_taken_for_done(shop):
    doubt(shop, "drop_after", "broken.mp4", b"\0\0\0\x10ftypisom cut off")
    shop.reconciler.step()
    assert shop.copy("broken.mp4").status is CopyStatus.PROCESSING


@pytest.mark.parametrize("echo", ["name", "none"])
def test_an_upload_that_is_retried_while_it_is_looked_for_is_sent(shop, monkeypatch, echo):
    if echo == "name":
        learn_the_echo(shop)
    doubt(shop, "drop_before")
    real, due_at = shop.client.list, []

    def retried(**how):
        """Have a person retry it before the listing is read."""
        copy = shop.copy("a")
        if copy.in_doubt:
            shop.store.write(shop.ledger.not_sent, copy.id, shop.now)
            due_at.append(shop.copy("a").due_at)
        return real(**how)

    monkeypatch.setattr(shop.client, "list", retried)
    for _ in range(3):
        shop.now += 200
        shop.reconciler.step()
    assert (shop.copy("a").status, [shop.copy("a").due_at]) == (CopyStatus.PLANNED, due_at)
    assert shop.holds() == []


@pytest.mark.parametrize("echo", ["none"])
def test_without_an_echo_nothing_is_sent_twice_and_the_hold_says_why(shop, echo):
    shop.drop("first", b"first")
    shop.upload()
    shop.reconciler.step()
    assert shop.echo() == "none"
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
        shop.store.write(shop.ledger.look_later, shop.copy(name), shop.now + seconds)
    assert shop.reconciler.step() == 20.0


def test_a_quiet_day_reads_no_listing(shop):
    learn_the_echo(shop)
    asked = len(shop.ask("requests"))
    for _ in range(20):
        shop.now += 3600
        shop.reconciler.step()
    assert len(shop.ask("requests")) == asked


@pytest.mark.parametrize("echo", ["none"])
def test_without_an_echo_a_create_in_doubt_is_repeated_because_it_left_no_content(shop, echo):
    shop.uploader._preparation.options = UploadOptions(workers=2)
    shop.drop("first", b"lets it be learned that nothing is echoed")
    shop.upload()
    shop.reconciler.step()
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
    shop.uploader._preparation.options = UploadOptions(workers=2, method="presigned")
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


@pytest.mark.long
def test_of_an_empty_record_and_a_whole_object_the_whole_one_is_the_copys_own(shop):
    """Each of another attempt: the record retires at a late look."""
    learn_the_echo(shop)
    shop.uploader._preparation.options = UploadOptions(workers=2, method="presigned")
    shop.faults({"match": "POST /v2/files", "times": 1, "action": {"commit_late": 0.3}})
    shop.drop("a", b"content")
    shop.upload()
    shop.now += 121
    shop.reconciler.step()
    assert shop.copy("a").status is CopyStatus.PLANNED
    until(lambda: [o for o in shop.ask("objects") if o["state"] == "reserved"])
    shop.uploader._preparation.options = UploadOptions(workers=2, method="direct")
    shop.faults({"match": UPLOAD, "times": 1, "action": "drop_after"})
    shop.upload()
    assert shop.copy("a").in_doubt
    work(shop)
    shop.now += 600
    work(shop)
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
    shop.deleter.clocks.steady = time.monotonic
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

    def read_listing(self, take, *, workspace_uuid, **arguments):
        self.read.append(workspace_uuid)
        if workspace_uuid == self._workspace:
            raise self._error
        return self._client.read_listing(take, workspace_uuid=workspace_uuid, **arguments)

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
    shop.reconciler._search.client = closed = Closed(shop.client, CLOSED, ERRORS[error])
    for _ in range(20):
        shop.reconciler.step()
        shop.now += 5
    assert [shop.copy(name).status for name in "bd"] == [CopyStatus.LIVE] * 2
    assert all(shop.copy(name).in_doubt for name in "ac")
    assert closed.read.count(CLOSED) <= 5, "twice a minute"


@pytest.mark.long
@pytest.mark.row(38)
@pytest.mark.parametrize("error", ERRORS)
def test_a_late_look_that_is_refused_is_no_loop_and_keeps_no_other_waiting(shop, error):
    sent_twice(shop)
    with_attempts = shop.store.read(attempts.every)[0]
    shop.store.write(
        lambda db: db.conn.execute(
            "INSERT INTO unanswered SELECT 'sy1-ffffffff-' || ?, copy_id, file_id, generation, ?, "
            "method, content_type, sha256, size, sent_at, looks, look_at FROM unanswered",
            ("0" * 28, CLOSED),
        )
    )
    shop.now = with_attempts.look_at
    shop.reconciler._search.client = closed = Closed(shop.client, CLOSED, ERRORS[error])
    for _ in range(100):
        shop.reconciler.step()
        shop.now += 5
    shop.deleter.step()
    assert len(shop.live()) == 2, "what arrived late retires"
    assert closed.read.count(CLOSED) == 1
