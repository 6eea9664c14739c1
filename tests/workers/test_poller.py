import time
from types import SimpleNamespace

import pytest

from syncd.emulator.video import make_video
from syncd.files_api import NotFoundError, ProcessingStatus, RateLimitedError, ServerError
from syncd.state.lifecycle import CopyStatus
from syncd.state.observations import Seen


@pytest.fixture
def video(tmp_path):
    make_video(tmp_path / "v.mp4", seconds=1, fps=8, size=(64, 48))
    return (tmp_path / "v.mp4").read_bytes()


def process(shop, name):
    """Let the service process, and the poller look, until the copy's status changes."""
    deadline = time.monotonic() + 10
    while shop.copy(name).status is CopyStatus.PROCESSING and time.monotonic() < deadline:
        shop.now += 60
        shop.poller.step()
        time.sleep(0.02)


def test_a_video_is_followed_until_it_is_processed_and_its_facts_are_recorded(shop, video):
    shop.drop("v.mp4", video)
    shop.upload()
    assert shop.copy("v.mp4").status is CopyStatus.PROCESSING
    process(shop, "v.mp4")
    copy = shop.copy("v.mp4")
    assert (copy.status, copy.frame_count) == (CopyStatus.LIVE, 8)
    assert '"fps": 8' in copy.video_metadata


def test_a_broken_video_is_failed_with_the_services_words_and_its_object_stays(shop):
    shop.drop("v.mp4", b"\0\0\0\x10ftypisom cut off")
    shop.upload()
    process(shop, "v.mp4")
    copy = shop.copy("v.mp4")
    assert copy.status is CopyStatus.FAILED
    assert "cannot be read" in copy.error_message
    assert len(shop.live()) == 1


def test_looks_come_at_growing_intervals(shop, video):
    shop.faults({"match": "GET /v2/files/*/status", "action": {"status": 503}})
    shop.drop("v.mp4", video)
    shop.upload()
    waits = []
    for _ in range(6):
        shop.now = shop.copy("v.mp4").due_at
        shop.poller._look(shop.copy("v.mp4"))
        waits.append(shop.copy("v.mp4").due_at - shop.now)
    assert waits[-1] > 2 * waits[0]
    assert max(waits) <= 300


def test_a_404_is_believed_only_the_second_time_and_only_with_a_good_key(shop, video):
    shop.drop("v.mp4", video)
    shop.upload()
    shop.faults({"match": "GET /v2/files/*/status", "action": {"status": 404}})
    for expected in (CopyStatus.PROCESSING, CopyStatus.GONE):
        shop.now = shop.copies("v.mp4")[0].due_at
        shop.poller.step()
        assert shop.copies("v.mp4")[0].status is expected
    assert shop.holds() == [("sending", "remote_gone")], "it is held, and not sent again"


@pytest.mark.row(39)
def test_a_404_of_a_gateway_is_believed_by_nobody(shop, video, monkeypatch):
    shop.drop("v.mp4", video)
    shop.upload()
    page = NotFoundError("no such page", operation="get_status", status=404)

    def answer(*_):
        raise page

    monkeypatch.setattr(shop.client, "get_status", answer)
    for _ in range(4):
        shop.now = shop.copy("v.mp4").due_at
        shop.poller.step()
    assert shop.copy("v.mp4").status is CopyStatus.PROCESSING
    # The service itself has to say it twice.
    page.code = "files.not_found"
    for expected in (CopyStatus.PROCESSING, CopyStatus.GONE):
        shop.now = shop.copies("v.mp4")[0].due_at
        shop.poller.step()
        assert shop.copies("v.mp4")[0].status is expected


def test_a_video_that_changed_meanwhile_goes_live_and_is_superseded(shop, video):
    shop.drop("v.mp4", video)
    shop.upload()
    shop.drop("v.mp4", b"")
    process(shop, "v.mp4")
    assert shop.copies("v.mp4")[0].status is CopyStatus.LIVE


class Answering:
    """A client that says of each video what it is told, and else what the real one says."""

    def __init__(self, client, **said):
        self._client = client
        self.__dict__ |= said

    def __getattr__(self, name):
        return getattr(self._client, name)


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_look_leaves_a_video_alone_that_retired_while_it_was_asked_for(shop, is_answered):
    shop.drop("v.mp4", b"v")
    shop.upload()
    assert shop.copy("v.mp4").status is CopyStatus.PROCESSING
    retired = []

    def get_status(file_uuid):
        (shop.root / "v.mp4").unlink()
        file = shop.notice("v.mp4", Seen.MISSING)
        shop.now = file.due_at
        shop.store.write(shop.deletions.confirm_missing, [file.id], shop.now)
        retired.append(shop.copy("v.mp4"))
        if not is_answered:
            raise ServerError("no answer", operation="get_status", status=503)
        return ProcessingStatus(file_uuid=file_uuid, processing_status="processing")

    shop.poller.client = Answering(shop.client, get_status=get_status)
    shop.poller.look(shop.copy("v.mp4"))
    assert retired == [shop.copy("v.mp4")]
    assert (retired[0].status, retired[0].due_at) == (CopyStatus.RETIRING, shop.now)


@pytest.mark.long
@pytest.mark.row(35)
@pytest.mark.parametrize("count", [10**30, -1, True, 1.5, "8"])
def test_a_number_of_frames_that_is_none_is_asked_for_elsewhere(shop, video, count):
    shop.drop("v.mp4", video)
    shop.upload()
    detail = SimpleNamespace(video_metadata={"frame_count": count}, remote_file_path=None)
    shop.poller.client = Answering(shop.client, get=lambda _: detail)
    process(shop, "v.mp4")
    copy = shop.copy("v.mp4")
    assert (copy.status, copy.frame_count) == (CopyStatus.LIVE, 8)


@pytest.mark.long
@pytest.mark.row(49)
def test_a_video_that_fails_in_any_way_keeps_no_other_waiting(shop, video):
    for name in ("bad.mp4", "good.mp4"):
        shop.drop(name, video)
        shop.upload()
        shop.now += 1
    bad = shop.copy("bad.mp4").file_uuid

    def get_status(file_uuid):
        if file_uuid == bad:
            raise MemoryError
        return shop.client.get_status(file_uuid)

    shop.poller.client = Answering(shop.client, get_status=get_status)
    process(shop, "good.mp4")
    assert shop.copy("good.mp4").status is CopyStatus.LIVE
    copy = shop.copy("bad.mp4")
    assert (copy.status, copy.due_at > shop.now) == (CopyStatus.PROCESSING, True)


def test_the_service_is_left_alone_when_it_asks_for_it_while_frames_are_counted(shop):
    def refuse(_):
        raise RateLimitedError("slow down", operation="get_frames", status=429, retry_after=40)

    shop.drop("broken.mp4", b"\0\0\0\x10ftypisom cut off")
    shop.upload()
    shop.poller.client = SimpleNamespace(
        get_status=lambda uuid: ProcessingStatus(file_uuid=uuid, processing_status="completed"),
        get=lambda _: SimpleNamespace(video_metadata=None, remote_file_path=None),
        get_frames=refuse,
    )
    shop.now += 3
    shop.poller.step()
    assert shop.copy("broken.mp4").status is CopyStatus.LIVE
    assert shop.gate.seconds_shut() == 40
