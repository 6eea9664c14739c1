"""A pause that is committed lets no request begin that changes something, whoever asks."""

import os

import pytest

from syncd.disk import Fingerprint
from syncd.state import after_upload, due, files
from syncd.state.holds import EVERYWHERE, pauses
from syncd.state.intents import Declined, Intent, Offer
from syncd.state.lifecycle import FileStatus
from tests.workers.test_deleter import at_the_first_delete, deletes, lose

SCOPES = pytest.mark.parametrize("scope", ["f", EVERYWHERE])


def pause(shop, scope):
    shop.store.write(pauses.pause, scope, None, shop.now)


def offer(file):
    return Offer(file.id, file.fingerprint, os.urandom(16).hex() * 2, "text/plain", "direct", ())


@SCOPES
def test_no_intent_to_send_is_committed(shop, scope):
    intents = [Intent(offer(shop.drop(name, name.encode())), shop.now) for name in ("a", "b")]
    pause(shop, scope)
    assert shop.store.write(shop.ledger.begin, intents[0].offer, shop.now) is Declined.LATER
    assert shop.store.write(shop.ledger.begin_all, intents) == [Declined.LATER] * 2
    assert shop.store.read(due.uploads, shop.now, 10) == []
    shop.store.write(pauses.resume, None, shop.now)
    assert len(shop.store.read(due.uploads, shop.now, 10)) == 2


@SCOPES
def test_deletions_end_with_the_request_that_is_under_way(shop, monkeypatch, scope):
    for name in ("a", "b", "c"):
        shop.drop(name, name.encode())
    shop.upload()
    for name in ("a", "b", "c"):
        lose(shop, name)
    shop.now += 61
    at_the_first_delete(shop, monkeypatch, lambda: pause(shop, scope))
    for _ in range(3):
        shop.deleter.step()
        shop.now += 61
    assert len(deletes(shop)) == 1
    shop.store.write(pauses.resume, None, shop.now)
    for _ in range(3):
        shop.now += 61
        shop.deleter.step()
    assert len(deletes(shop)) == 3
    assert not shop.live()


def supersede(shop, names):
    for content in (b"old", b"newer content"):
        for name in names:
            shop.drop(name, content)
        shop.upload()
    shop.now += 61


@SCOPES
def test_superseded_copies_stay(shop, scope):
    supersede(shop, ["a"])
    (old,) = shop.store.read(due.deletions, shop.now, 10, missing=False)
    pause(shop, scope)
    assert shop.store.read(due.deletions, shop.now, 10, missing=False) == []
    assert shop.store.write(shop.deletions.begin_delete, [old], shop.now) == []
    shop.deleter.step()
    assert len(shop.live()) == 2
    shop.store.write(pauses.resume, None, shop.now)
    shop.now += 61
    shop.deleter.step()
    assert len(shop.live()) == 1


@SCOPES
def test_the_deletion_of_superseded_copies_ends_with_the_request_under_way(
    shop, monkeypatch, scope
):
    supersede(shop, ["a", "b", "c"])
    at_the_first_delete(shop, monkeypatch, lambda: pause(shop, scope))
    shop.deleter.step()
    assert len(deletes(shop)) == 1
    shop.store.write(pauses.resume, None, shop.now)
    shop.now += 61
    shop.deleter.step()
    assert len(deletes(shop)) == 3


@SCOPES
def test_nothing_is_taken_away(shop, scope):
    file = shop.drop("a", b"a")
    shop.upload()
    mark = Fingerprint.of((shop.root / "a").lstat())
    pause(shop, scope)
    assert shop.store.read(after_upload.due, "f", 10) == []
    assert shop.store.write(after_upload.begin, file.id, mark, "aside", shop.now) is None
    shop.store.write(pauses.resume, None, shop.now)
    assert len(shop.store.read(after_upload.due, "f", 10)) == 1
    assert shop.store.write(after_upload.begin, file.id, mark, "aside", shop.now) is not None


@SCOPES
def test_a_pass_does_not_wait_for_it(shop, scope):
    shop.drop("a", b"a")
    pause(shop, scope)
    left = shop.store.read(due.pass_counts, now=shop.now, attempts=5, deletions=True)
    assert (left.waiting, left.failed, left.held) == (0, 0, 1)


@SCOPES
def test_an_end_does_not_wait_for_what_settles_in_it(shop, scope):
    file = shop.drop("a", b"a")
    settling = {"status": FileStatus.SETTLING, "due_at": shop.now}
    shop.store.write(lambda db: files.update(db, file.id, **settling))
    assert shop.store.read(due.is_settling, shop.now + 60, ["f"])
    pause(shop, scope)
    assert not shop.store.read(due.is_settling, shop.now + 60, ["f"])
