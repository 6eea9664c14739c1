"""What the service said of one request holds for all, and outlives the process."""

import pytest

from syncd.files_api import ForbiddenError, NotSentError, RateLimitedError, ServerError
from syncd.workers.gate import TRIPPED_AFTER, Gate

UPLOAD = "POST /v2/files/-/uploads"
SHUT = "44444444-4444-4444-8444-444444444444"


def gate(shop, *, monotonic=None):
    return Gate(store=shop.store, clock=shop.clock, monotonic=monotonic or shop.clock)


def asked(seconds, status=429):
    kind = RateLimitedError if status == 429 else ServerError
    return kind("wait", operation="upload", status=status, retry_after=seconds)


def settled(shop):
    """Wait until what was handed in without waiting is written."""
    shop.store.write(lambda db: None)


@pytest.mark.row(36)
@pytest.mark.parametrize(
    ("retry_after", "waits"), [(30.0, 30.0), (0.0, 1.0), (1e9, 3600.0), (3600.0, 3600.0)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_request_to_wait_outlives_the_process(shop, status, retry_after, waits):
    first = gate(shop)
    first.failed(asked(retry_after, status))
    settled(shop)
    # Another boot: its monotonic clock begins elsewhere.
    again = gate(shop, monotonic=lambda: shop.now - 999_000)
    assert again.seconds_shut() == pytest.approx(waits, rel=0.6, abs=1.0)
    assert not again.may_send()


@pytest.mark.row(36)
def test_trying_now_never_cuts_short_what_the_service_asked_for(shop):
    ours = gate(shop)
    ours.failed(asked(600.0))
    ours.try_now()
    assert ours.seconds_shut() >= 600
    shop.now += 601
    assert ours.may_send()


@pytest.mark.row(36)
def test_being_told_to_wait_again_and_again_makes_the_waits_longer(shop):
    ours = gate(shop)
    waits = []
    for _ in range(8):
        ours.failed(asked(None))
        waits.append(ours.seconds_shut())
        shop.now += waits[-1]
    assert waits[-1] > 10 * waits[0]


@pytest.mark.row(16)
def test_a_clock_that_was_set_meanwhile_makes_nobody_wait_for_days(shop):
    gate(shop).failed(asked(60.0))
    settled(shop)
    shop.now -= 10 * 86_400
    assert gate(shop).seconds_shut() <= 3600


@pytest.mark.row(37)
def test_a_service_that_failed_is_still_unreachable_after_a_restart(shop):
    ours = gate(shop)
    for _ in range(TRIPPED_AFTER + 3):
        ours.failed(NotSentError("no", operation="upload"))
    settled(shop)
    again = gate(shop)
    assert (again.state, again.may_send()) == ("unreachable", False)


@pytest.mark.row(37)
def test_while_requests_fail_one_upload_at_a_time_shows_whether_the_next_would_not(shop):
    for number in range(20):
        shop.drop(f"f{number}", b"%d" % number)
    shop.faults({"match": UPLOAD, "times": 1000, "action": {"status": 500}})
    for _ in range(TRIPPED_AFTER):
        shop.gate.failed(ServerError("no", operation="upload", status=500))
    shop.now += 400
    before = len(shop.ask("requests"))
    shop.upload()
    assert len(shop.ask("requests")) == before + 1
    shop.faults()
    shop.now += 400
    shop.upload()
    assert shop.gate.state == "ok"
    shop.upload()
    assert len(shop.live()) >= 18


@pytest.mark.row(38)
def test_a_workspace_that_the_key_may_not_use_is_held_for_itself_and_heals_by_itself(shop):
    shop.gate.forbidden(SHUT)
    refusal = ForbiddenError("no", operation="list", status=403)
    real, shop.reconciler._client = shop.reconciler._client, Closed(shop.client, SHUT, refusal)
    shop.reconciler.step()
    assert shop.holds() == [("sending", "workspace_forbidden")]
    assert shop.gate.may_send(), "to others"
    assert shop.gate.closed == gate(shop).closed == {SHUT}, "it outlives the process"
    shop.reconciler._client = real
    shop.now += 60
    shop.reconciler.step()
    assert shop.gate.closed == frozenset()
    assert shop.holds() == []


class Closed:
    """A client to which one workspace is closed."""

    def __init__(self, client, workspace, refusal):
        self._client, self._workspace, self._refusal = client, workspace, refusal

    def list(self, *, workspace_uuid=None, limit=None):
        if workspace_uuid == self._workspace:
            raise self._refusal
        return self._client.list(workspace_uuid=workspace_uuid, limit=limit)

    def __getattr__(self, name):
        return getattr(self._client, name)


@pytest.mark.row(38)
def test_a_forbidden_upload_where_the_workspace_is_open_is_that_files_alone(shop):
    shop.faults({"match": UPLOAD, "times": 1, "action": {"status": 403}})
    shop.drop("a", b"a")
    shop.upload()
    shop.reconciler.step()
    assert shop.holds() == []
    shop.now += 400
    shop.upload()
    assert len(shop.live()) == 1


@pytest.mark.row(40)
def test_a_conflict_is_looked_up_before_anything_is_sent_again(shop):
    shop.drop("first", b"first")
    shop.upload()
    shop.reconciler.step()
    shop.faults({"match": UPLOAD, "times": 1, "action": {"status": 409}})
    shop.drop("a", b"a")
    shop.upload()
    assert shop.copy("a").in_doubt
    shop.now += 121
    shop.reconciler.step()
    shop.upload()
    assert len(shop.live()) == 2
