"""An answer to one request holds for all, and outlives the process."""

from types import SimpleNamespace

import pytest

from syncd.components import settle_changes
from syncd.exceptions import StateWriteError
from syncd.files_api import (
    AbortedInDoubt,
    AbortedUnsent,
    BadRequestError,
    ForbiddenError,
    NotSentError,
    QuotaError,
    RateLimitedError,
    ServerError,
    UnauthorizedError,
)
from syncd.state import holds
from syncd.workers.gate import Gate
from syncd.workers.gate_holds import QUOTA_REST_SECONDS
from syncd.workers.probe import TRIPPED_AFTER
from syncd.workers.receipts import Receipts
from syncd.workers.refusals import ALIKE

UPLOAD = "POST /v2/files/-/uploads"


def gate(shop, *, monotonic=None):
    return Gate(store=shop.store, clock=shop.clock, monotonic=monotonic or shop.clock)


def asked(seconds, status=429):
    kind = RateLimitedError if status == 429 else ServerError
    return kind("wait", operation="upload", status=status, retry_after=seconds)


def settled(shop):
    """Wait until what was handed in without waiting is written."""
    shop.store.write(lambda db: None)


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


@pytest.mark.row(37)
def test_a_service_that_failed_is_still_unreachable_after_a_restart(shop):
    ours = gate(shop)
    for _ in range(TRIPPED_AFTER + 3):
        ours.failed(NotSentError("no", operation="upload"))
    settled(shop)
    again = gate(shop)
    assert (again.state, again.may_send()) == ("unreachable", False)


@pytest.mark.row(46)
def test_calls_cut_short_by_the_stop_count_for_nothing(shop):
    ours = gate(shop)
    for kind in (AbortedUnsent, AbortedInDoubt) * TRIPPED_AFTER:
        with pytest.raises(kind):
            ours.failed(kind("stopped", operation="upload"))
    settled(shop)
    assert ours.may_send()
    assert gate(shop).state == "unknown"


@pytest.mark.row(26)
def test_a_fact_that_cannot_be_read_is_learnt_anew_and_stops_nothing(shop):
    for kept in ("", "x", "[]", '{"until": 1}', "\x00"):
        for fact in ("rest", "clock", "echo direct", "uploader"):
            shop.store.set_fact(fact, kept)
        assert gate(shop).may_send()
        assert shop.echo() == "unknown"
        shop.deleter.clocks._seen = None
        shop.deleter.step()


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


@pytest.mark.row(79)
def test_a_forbidden_workspace_that_no_folder_uses_any_more_holds_nothing_up(shop):
    refusal = ForbiddenError("no", operation="list", status=403)
    shop.drop("a", b"a")
    file = shop.file("a")
    for workspace in ("another", None):
        before = gate(shop)
        before.workspaces.judge(workspace, refusal=refusal)
        for number in range(ALIKE):
            before.refusals.refused(workspace, file.id + number, refusal, shop.ledger)
    restarted = gate(shop)
    assert restarted.refusals.held == {"another", None}
    parts = SimpleNamespace(store=shop.store, policies=shop.policies, gate=restarted, hooks=[])
    parts.watch = SimpleNamespace(folders={})
    parts.receipts = Receipts(store=shop.store, folders={}, clock=shop.clock)
    settle_changes(parts, removed_too=True)
    assert restarted.workspaces.closed == {None}, "one that a folder uses is still forbidden"
    assert restarted.refusals.held == {None}
    assert sorted(shop.holds()) == [("sending", "refused"), ("sending", "workspace_forbidden")]


@pytest.mark.row(73)
def test_a_listing_that_something_before_the_service_refuses_shows_no_service(shop):
    ours = gate(shop)
    for _ in range(TRIPPED_AFTER):
        ours.failed(BadRequestError("a page", operation="list", status=400))
    assert (ours.state, ours.cause) == ("unreachable", "a page (status 400)")
    ours.failed(BadRequestError("no", operation="list", status=400, code="request.invalid"))
    assert ours.state != "unreachable"


def test_a_refused_key_says_where_to_put_another(shop):
    ours = Gate(
        store=shop.store, clock=shop.clock, monotonic=shop.clock, key_remedy="put it into X"
    )
    ours.failed(UnauthorizedError("no such key", operation="list", status=401))
    (hold,) = shop.store.read(holds.open_holds)
    assert hold.commands[0] == "put it into X"
    assert hold.message == "the Files API refuses the key: no such key (status 401)"


@pytest.mark.parametrize(
    ("code", "said"),
    [("local.certificate", "cannot be used until this is mended"), ("local.connect", "waiting")],
)
def test_what_does_not_mend_itself_is_not_said_to_be_waited_for(shop, caplog, code, said):
    ours = gate(shop)
    for _ in range(TRIPPED_AFTER):
        ours.failed(NotSentError("not sent", operation="list", code=code))
    assert said in caplog.text


UNAUTHORIZED = UnauthorizedError("no", operation="list", status=401)
FORBIDDEN = ForbiddenError("no", operation="list", status=403)
REFUSAL = BadRequestError("no", operation="upload", status=400)


def _refused(ours, shop):
    for number in range(10):
        ours.refusals.refused(None, number, REFUSAL, shop.ledger)


def _rested(ours, shop):
    shop.now += QUOTA_REST_SECONDS + 1
    ours.end_quota_rest()


@pytest.mark.row(23)
@pytest.mark.parametrize(
    ("stop", "go_on"),
    [
        (lambda ours, _: ours.failed(UNAUTHORIZED), lambda ours, _: ours.succeeded()),
        (lambda ours, _: ours.failed(QuotaError("no", operation="upload", status=402)), _rested),
        (
            lambda ours, _: ours.workspaces.judge(None, refusal=FORBIDDEN),
            lambda ours, _: ours.workspaces.judge(None, refusal=None),
        ),
        (_refused, lambda ours, _: ours.refusals.passed(None)),
    ],
    ids=["key", "quota", "workspace", "refused"],
)
def test_a_hold_whose_release_failed_to_commit_is_released_later(shop, monkeypatch, stop, go_on):
    ours = gate(shop)
    stop(ours, shop)
    ours.release_ended()
    assert shop.store.read(holds.open_holds)
    with monkeypatch.context() as broken:
        broken.setattr(shop.store, "write", fails_to_commit)
        with pytest.raises(StateWriteError):
            go_on(ours, shop)
    assert shop.store.read(holds.open_holds)
    ours.release_ended()
    assert not shop.store.read(holds.open_holds)


def fails_to_commit(*_, **__):
    raise StateWriteError("I/O error")


def test_a_long_wait_that_the_service_asks_for_is_logged_once(shop, caplog):
    door = gate(shop)
    for seconds in (5.0, 3600.0, 3600.0, 60.0):
        door.failed(asked(seconds))
    assert caplog.text.count("the service asks to wait: no request for 60 min") == 1
