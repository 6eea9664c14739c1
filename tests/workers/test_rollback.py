"""At each start the listing shows whether the state is an older copy of itself."""

from dataclasses import replace

import pytest

from syncd.exceptions import StateWriteError
from syncd.files_api import (
    FilesClient,
    ForbiddenError,
    InDoubtError,
    NewFile,
    NotFoundError,
    NotSentError,
    RateLimitedError,
    ServerError,
    token_of,
)
from syncd.state import holds, rollback
from syncd.workers import rollback as checks
from syncd.workers.gate import Gate
from syncd.workers.organization_check import OrganizationCheck
from syncd.workers.patience import LONGEST_SECONDS
from syncd.workers.rollback import RollbackCheck
from syncd.workers.search import Search
from tests.workers.conftest import KEY


class Pages(FilesClient):
    """A client that is shown two files a page, fails where told to, and may have no order."""

    def __init__(self, url):
        super().__init__(base_url=url, api_key=KEY, timeout_seconds=5)
        self.fails_at, self.error, self.has_order = None, None, True
        self.asked = 0

    def list(self, *, limit=None, offset=None, **more):
        self.asked += 1
        if self.error is not None and (offset or 0) >= self.fails_at:
            raise self.error
        if limit == 1 or self.has_order:
            return super().list(limit=min(limit, 2), offset=offset, **more)
        page = super().list(**more)
        items = sorted(page.items, key=lambda item: item.file_uuid)[offset : offset + 2]
        return replace(page, items=tuple(items))


@pytest.fixture
def pages(shop):
    for number in range(6):
        shop.drop(f"{number}.txt", b"content %d" % number)
        shop.upload()
        shop.now += 1
    with Pages(shop.emulator.url) as client:
        yield client


def starting(shop, client):
    """Return the check of a start, and its gate; the workers share that gate."""
    gate = Gate(store=shop.store, clock=shop.clock, monotonic=shop.clock)
    organization_check = OrganizationCheck(
        store=shop.store, client=client, gate=gate, mark="mark", clock=shop.clock
    )
    search = Search(
        store=shop.store, client=client, organization_check=organization_check, clock=shop.clock
    )
    check = RollbackCheck(
        store=shop.store,
        client=client,
        gate=gate,
        search=search,
        policies=shop.policies,
        clock=shop.clock,
    )
    shop.deleter.gate = gate
    return check, gate


def supersede(shop):
    """Have a copy wait for its deletion."""
    shop.drop("0.txt", b"newer content")
    shop.upload()
    return shop.copies("0.txt")[0].file_uuid


def fails_to_commit(*_, **__):
    raise StateWriteError("I/O error")


def failing(kind, **facts):
    return kind("no", operation="list", **facts)


PASSING = [
    failing(ServerError, status=500),
    pytest.param(failing(InDoubtError), marks=pytest.mark.long),
    pytest.param(failing(NotSentError), marks=pytest.mark.long),
    failing(RateLimitedError, status=429, code="rate.limited", retry_after=1.0),
    failing(NotFoundError, status=404),
    pytest.param(failing(ForbiddenError, status=403), marks=pytest.mark.long),
]


@pytest.mark.row(67)
@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_a_service_that_shows_no_page_keeps_the_gate_shut(shop, pages, error):
    check, gate = starting(shop, pages)
    pages.fails_at, pages.error = 0, error
    for _ in range(20):
        check.step()
        assert not gate.may_send()
        shop.now += 600
    pages.error = None
    shop.now += LONGEST_SECONDS
    check.step()
    assert gate.may_send()


@pytest.mark.row(23)
def test_a_check_whose_last_commit_fails_is_repeated(shop, pages, monkeypatch):
    check, gate = starting(shop, pages)
    with monkeypatch.context() as broken:
        broken.setattr(rollback, "note_unchecked", fails_to_commit)
        with pytest.raises(StateWriteError):
            check.step()
        assert not gate.may_send()
    check.step()
    assert gate.may_send()


@pytest.mark.row(67)
def test_a_listing_that_breaks_off_lets_files_be_sent_and_holds_deletions(shop, pages):
    old = supersede(shop)
    check, gate = starting(shop, pages)
    # No attempt of before is recent: the listing is read to its end.
    pages.has_order = False
    pages.fails_at, pages.error = 4, failing(ServerError, status=504)
    check.step()
    assert not gate.may_send(), "a moment is waited for"
    shop.now += checks.SECONDS_AT_ONCE + 1
    check.step()
    assert gate.checked
    assert shop.holds() == [("deletions", "state_unchecked")]
    shop.now += 60
    shop.deleter.step()
    assert old in shop.live()
    check.step()
    asked = pages.asked
    for _ in range(10):
        check.step()
    assert pages.asked == asked, "it is not read again and again"
    pages.error = None
    shop.now += LONGEST_SECONDS
    check.step()
    assert shop.holds() == []
    shop.now += 60
    shop.deleter.step()
    assert old not in shop.live()


@pytest.mark.row(67)
@pytest.mark.parametrize("seconds", [0.0, checks.SECONDS_AT_ONCE + 1])
def test_an_object_shown_before_a_listing_breaks_off_is_evidence(shop, pages, seconds):
    token = token_of(shop.client.get(shop.copy("5.txt").file_uuid).original_file_url)
    shop.store.write(lambda db: forget(db, token))
    check, gate = starting(shop, pages)
    check._began_at = shop.now - seconds
    # The first page has the newest object.
    pages.fails_at, pages.error = 2, failing(ServerError, status=504)
    check.step()
    assert gate.checked
    assert shop.store.read(holds.is_ledger_incomplete)


@pytest.mark.row(67)
def test_while_a_long_listing_is_read_files_are_sent_and_nothing_is_deleted(
    shop, pages, monkeypatch
):
    seen = []
    check, gate = starting(shop, pages)
    monkeypatch.setattr(checks, "FILES_AT_ONCE", 3)
    monkeypatch.setattr(
        checks.Comparison, "take", lambda *_: seen.append((gate.checked, shop.holds()))
    )
    pages.has_order = False
    check.step()
    assert seen[0] == (False, [])
    assert seen[-1] == (True, [("deletions", "state_unchecked")])


@pytest.mark.row(67)
def test_a_key_that_may_not_list_goes_on(shop, pages):
    check, gate = starting(shop, pages)
    pages.fails_at = 0
    pages.error = failing(ForbiddenError, status=403, code="auth.forbidden", enveloped=True)
    check.step()
    assert gate.checked
    assert shop.holds() == []
    assert "403" in shop.store.read(rollback.unchecked)


@pytest.mark.row(67)
@pytest.mark.parametrize("is_gone", [True, pytest.param(False, marks=pytest.mark.long)])
def test_where_the_order_is_unknown_the_whole_listing_is_compared(shop, pages, is_gone):
    pages.has_order = False
    if is_gone:
        shop.client.delete(shop.copy("5.txt").file_uuid)
    check, gate = starting(shop, pages)
    check.step()
    assert gate.checked
    assert shop.store.read(holds.is_ledger_incomplete) == is_gone


@pytest.mark.row(67)
def test_an_empty_listing_shows_that_what_the_ledger_has_live_is_gone(shop, pages):
    for number in range(6):
        shop.client.delete(shop.copy(f"{number}.txt").file_uuid)
    check, _ = starting(shop, pages)
    check.step()
    assert shop.store.read(holds.is_ledger_incomplete)


@pytest.mark.row(67)
@pytest.mark.parametrize("is_put_back", [True, pytest.param(False, marks=pytest.mark.long)])
def test_in_a_shared_workspace_only_our_own_objects_are_evidence(shop, pages, is_put_back):
    for number in range(10):
        name = f"theirs.sy2-0badcafe-{number:012x}-{number:012x}-ffffffffffff-{number:020x}.txt"
        shop.client.create([NewFile(local_file_path=name)])
    if is_put_back:
        # An attempt of ours that the ledger does not know any more.
        token = token_of(shop.client.get(shop.copy("5.txt").file_uuid).original_file_url)
        shop.store.write(lambda db: forget(db, token))
    check, gate = starting(shop, pages)
    check.step()
    assert gate.checked
    assert shop.store.read(holds.is_ledger_incomplete) == is_put_back


def forget(db, token):
    """Have the ledger be as it was before an attempt."""
    db.conn.execute("DELETE FROM copies WHERE token = ?", (token,))
    attempt = int(token.split("-")[4], 16) - 1
    db.conn.execute("UPDATE service SET value = ? WHERE key = 'attempt'", (str(attempt),))
