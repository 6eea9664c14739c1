"""The service's demands are obeyed, across restarts, and nothing is asked in a loop."""

import time

import pytest

from syncd.files_api import ForbiddenError, RateLimitedError, ServerError
from syncd.state.ledger import Ledger, recover
from syncd.state.lifecycle import CopyStatus
from syncd.state.manual_retry import Retrying, forget_backoff
from syncd.state.planner import Policy
from syncd.workers.gate import Gate
from syncd.workers.preparation import UploadOptions
from syncd.workers.reconciler import ReconcileOptions, Reconciler

UPLOAD = "POST /v2/files/-/uploads"
WORKSPACE = "11111111-1111-4111-8111-111111111111"


def limited(seconds):
    return RateLimitedError("slow", operation="upload", status=429, retry_after=seconds)


@pytest.mark.row(36)
def test_after_a_burst_each_upload_waits_its_turn(shop, monkeypatch):
    waits = []
    monkeypatch.setattr(shop.uploader._stop, "wait", waits.append)
    shop.gate.succeeded()
    shop.now += 1
    shop.gate.failed(limited(1.0))
    for number in range(3):
        shop.drop(f"f{number}", b"%d" % number)
    shop.now += 2
    shop.upload()
    assert len(shop.live()) == 3
    first, second, third = waits
    assert first == 0
    assert 0 < second < third


def restarted(shop):
    """Return the gate of the next process."""
    shop.store.write(lambda _: None)  # what was handed in without waiting is committed before this
    return Gate(store=shop.store, clock=shop.clock, monotonic=lambda: shop.now + 500.0)


def mutations(shop):
    return [r for r in shop.ask("requests") if r["method"] in ("POST", "PUT", "DELETE")]


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("asked", "least", "most"), [(30.0, 30, 30), (1e9, 3600, 3600), (0.1, 0.5, 1), (None, 0.5, 1)]
)
def test_what_the_service_asked_to_wait_outlives_the_process(shop, asked, least, most):
    shop.gate.failed(limited(asked))
    gate = restarted(shop)
    assert least <= gate.seconds_shut() <= most
    assert not gate.may_send()
    gate.try_now()
    if asked is not None:
        assert least <= gate.seconds_shut() <= most, "nobody cuts that short"
    shop.now += most + 0.001
    assert gate.may_send()


@pytest.mark.row(36)
def test_a_clock_that_was_set_back_makes_nobody_wait_for_days(shop):
    shop.gate.failed(limited(30.0))
    shop.store.write(lambda _: None)
    shop.now -= 86_400
    assert restarted(shop).seconds_shut() <= 3600


@pytest.mark.row(37)
def test_a_service_that_fails_five_times_is_probed_by_one_upload_at_a_time(shop):
    error = ServerError("no", operation="upload", status=500)
    for _ in range(5):
        shop.gate.failed(error)
    gate = restarted(shop)
    assert gate.tripped
    assert not gate.may_send()
    shop.now += 301
    for name in "abc":
        shop.drop(name, name.encode())
    shop.uploader.step()
    assert len(shop.uploader._queue) == 1
    shop.uploader.step()
    assert len(shop.uploader._queue) == 1
    shop.uploader.start()
    shop.uploader.stop(30)
    assert not shop.gate.tripped
    shop.upload()
    assert len(shop.live()) == 3


@pytest.mark.long
@pytest.mark.row(37)
@pytest.mark.parametrize("action", [{"status": 503}, {"commit_late": 0.0}, "drop_after"])
def test_a_burst_of_failures_before_and_after_the_commit_leaves_no_duplicate(shop, action):
    shop.prove_echo()
    shop.faults({"match": UPLOAD, "times": 3, "action": action})
    for name in "abc":
        shop.drop(name, name.encode())
    shop.upload()
    shop.faults()
    for _ in range(4):
        shop.now += 400
        shop.reconciler.step()
        shop.upload()
        shop.deleter.step()
    assert {copy.file_uuid for copy in shop.copies() if copy.status == "live"} == set(shop.live())
    assert len(shop.live()) == 3


@pytest.mark.row(38)
def test_a_refused_key_stops_every_mutation_and_no_404_is_believed(shop):
    for name in "ab":
        shop.drop(name, name.encode())
    shop.upload()
    shop.drop("a", b"changed")
    shop.upload()  # the first content of a retires
    shop.drop("c", b"c")
    before = len(mutations(shop))
    shop.faults({"match": "* /v2/files*", "action": {"status": 401}})
    for _ in range(3):
        shop.upload()
        shop.deleter.step()
        shop.poller.step()
        shop.reconciler.step()
    assert len(mutations(shop)) - before <= 1, "the one that learns it"
    assert ("sending", "key_refused") in shop.holds()
    assert not any(copy.status == "gone" for copy in shop.copies())
    shop.faults()
    shop.now += 31
    shop.reconciler.step()
    assert shop.holds() == []
    shop.now += 301
    shop.upload()
    assert shop.copy("c").status is CopyStatus.LIVE


@pytest.mark.row(38)
def test_a_refused_key_is_asked_for_twice_a_minute_however_many_hints_come(shop):
    shop.gate.failed(shop.refusal())
    shop.faults({"match": "* /v2/files*", "action": {"status": 401}})
    for _ in range(50):
        shop.reconciler.step()
        shop.now += 1
    assert len(shop.ask("requests")) == 2


@pytest.mark.row(38)
def test_a_closed_workspace_is_asked_for_twice_a_minute_however_many_hints_come(shop):
    shop.gate.workspaces.judge(None, refusal=ForbiddenError("no", operation="list", status=403))
    shop.faults({"match": "GET /v2/files", "action": {"status": 403}})
    for _ in range(50):
        shop.reconciler.step()
        shop.now += 1
    assert len(shop.ask("requests")) == 2


@pytest.mark.row(38)
def test_a_closed_default_workspace_closes_itself_alone_and_heals_by_itself(shop):
    shop.faults(
        {"match": UPLOAD, "times": 1, "action": {"status": 403}},
        {"match": "GET /v2/files", "times": 1, "action": {"status": 403}},
    )
    shop.drop("a", b"a")
    shop.upload()
    shop.reconciler.step()
    assert shop.holds() == [("sending", "workspace_forbidden")]
    assert shop.gate.may_send(), "to others"
    shop.now += 301
    before = len(mutations(shop))
    shop.upload()
    assert len(mutations(shop)) == before
    assert shop.copy("a").status is CopyStatus.PLANNED, "no fault of the file's"
    shop.reconciler.step()
    assert shop.holds() == []
    shop.upload()
    assert shop.copy("a").status is CopyStatus.LIVE


@pytest.mark.row(38)
def test_a_closed_workspace_outlives_the_process_until_an_answer_says_otherwise(shop):
    shop.gate.workspaces.judge(
        WORKSPACE, refusal=ForbiddenError("no", operation="list", status=403)
    )
    gate = restarted(shop)
    assert gate.workspaces.closed == {WORKSPACE}
    assert gate.may_send()
    gate.workspaces.judge(WORKSPACE, refusal=None)
    assert (gate.workspaces.closed, shop.holds()) == (frozenset(), [])


def test_a_used_up_quota_rests_sending_for_five_minutes(shop):
    shop.faults({"match": UPLOAD, "times": 1, "action": {"status": 402}})
    shop.drop("a", b"a")
    shop.upload()
    assert shop.holds() == [("sending", "quota")]
    before = len(mutations(shop))
    shop.now += 299
    shop.upload()
    assert len(mutations(shop)) == before
    shop.now += 2
    shop.upload()
    assert shop.copy("a").status is CopyStatus.LIVE
    assert shop.holds() == []


@pytest.mark.row(40)
@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refusal_of_the_content_is_final_until_it_changes(shop, status):
    refusal = {"match": UPLOAD, "times": 1, "action": {"status": status}}
    shop.faults(refusal)
    shop.drop("a", b"a")
    shop.upload()
    shop.now += 1
    shop.drop("b", b"b")
    shop.upload()
    shop.faults(refusal)
    for _ in range(5):
        shop.now += 10_000
        shop.upload()
        shop.reconciler.step()
    assert shop.copy("a").status is CopyStatus.FAILED
    assert len(mutations(shop)) == 3
    shop.faults()
    shop.drop("a", b"changed")
    shop.upload()
    assert shop.copy("a").status is CopyStatus.LIVE


@pytest.mark.row(40)
def test_a_conflict_is_looked_up_and_not_repeated_in_a_loop(shop):
    shop.prove_echo()
    shop.faults({"match": UPLOAD, "action": {"status": 409}})
    shop.drop("a", b"a")
    for _ in range(3):
        shop.upload()
    assert shop.copy("a").in_doubt
    assert len(mutations(shop)) == 1
    shop.faults()
    shop.now += 121
    shop.reconciler.step()
    shop.upload()
    assert shop.copy("a").status is CopyStatus.LIVE


# Files over which syncd ended


def crash(shop, name):
    """End abruptly while `name` is sent, and start anew."""
    file, now = shop.file(name), shop.now
    shop.store.write(
        lambda db: db.conn.execute(
            "UPDATE copies SET status = 'sending', in_flight = 1, sent_at = ? "
            "WHERE file_id = ? AND status IN ('planned', 'sending')",
            (now, file.id),
        )
    )
    shop.store.write(lambda db: recover(db, now))


@pytest.fixture
def poisoned(shop):
    """A file over which syncd has ended three times, and one beside it."""
    shop.prove_echo()
    shop.faults({"match": UPLOAD, "times": 1, "action": "drop_before"})
    shop.drop("bad", b"bad")
    shop.upload()
    shop.faults()
    for _ in range(3):
        crash(shop, "bad")
    shop.now += 121
    shop.reconciler.step()
    shop.drop("good", b"good")
    return shop


@pytest.mark.row(49)
@pytest.mark.parametrize("is_pass", [False, True])
def test_a_file_over_which_syncd_ended_three_times_is_left_alone_for_an_hour(poisoned, is_pass):
    shop = poisoned
    if is_pass:
        shop.store.write(lambda db: forget_backoff(db, shop.now))
    shop.upload()
    assert (shop.copy("bad").status, shop.copy("good").status) == ("planned", "live")
    shop.now += 3601
    shop.upload()
    assert shop.copy("bad").status is CopyStatus.LIVE
    assert shop.file("bad").crashes == 0


@pytest.mark.row(49)
def test_a_person_ends_the_rest(poisoned):
    shop = poisoned
    retrying = Retrying(policies=shop.policies)
    assert shop.store.write(lambda db: retrying.files(db, [("f", b"bad")], shop.now)) == 1
    shop.upload()
    assert shop.copy("bad").status is CopyStatus.LIVE


@pytest.mark.row(49)
def test_a_presigned_file_is_left_alone_as_well(shop):
    shop.uploader._preparation.options = UploadOptions(workers=2, method="presigned")
    shop.faults({"match": "PUT /_storage/*", "times": 1, "action": "drop_after"})
    shop.drop("bad", b"bad")
    shop.upload()
    for _ in range(3):
        crash(shop, "bad")
    copy = shop.copy("bad")
    shop.client.delete(copy.file_uuid)  # as if its content had not arrived
    shop.reconciler.step()
    shop.upload()
    assert len(shop.copies("bad")) == 1
    shop.now += 3601
    shop.upload()
    assert [copy.status for copy in shop.copies("bad")][-1] == "live"


@pytest.mark.row(49)
def test_suspects_go_up_one_at_a_time(shop):
    for name in "abc":
        shop.drop(name, name.encode())
    shop.store.write(lambda db: db.conn.execute("UPDATE files SET crashes = 1"))
    shop.drop("d", b"d")
    shop.uploader.step()
    assert sorted(file.crashes for file in shop.uploader._handed_out.files.values()) == [0, 1]
    shop.uploader.start()
    shop.uploader.stop(30)


# Looks that outlive the process


def reconciler_of(shop):
    return Reconciler(
        store=shop.store,
        ledger=Ledger(policies={"f": Policy()}, instance=shop.store.instance),
        client=shop.client,
        gate=shop.gate,
        organization_check=shop.reconciler._gate_probe.organization_check,
        options=ReconcileOptions(),
        clock=shop.clock,
    )


@pytest.mark.long
@pytest.mark.row(44)
def test_a_request_that_was_given_up_is_looked_for_though_syncd_restarts(shop):
    shop.prove_echo()
    shop.faults({"match": UPLOAD, "times": 1, "action": {"commit_late": 0.3}})
    shop.drop("a", b"a")
    shop.upload()
    shop.faults()
    shop.now += 121
    shop.reconciler.step()
    shop.upload()
    while len(shop.live()) < 2:
        time.sleep(0.02)
    again = reconciler_of(shop)
    again.step()  # it sees that the state was not put back
    asked = len(shop.ask("requests"))
    again.step()
    assert len(shop.ask("requests")) == asked, "not yet"
    shop.now += 601
    again.step()
    shop.deleter.step()
    assert sorted(o["state"] for o in shop.ask("objects")) == ["deleted", "live"]
    asked = len(shop.ask("requests"))
    for _ in range(20):
        shop.now += 3600
        again.step()
    assert len(shop.ask("requests")) == asked
