"""A key is known to open the ledger's organization before anything is sent or deleted with it."""

import os
from contextlib import ExitStack, closing
from functools import partial

import pytest

from syncd.emulator import Emulator
from syncd.exceptions import ForeignStateError
from syncd.files_api import FilesClient, UploadSource
from syncd.state import holds
from syncd.state.lifecycle import CopyStatus
from syncd.workers.gate import Gate
from syncd.workers.organization_check import OrganizationCheck, key_mark

OURS, THEIRS = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def emulator(tmp_path):
    keys = {"worker-key": OURS, "rotated": OURS, "foreign": THEIRS}
    with Emulator(data=tmp_path / "emulator", api_keys=keys) as running:
        yield running


@pytest.fixture
def newcomer(shop):
    """Return the gate and organization check of a process that comes with another key."""
    with ExitStack() as clients:

        def come(key):
            client = FilesClient(base_url=shop.emulator.url, api_key=key)
            clients.enter_context(closing(client))
            gate = Gate(store=shop.store, clock=shop.clock, monotonic=shop.clock)
            organization_proven = partial(
                OrganizationCheck, store=shop.store, gate=gate, clock=shop.clock
            )
            return gate, organization_proven(client=client, mark=key_mark(shop.store.instance, key))

        yield come


def bound(shop):
    """Let the ledger know its organization, as it does after the first upload."""
    shop.drop("a", b"a")
    shop.upload()
    shop.reconciler.step()
    assert shop.store.fact("organization") == OURS


def upload_of_theirs(shop, key="foreign"):
    (shop.root / "theirs").write_bytes(b"theirs")
    fd = os.open(shop.root / "theirs", os.O_RDONLY)
    with closing(FilesClient(base_url=shop.emulator.url, api_key=key)) as client:
        client.upload(UploadSource(fd=fd, size=6), name="theirs", content_type="text/plain")
    os.close(fd)


def lists(shop):
    return sum(r["method"] == "GET" and r["path"] == "/v2/files" for r in shop.ask("requests"))


def test_the_first_key_needs_no_check(shop, newcomer):
    gate, _ = newcomer("worker-key")
    assert gate.may_send()


@pytest.mark.row(38)
def test_a_ledger_that_no_listing_has_bound_is_bound_by_its_own_objects(shop, newcomer):
    shop.drop("a", b"a")
    shop.upload()
    _, organization_check = newcomer("worker-key")
    organization_check.bind()
    assert shop.store.fact("organization") == OURS
    gate, organization_check = newcomer("foreign")
    upload_of_theirs(shop)
    with pytest.raises(ForeignStateError):
        organization_check.make()
    assert not gate.may_send()


def test_where_the_listing_is_empty_one_object_of_the_ledger_tells_whose_key_it_is(
    shop, newcomer, monkeypatch
):
    """The listing is of the key's own workspace: all that is known may be in others."""
    bound(shop)
    nothing = shop.client.list(limit=1, workspace_uuid="00000000-0000-4000-8000-0000000000ff")
    assert list(nothing.items) == []
    monkeypatch.setattr(FilesClient, "list", lambda *_, **__: nothing)
    gate, organization_check = newcomer("rotated")
    organization_check.make()
    assert gate.may_send()
    assert shop.holds() == []


@pytest.mark.row(38)
def test_a_rotated_key_of_the_same_organization_goes_on_after_one_request(shop, newcomer):
    bound(shop)
    before = lists(shop)
    gate, organization_check = newcomer("rotated")
    assert not gate.may_send()
    assert gate.seconds_shut_for_all() > 0, "nor is anything asked or deleted"
    organization_check.make()
    assert gate.may_send()
    assert lists(shop) == before + 1
    # It is known from now on, and costs nothing.
    gate, _ = newcomer("rotated")
    assert gate.may_send()
    assert lists(shop) == before + 1


@pytest.mark.row(38)
def test_a_key_of_another_organization_is_refused_before_anything_is_sent(shop, newcomer):
    bound(shop)
    upload_of_theirs(shop)
    gate, organization_check = newcomer("foreign")
    with pytest.raises(ForeignStateError, match=f"{THEIRS}.*belongs to {OURS}"):
        organization_check.make()
    assert not gate.may_send()


@pytest.mark.row(39)
def test_a_new_key_that_shows_nothing_of_what_is_live_is_held(shop, newcomer):
    bound(shop)
    gate, organization_check = newcomer("foreign")
    organization_check.make()
    assert not gate.may_send()
    assert ("sending", "organization_unproven") in shop.holds()
    # The right key again: the hold goes by itself.
    gate, organization_check = newcomer("rotated")
    organization_check.make()
    assert gate.may_send()
    assert shop.holds() == []


@pytest.mark.row(39)
def test_the_key_of_before_ends_the_hold_that_another_one_brought_about(shop, newcomer):
    bound(shop)
    _, organization_check = newcomer("rotated")
    organization_check.make()
    upload = shop.live()
    for file_uuid in upload:
        shop.client.delete(file_uuid)
    _, organization_check = newcomer("foreign")
    organization_check.make()
    assert ("sending", "organization_unproven") in shop.holds()
    # As the hold advises, though its organization shows nothing either.
    gate, organization_check = newcomer("rotated")
    assert not gate.may_send()
    organization_check.make()
    assert gate.may_send()
    assert shop.holds() == []


@pytest.mark.row(39)
def test_a_hold_for_want_of_proof_ends_where_the_ledger_was_bound_to_nothing(shop, newcomer):
    shop.drop("a", b"a")
    shop.upload()
    for file_uuid in shop.live():
        shop.client.delete(file_uuid)
    gate, organization_check = newcomer("worker-key")
    assert gate.may_send()
    organization_check.make()  # as `syncd verify` does
    assert not gate.may_send()
    gate, organization_check = newcomer("worker-key")
    assert not gate.may_send(), "a restart is no proof"
    upload_of_theirs(shop, "worker-key")
    organization_check.make()
    assert gate.may_send()
    assert shop.holds() == []


@pytest.fixture
def wiped(shop):
    """The ledger knows a live copy, and its organization has nothing more of it."""
    bound(shop)
    for file_uuid in shop.live():
        shop.client.delete(file_uuid)
    return shop


@pytest.mark.row(39)
def test_in_an_organization_that_was_wiped_one_object_of_others_proves_a_new_key(wiped, newcomer):
    gate, organization_check = newcomer("rotated")
    organization_check.make()
    assert not gate.may_send()
    (hold,) = wiped.store.read(holds.open_holds)
    assert hold.reason == "organization_unproven"
    assert "put any one file into the key's organization" in hold.commands[0]

    upload_of_theirs(wiped, "rotated")
    organization_check.make()

    assert gate.may_send()
    assert wiped.holds() == []


@pytest.mark.row(39)
def test_an_object_put_into_another_organization_proves_that_the_key_is_the_wrong_one(
    wiped, newcomer
):
    gate, organization_check = newcomer("foreign")
    organization_check.make()
    upload_of_theirs(wiped)
    with pytest.raises(ForeignStateError, match=f"{THEIRS}.*belongs to {OURS}"):
        organization_check.make()
    assert not gate.may_send()


def test_where_nothing_is_live_an_empty_listing_holds_up_nobody(shop, newcomer):
    bound(shop)
    shop.store.write(
        lambda db: db.conn.execute("UPDATE copies SET status = 'retiring' WHERE status = 'live'")
    )
    assert shop.copy("a").status is CopyStatus.RETIRING
    gate, organization_check = newcomer("foreign")
    organization_check.make()
    assert gate.may_send()


def test_what_is_kept_of_a_key_says_nothing_of_it():
    assert len(key_mark("0011aabb", "secret")) == 8
    assert key_mark("0011aabb", "secret") != key_mark("0011aabb", "other")
    assert key_mark("0011aabb", "secret") != key_mark("99999999", "secret")
