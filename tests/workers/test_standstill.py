"""Each reason of a standstill stops the sending of its folder, and is taken up by all who count."""

import itertools

import pytest

from syncd.state import awaited, due, files, manifest, overview
from syncd.state.holds import EVERYWHERE, place, release, sending_scope, standstill
from syncd.state.intents import Declined
from syncd.state.lifecycle import FileStatus
from syncd.state.manifest import Word
from tests.workers.test_deleter import lose
from tests.workers.test_paused import offer

KINDS = [("folder", "f"), ("folder", EVERYWHERE), ("sending", sending_scope("f"))]
HOLDS = [
    pytest.param({"stops": stops, "scope": scope, "reason": reason}, id=f"{reason} {stops} {scope}")
    for reason, (stops, scope) in itertools.product(standstill.REASONS, KINDS)
]
held = pytest.mark.parametrize("hold", HOLDS)


def stop(shop, hold):
    shop.store.write(lambda db: place(db, **hold, message="m", now=shop.now))
    shop.gate.see_standstills()


@held
def test_nothing_is_sent_before_it_ends(shop, hold):
    file = shop.drop("a", b"a")
    stop(shop, hold)
    assert shop.store.read(due.uploads, shop.now, 10) == []
    assert shop.store.write(shop.ledger.begin, offer(file), shop.now) is Declined.LATER
    assert shop.gate.is_at_standstill("f")
    shop.store.write(lambda db: release(db, **hold, now=shop.now))
    shop.gate.see_standstills()
    assert not shop.gate.is_at_standstill("f")
    shop.upload()
    assert len(shop.live()) == 1


@held
def test_its_files_are_held_and_nobody_waits_for_them(shop, hold):
    file = shop.drop("a", b"a")
    settling = shop.drop("b", b"b")
    values = {"status": FileStatus.SETTLING, "due_at": shop.now}
    shop.store.write(lambda db: files.update(db, settling.id, **values))
    assert shop.store.read(due.is_settling, shop.now, ["f"])
    stop(shop, hold)
    assert shop.store.read(manifest.word, file.id) is Word.HELD
    assert shop.store.read(overview.overview, shop.now)["counts"] == {"held": 1, "settling": 1}
    assert not shop.store.read(due.is_settling, shop.now, ["f"])
    left = shop.store.read(due.pass_counts, now=shop.now, attempts=5, deletions=True)
    assert (left.waiting, left.failed, left.held) == (0, 0, 2)
    left = shop.store.read(awaited.count, [("f", b"a")], up_to=file.id)
    assert (left.going, left.blocked) == ({}, 1)


@pytest.mark.parametrize("hold", [hold for hold in HOLDS if hold.values[0]["stops"] == "sending"])
def test_a_hold_on_sending_alone_lets_deletions_go_on(shop, hold):
    shop.drop("a", b"a")
    shop.upload()
    stop(shop, hold)
    lose(shop, "a")
    for _ in range(3):
        shop.now += 61
        shop.deleter.step()
    assert not shop.live()


def test_a_folder_whose_name_reads_like_the_scope_of_another_stops_no_other(store):
    hold = {"stops": "folder", "scope": sending_scope("f"), "reason": standstill.REASONS[0]}
    store.write(lambda db: place(db, **hold, message="m", now=1.0))
    assert store.read(lambda db: db.value(f"SELECT {standstill.condition(repr('f'))}")) == 0
    assert not standstill.covers(store.read(standstill.scopes), "f")
