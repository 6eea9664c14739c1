"""A promised DELETE that may not leave any more is taken back, and nothing else suffers from it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from syncd.exceptions import StateWriteError
from syncd.files_api import Aborted
from syncd.state import copies, holds
from syncd.state.holds import decisions
from syncd.state.lifecycle import CopyStatus
from tests.workers.test_deleter import at_the_first_delete, deletes, lose


def lost(shop, names):
    """Upload files, lose them, and let their grace pass."""
    for name in names:
        shop.drop(name, name.encode())
    shop.upload()
    for name in names:
        lose(shop, name)
    shop.now += 61


def test_a_rejection_reaches_what_is_promised_and_not_sent(shop, monkeypatch):
    lost(shop, [f"{number}" for number in range(30)])
    shop.deleter.step()
    (hold,) = shop.store.read(holds.open_holds)
    shop.store.write(decisions.decide, hold.id, "approved", shop.now)
    shop.now += 11
    reject = lambda: shop.store.write(decisions.decide, hold.id, "rejected", shop.now)  # noqa: E731
    at_the_first_delete(shop, monkeypatch, reject)
    for _ in range(5):
        shop.deleter.step()
        shop.now += 11
    assert len(deletes(shop)) == 1


@pytest.mark.parametrize("mirrors", [True, False])
def test_a_superseded_copy_is_deleted_though_its_missing_file_is_held_or_kept(shop, mirrors):
    shop.policies["f"] = replace(
        shop.policies["f"], superseded_grace=3600.0, mirror_deletions=mirrors
    )
    names = [f"{number}" for number in range(30 if mirrors else 1)]
    for name in names:
        shop.drop(name, name.encode())
    shop.upload()
    shop.drop("0", b"newer content")
    shop.upload()
    for name in names:
        lose(shop, name)
    shop.now += 61
    shop.deleter.step()
    shop.now += 4000
    before = shop.store.writer.version
    for _ in range(30):
        shop.deleter.step()
        shop.now += 1
    assert len(deletes(shop)) == 1
    assert shop.store.writer.version - before < 10, "it is not promised again and again"


def test_an_interruption_takes_back_what_was_not_sent(shop, monkeypatch):
    lost(shop, "abc")
    real, sent = shop.client.delete, []

    def delete(file_uuid):
        if sent:
            raise Aborted("stopped", operation="delete")
        sent.append(file_uuid)
        real(file_uuid)

    monkeypatch.setattr(shop.client, "delete", delete)
    with pytest.raises(Aborted):
        shop.deleter.step()
    retiring = [copy for copy in shop.copies() if copy.status is CopyStatus.RETIRING]
    assert sorted(copy.delete_sent_at is None for copy in retiring) == [False, True]


def test_an_upload_under_way_is_not_put_in_doubt_by_a_deletion_that_fails(shop, monkeypatch):
    shop.drop("b", b"first")
    shop.upload()
    shop.faults({"match": "DELETE /v2/files/*", "action": {"status": 500}})
    shop.drop("b", b"second")
    shop.upload()
    shop.deleter.step()
    shop.faults()
    old = shop.copies("b")[0]
    assert old.status is CopyStatus.RETIRING
    sending = old._replace(
        id=0,
        token="another",
        file_uuid=None,
        status=CopyStatus.SENDING,
        in_flight=True,
        sha256="3" * 64,
        **dict.fromkeys(("superseded_at", "delete_sent_at", "live_at", "due_at", "error_status")),
    )
    sending = shop.store.write(copies.insert, sending)
    shop.drop("c", b"c")
    shop.upload()
    shop.drop("c", b"newer content")
    shop.upload()
    shop.now += 4000
    with monkeypatch.context() as broken:
        broken.setattr(shop.deletions, "deleted", fails_to_commit)
        with pytest.raises(StateWriteError):
            shop.deleter.step()
    shop.deleter.step()
    assert shop.store.read(copies.existing, sending.id).in_flight


def test_nothing_more_is_deleted_once_the_state_directory_is_gone(shop, monkeypatch):
    lost(shop, "abc")
    directory = Path(shop.store.directory)
    aside = directory.with_name("aside")
    at_the_first_delete(shop, monkeypatch, lambda: directory.rename(aside))
    try:
        with pytest.raises(StateWriteError):
            shop.deleter.step()
    finally:
        aside.rename(directory)
    assert len(deletes(shop)) == 1


def test_a_look_is_too_old_when_the_promise_took_long(shop, monkeypatch):
    lost(shop, "a")
    begin = shop.deletions.begin_delete

    def slow(*args):
        begun = begin(*args)
        (shop.root / "a").write_bytes(b"back")
        shop.now += 60
        return begun

    monkeypatch.setattr(shop.deletions, "begin_delete", slow)
    shop.deleter.step()
    assert not deletes(shop)


def test_a_lost_state_has_deletions_wait_and_not_spin(shop, monkeypatch):
    monkeypatch.setattr("syncd.workers.deleter.BATCH", 2)
    lost(shop, "abc")
    shop.gate._shut(5)
    shop.deleter.step()
    shop.now += 6
    place = partial(holds.place, stops="sending", scope=holds.EVERYWHERE, reason=holds.STATE_LOST)
    shop.store.write(place, message="lost", now=shop.now)
    waits = [shop.deleter.step() for _ in range(5)]
    assert waits[-1] != 0.0
    assert not deletes(shop)


def fails_to_commit(*_, **__):
    raise StateWriteError("I/O error")
