"""A broken service fails no backlog, and a bad file holds no other."""

import pytest

from syncd.files_api import RateLimitedError
from syncd.state import copies
from syncd.state.lifecycle import CopyStatus
from syncd.workers.preparation import UploadOptions

UPLOAD, PUT = "POST /v2/files/-/uploads", "PUT /_storage/*"


def presigned(shop):
    shop.uploader._preparation.options = UploadOptions(workers=2, method="presigned")


def rounds(shop, count, seconds=400.0):
    for _ in range(count):
        shop.upload()
        shop.reconciler.step()
        shop.deleter.step()
        shop.now += seconds


def sent(shop, method="POST"):
    return sum(r["method"] == method for r in shop.ask("requests"))


@pytest.mark.long
@pytest.mark.row(73)
@pytest.mark.parametrize("status", [400, 404, 405, 410, 413, 422, 451])
def test_a_gateway_that_refuses_a_few_files_for_ten_minutes_fails_none_for_good(shop, status):
    shop.drop("before", b"before")
    shop.upload()
    shop.faults({"match": UPLOAD, "action": {"status": status}})
    for number in range(5):
        shop.drop(f"f{number}", b"%d" % number)
    rounds(shop, 10, 60.0)
    assert {shop.copy(f"f{n}").status for n in range(5)} == {CopyStatus.PLANNED}
    shop.faults()
    rounds(shop, 3, 3600.0)
    assert len(shop.live()) == 6


@pytest.mark.long
@pytest.mark.row(73)
def test_ten_files_refused_alike_are_held_and_one_at_a_time_probes(shop):
    shop.drop("before", b"before")
    shop.upload()
    shop.faults({"match": UPLOAD, "action": {"status": 422}})
    for number in range(30):
        shop.drop(f"f{number}", b"%d" % number)
    shop.upload()
    assert shop.holds() == [("sending", "refused")]
    (hold,) = shop.store.read(lambda db: db.conn.execute("SELECT message FROM holds").fetchall())
    assert "422" in hold[0]
    assert "/v2/files/-/uploads" in hold[0]
    assert not any(copy.status is CopyStatus.FAILED for copy in shop.copies())
    before = sent(shop)
    for _ in range(20):
        shop.now += 60
        shop.upload()
    assert sent(shop) - before <= 10, "the pauses grow"
    shop.faults()
    shop.now += 301
    shop.upload()
    shop.upload()
    assert shop.holds() == []
    assert len(shop.live()) == 31


@pytest.mark.row(73)
def test_a_hold_for_refusals_outlives_the_process(shop):
    from syncd.workers.gate import Gate

    shop.faults({"match": UPLOAD, "action": {"status": 404}})
    for number in range(12):
        shop.drop(f"f{number}", b"%d" % number)
    shop.upload()
    again = Gate(store=shop.store, clock=shop.clock, monotonic=shop.clock)
    assert again.refusals.held == {None}
    again.sent(None, presigned=False)
    assert shop.holds() == []


@pytest.mark.long
@pytest.mark.row(40)
def test_one_bad_file_holds_no_other_and_is_tried_again_daily(shop):
    page = {"match": UPLOAD, "times": 1, "action": {"status": 404}}
    shop.drop("bad", b"bad")
    for number in range(12):
        if shop.file("bad").due_at or shop.copy("bad").due_at <= shop.now:
            shop.faults(page)
        shop.upload()
        shop.now += 1
        shop.drop(f"good{number}", b"%d" % number)
        shop.faults()
        # Without the bad one: it waits.
        shop.upload()
        assert shop.copy(f"good{number}").status is CopyStatus.LIVE
        shop.now += 1200
    assert shop.copy("bad").status is CopyStatus.FAILED
    assert shop.copy("bad").refusals >= 5
    shop.now += 86_401
    shop.upload()
    assert shop.copy("bad").status is CopyStatus.LIVE


@pytest.mark.long
@pytest.mark.row(72)
@pytest.mark.parametrize(
    "action", [{"status": 500}, {"status": 404}, {"status": 400}, "drop_before"]
)
def test_a_storage_that_does_not_work_is_asked_twelve_times_in_ten_minutes_at_most(shop, action):
    presigned(shop)
    shop.faults({"match": PUT, "action": action})
    shop.drop("a", b"a")
    for _ in range(600):
        shop.uploader.step()
        shop.upload() if shop.uploader.busy else None
        shop.reconciler.step()
        shop.now += 1
    assert 5 <= sent(shop, "PUT") <= 12
    assert shop.copies("a")[0].attempts == sent(shop, "PUT")
    assert shop.copies("a")[0].error_message, "why tells it"
    shop.faults()
    shop.now += 3600
    rounds(shop, 3)
    assert len(shop.live()) == 1


@pytest.mark.row(72)
def test_new_content_begins_with_no_tries(shop):
    presigned(shop)
    shop.faults({"match": PUT, "action": {"status": 404}})
    shop.drop("a", b"a")
    rounds(shop, 4)
    assert shop.copies("a")[0].attempts == 4
    shop.drop("a", b"new content")
    shop.upload()
    newest = shop.store.read(lambda db: copies.where(db, "status = 'planned'"))
    assert [copy.attempts for copy in newest] == [1]


def test_the_same_content_keeps_its_tries_when_its_file_is_touched(shop):
    import os

    presigned(shop)
    shop.faults({"match": PUT, "action": {"status": 404}})
    shop.drop("a", b"a")
    rounds(shop, 3)
    due_at = shop.copies("a")[0].due_at
    os.utime(shop.root / "a", (5, 5))
    shop.notice("a")
    shop.now = due_at - 1
    shop.upload()
    assert (shop.copies("a")[0].attempts, shop.copies("a")[0].due_at) == (3, due_at)


@pytest.mark.row(89)
def test_a_storage_that_asks_to_wait_keeps_the_record_that_was_reserved(shop, monkeypatch):
    presigned(shop)
    shop.faults({"match": PUT, "times": 2, "action": {"status": 429, "retry_after": 2}})

    def wait(seconds):
        shop.now += seconds
        return False

    monkeypatch.setattr(shop.uploader._sending.stop, "wait", wait)
    shop.drop("a", b"a")
    shop.upload()
    assert [o["state"] for o in shop.ask("objects")] == ["live"]
    assert sent(shop, "PUT") == 3
    assert shop.now == 1_000_004.0, "neither more nor less than it asked for"


@pytest.mark.row(89)
def test_a_burst_of_requests_to_wait_is_one_pause_as_long_as_asked(shop):
    gate, limited = shop.gate, RateLimitedError("slow", operation="upload", retry_after=1.0)
    before = gate.rests
    for _ in range(8):
        gate.failed(limited, rests=before)
    assert gate.seconds_shut() == pytest.approx(1.0)
    shop.now += 0.5
    gate.failed(limited, rests=before)
    assert gate.seconds_shut() == pytest.approx(0.5), "an answer to what was asked before"
    shop.now += 0.6
    assert gate.may_send()
    gate.failed(limited, rests=gate.rests)
    assert gate.seconds_shut() == pytest.approx(1.0), "each pause as asked, however many came"


@pytest.mark.row(89)
def test_a_request_to_wait_is_no_try_of_the_file(shop):
    shop.faults({"match": UPLOAD, "times": 6, "action": {"status": 429, "retry_after": 1}})
    shop.drop("a", b"a")
    for _ in range(7):
        shop.upload()
        shop.now += 1
    assert len(shop.live()) == 1


@pytest.mark.row(37)
def test_a_service_that_failed_is_asked_again_though_nothing_is_left_to_send(shop):
    from syncd.files_api import NotSentError

    for _ in range(6):
        shop.gate.failed(NotSentError("connection refused", operation="upload"))
    assert shop.gate.state == "unreachable"
    assert "connection refused" in shop.gate.cause
    for _ in range(12):
        shop.now += 30
        shop.reconciler.step()
    assert (shop.gate.state, shop.gate.cause) == ("ok", "")


@pytest.mark.row(79)
def test_a_closed_workspace_that_nobody_uses_any_more_is_held_no_more(shop):
    from syncd.files_api import ForbiddenError

    shop.gate.workspaces.judge("old", refusal=ForbiddenError("no", operation="list", status=403))
    assert shop.holds() == [("sending", "workspace_forbidden")]
    shop.faults({"match": "GET /v2/files", "action": {"status": 403}})
    shop.reconciler.step()
    assert shop.holds() == []


@pytest.mark.long
@pytest.mark.row(37)
def test_a_probe_waits_for_no_long_transfer_that_is_under_way(shop):
    import threading

    from syncd.files_api import ServerError

    shop.drop("long", b"x" * 100)
    real, go, began = shop.uploader._sending.send, threading.Event(), threading.Event()

    def slow(client, ready, *more):
        if ready.file.path == b"long":
            began.set()
            go.wait(30)
        return real(client, ready, *more)

    shop.uploader._sending.send = slow
    shop.uploader.start()
    try:
        shop.uploader.step()
        assert began.wait(10)
        for _ in range(5):
            shop.gate.failed(ServerError("bad gateway", operation="upload", status=502))
        for number in range(10):
            shop.drop(f"small{number}", b"%d" % number)
        shop.now += 301
        for _ in range(200):
            shop.uploader.step()
            if len(shop.live()) == 10:
                break
            began.wait(0.05) and go.wait(0.05)
        assert len(shop.live()) == 10
        assert shop.gate.state == "ok"
    finally:
        go.set()
        shop.uploader.stop(10)


@pytest.mark.long
def test_one_file_that_the_storage_refuses_is_no_trouble_of_the_storage(shop):
    presigned(shop)
    shop.faults({"match": PUT, "action": {"status": 403}})
    shop.drop("a", b"a")
    rounds(shop, 8)
    assert shop.gate.state == "ok"
    shop.drop("b", b"b")
    rounds(shop, 2)
    assert shop.gate.state == "unreachable"
    assert "403" in shop.gate.cause
    shop.faults()
    rounds(shop, 4, 3600.0)
    assert shop.gate.state == "ok"
    assert len(shop.live()) == 2


@pytest.mark.row(79)
def test_a_delete_that_is_refused_is_left_to_the_next_pass_after_five_tries(shop):
    from syncd.state import due
    from syncd.state.observations import Seen

    def waiting():
        counts = shop.store.read(
            lambda db: due.pass_counts(db, now=shop.now, attempts=5, deletions=True)
        )
        return (counts.waiting, counts.failed)

    shop.drop("a", b"a")
    shop.upload()
    (shop.root / "a").unlink()
    shop.notice("a", Seen.MISSING)
    shop.faults({"match": "DELETE /v2/files/*", "action": {"status": 405}})
    shop.now += 61
    for _ in range(4):
        shop.deleter.step()
        assert waiting() == (1, 0)
        shop.now += 30
    shop.deleter.step()
    assert waiting() == (0, 1)
    shop.faults()
    shop.now += 301
    shop.deleter.step()
    assert shop.live() == {}
