"""Copies that a person, a hold or a grace keeps are not deleted, whatever else is stored."""

from dataclasses import replace

import pytest

from syncd.state import copies, due, holds, reconfiguration
from syncd.state.holds import decisions
from syncd.state.lifecycle import CopyStatus, Keep
from syncd.state.observations import Seen
from tests.workers.test_adopter import adopt

DAY = 86_400.0
ELSEWHERE = "00000000-0000-4000-8000-0000000000cc"
#: Released copies that are no newer content of the path in its workspace.
NO_SUCCESSORS = [{"workspace_uuid": ELSEWHERE}, {"kept": True, "live_at": None}]


@pytest.fixture
def patient(shop):
    """A shop that keeps superseded copies for a day."""
    shop.policies["f"] = replace(shop.policies["f"], superseded_grace=DAY)
    return shop


def sync(shop, name, content):
    shop.drop(name, content)
    shop.upload()
    shop.deleter.step()
    shop.now += 100
    return next(copy for copy in shop.copies(name) if copy.status is CopyStatus.LIVE)


def release_another(shop, name, **facts):
    """Add a copy of the file that was released before."""
    row = shop.copy(name)._replace(id=0, file_uuid="u", status=CopyStatus.RELEASED, **facts)
    shop.store.write(lambda db: copies.insert(db, row))


def retire(shop, name):
    """Have the file proven missing; its copy retires, and no DELETE is sent yet."""
    (shop.root / name).unlink()
    file = shop.notice(name, Seen.MISSING)
    shop.now += 61
    shop.store.write(lambda db: shop.deletions.confirm_missing(db, [file.id], shop.now))


def hold(shop, name):
    held = {"stops": "deletions", "scope": "f", "reason": holds.MANY_MISSING, "message": "many"}
    ids = [shop.file(name).id]
    return shop.store.write(lambda db: decisions.name(db, ids, now=shop.now, **held)).id


def decide(shop, hold_id, verdict):
    shop.store.write(lambda db: decisions.decide(db, hold_id, verdict, shop.now))


def work(shop, seconds=61.0):
    shop.now += seconds
    for _ in range(3):
        shop.deleter.step()
        shop.now += 0.1


def send_unanswered_delete(shop):
    shop.faults({"match": "DELETE /v2/files/*", "action": {"status": 503}})
    shop.deleter.step()
    shop.faults()
    assert any(copy.delete_sent_at for copy in shop.copies())


@pytest.mark.parametrize("facts", NO_SUCCESSORS)
def test_a_held_copy_stays_beside_a_released_one_that_is_no_newer_content(shop, facts):
    sync(shop, "a", b"a")
    release_another(shop, "a", **facts)
    retire(shop, "a")
    held = hold(shop, "a")
    work(shop)
    assert len(shop.live()) == 1
    decide(shop, held, "approved")
    work(shop, decisions.UNDO_SECONDS - 1)
    assert len(shop.live()) == 1, "it can still be taken back"
    work(shop, 2)
    assert shop.live() == {}


@pytest.mark.parametrize("facts", NO_SUCCESSORS)
def test_a_rejected_deletion_keeps_the_copy_beside_a_released_one(shop, facts):
    copy = sync(shop, "a", b"a")
    release_another(shop, "a", **facts)
    retire(shop, "a")
    decide(shop, hold(shop, "a"), "rejected")
    work(shop)
    assert shop.copies("a")[0].status is CopyStatus.RELEASED
    assert list(shop.live()) == [copy.file_uuid]


def test_a_hold_and_a_rejection_outweigh_a_delete_that_got_no_answer(shop):
    sync(shop, "a", b"a")
    retire(shop, "a")
    send_unanswered_delete(shop)
    held = hold(shop, "a")
    work(shop)
    assert (shop.holds(), len(shop.live())) == ([("deletions", "many_missing")], 1)
    decide(shop, held, "rejected")
    work(shop)
    assert (shop.copy("a").status, len(shop.live())) == (CopyStatus.RELEASED, 1)


@pytest.mark.parametrize("carried_out", [True, False])
def test_content_kept_after_an_unanswered_delete_is_asked_for_when_it_is_back(shop, carried_out):
    copy = sync(shop, "a", b"a")
    retire(shop, "a")
    send_unanswered_delete(shop)
    decide(shop, hold(shop, "a"), "rejected")
    work(shop)
    if carried_out:
        shop.client.delete(copy.file_uuid)
    shop.drop("a", b"a")
    for _ in range(3):
        shop.upload()
        shop.poller.step()
        shop.now += 130
    live = shop.copy("a")
    assert (live.status, live.delete_sent_at) == (CopyStatus.LIVE, None)
    assert (live.file_uuid != copy.file_uuid, list(shop.live())) == (carried_out, [live.file_uuid])


@pytest.mark.row(27)
def test_adopt_deletes_nothing_that_is_held_or_then_rejected(shop):
    copy = sync(shop, "a", b"a")
    retire(shop, "a")
    held = hold(shop, "a")
    assert adopt(shop)["gone"] == 0
    work(shop)
    assert shop.holds() == [("deletions", "many_missing")]
    decide(shop, held, "rejected")
    work(shop)
    assert list(shop.live()) == [copy.file_uuid]


@pytest.mark.row(27)
def test_adopt_asks_which_of_the_copies_that_retire_are_still_there(shop):
    there, gone = sync(shop, "there", b"there"), sync(shop, "gone", b"gone")
    retire(shop, "there")
    retire(shop, "gone")
    shop.client.delete(gone.file_uuid)
    assert adopt(shop)["gone"] == 1
    assert sync(shop, "there", b"there").file_uuid == there.file_uuid
    assert sync(shop, "gone", b"gone").file_uuid != gone.file_uuid


def test_a_rejected_deletion_keeps_the_content_that_was_live_last(patient):
    first = sync(patient, "a", b"first")
    second = sync(patient, "a", b"second")
    assert sync(patient, "a", b"first").id == first.id
    retire(patient, "a")
    decide(patient, hold(patient, "a"), "rejected")
    work(patient)
    status = {copy.id: copy.status for copy in patient.copies("a")}
    assert status == {first.id: CopyStatus.RELEASED, second.id: CopyStatus.RETIRING}
    work(patient, DAY)
    assert list(patient.live()) == [first.file_uuid]


@pytest.fixture
def asked_for(patient):
    """A shop with an old copy that retires while its file holds its content again."""
    sync(patient, "a", b"first")
    patient.now += 2 * DAY
    sync(patient, "a", b"second")
    patient.drop("a", b"first")
    patient.upload()
    return patient


def outstanding(shop):
    return shop.store.read(due.pass_counts, now=shop.now, attempts=5, deletions=False)


def test_an_answer_that_fails_is_asked_for_again_soon_and_until_then_the_file_waits(asked_for):
    first = asked_for.copies("a")[0]
    asked_for.faults({"match": "GET /v2/files/*", "action": {"status": 500}})
    asked_for.deleter.step()
    assert outstanding(asked_for).waiting == 1
    asked_for.faults()
    asked_for.now += 100
    asked_for.deleter.step()
    assert asked_for.copies("a")[0].status is CopyStatus.LIVE
    assert first.file_uuid in asked_for.live()


def test_a_pass_over_other_folders_neither_asks_nor_deletes_for_this_one(asked_for):
    asked_for.policies.clear()
    asked_for.deleter.mirrored = {}
    before = asked_for.copies("a")
    for _ in range(3):
        asked_for.now += 1000
        asked_for.deleter.step()
    assert [c.status for c in asked_for.copies("a")] == [c.status for c in before]
    assert [c.error_message for c in asked_for.copies("a")] == [None, None]
    assert len(asked_for.live()) == 2


def test_the_content_of_a_folder_that_is_removed_is_kept_though_it_was_still_asked_for(asked_for):
    first = asked_for.copies("a")[0]
    release = {"folder": "f", "policies": {}, "now": asked_for.now}
    while asked_for.store.write(reconfiguration.release_removed, **release):
        pass
    asked_for.policies.clear()
    asked_for.deleter.mirrored = {}
    work(asked_for, 31 * DAY)
    assert first.file_uuid in asked_for.live()


def test_the_content_of_a_missing_file_is_kept_though_it_was_still_asked_for(asked_for):
    first = asked_for.copies("a")[0]
    unmirrored = replace(asked_for.policies["f"], mirror_deletions=False, superseded_grace=60.0)
    asked_for.policies["f"] = unmirrored
    asked_for.faults({"match": "GET /v2/files/*", "action": {"status": 500}})
    asked_for.deleter.step()
    (asked_for.root / "a").unlink()
    asked_for.notice("a", Seen.MISSING)
    asked_for.faults()
    for _ in range(5):
        work(asked_for, 4000)
    assert first.file_uuid in asked_for.live()


def test_a_copy_that_retires_is_live_again_only_if_the_service_still_has_it(patient):
    first = sync(patient, "a", b"first")
    second = sync(patient, "a", b"second")
    # As by a later state than this one, which was put back.
    patient.client.delete(first.file_uuid)
    patient.drop("a", b"first")
    for _ in range(4):
        patient.upload()
        patient.deleter.step()
        assert second.file_uuid in patient.live()
        patient.now += 600
    (again,) = (copy for copy in patient.copies("a") if copy.status is CopyStatus.LIVE)
    assert again.file_uuid in patient.live()
    assert again.id not in (first.id, second.id)


def test_content_that_is_put_back_leaves_the_other_one_its_grace(patient):
    for content in (b"first", b"second", b"first"):
        last = sync(patient, "a", content)
    work(patient, DAY - 200)
    assert len(patient.live()) == 2
    work(patient, 200)
    assert list(patient.live()) == [last.file_uuid]


def test_a_file_renamed_over_another_leaves_that_ones_copy_its_grace(patient):
    sync(patient, "clip", b"old")
    new = sync(patient, "clip.new", b"newer")
    patient.now += 2 * DAY
    (patient.root / "clip.new").rename(patient.root / "clip")
    patient.notice("clip.new", Seen.MISSING)
    patient.notice("clip")
    patient.upload()
    work(patient, DAY - 200)
    assert len(patient.live()) == 2
    work(patient, 200)
    assert list(patient.live()) == [new.file_uuid]


def test_a_superseded_copy_keeps_its_grace_when_its_successor_is_renamed(patient):
    sync(patient, "a", b"old")
    new = sync(patient, "a", b"newer")
    (patient.root / "a").rename(patient.root / "b")
    patient.notice("a", Seen.MISSING)
    patient.notice("b")
    patient.upload()
    for _ in range(2):
        work(patient)
    assert len(patient.live()) == 2
    work(patient, DAY)
    assert list(patient.live()) == [new.file_uuid]


@pytest.mark.parametrize("by_token", [False, True])
def test_what_was_kept_while_its_file_was_gone_goes_with_it_after_it_was_back(shop, by_token):
    """Unless the copy was taken up by its token alone: then it stays whatever happens."""
    copy = sync(shop, "a", b"a")
    if by_token:
        shop.store.write(lambda db: copies.update(db, copy.id, kept=Keep.ALWAYS))
    shop.policies["f"] = replace(shop.policies["f"], mirror_deletions=False)
    (shop.root / "a").unlink()
    shop.notice("a", Seen.MISSING)
    work(shop)
    assert shop.copy("a").status is CopyStatus.RELEASED
    shop.drop("a", b"a")
    shop.upload()
    shop.poller.step()
    assert (shop.copy("a").status, shop.copy("a").id) == (CopyStatus.LIVE, copy.id)
    shop.policies["f"] = replace(shop.policies["f"], mirror_deletions=True)
    retire(shop, "a")
    work(shop)
    assert len(shop.live()) == by_token
