import os
from dataclasses import replace

import pytest

from syncd import moving
from syncd.state import consumption, holds
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.sightings import Seen
from syncd.workers import consumer
from syncd.workers.consumer import FRESH_SECONDS, ConsumedFolder, Consumer


@pytest.fixture(params=["move", "delete"])
def emptied(request, shop, tmp_path):
    shop.target = tmp_path / "sent"
    shop.policies["f"] = replace(shop.policies["f"], after_upload=request.param)
    target = os.fsencode(shop.target) if request.param == "move" else None
    shop.consumer = Consumer(
        store=shop.store,
        ledger=shop.ledger,
        client=shop.client,
        gate=shop.gate,
        consumed={"f": ConsumedFolder(os.fsencode(shop.root), target)},
        policies=shop.policies,
        clock=shop.clock,
    )
    return shop


def sent(shop):
    """What was moved, by name; the other way of taking away leaves nothing to compare."""
    found = shop.target.rglob("*") if shop.target.exists() else ()
    return {str(path.relative_to(shop.target)): path.read_bytes() for path in found}


def quiet(shop):
    """A day goes by; whatever could still be deleted is."""
    for _ in range(4):
        shop.now += 20_000
        shop.deleter.step()


def test_a_live_file_is_taken_away_and_its_copy_stays_for_good(emptied):
    emptied.drop("a", b"one")
    emptied.consumer.step()
    assert (emptied.root / "a").exists(), "nothing is taken that is not live"
    emptied.upload()
    emptied.consumer.step()
    assert not (emptied.root / "a").exists()
    assert emptied.file("a").status is FileStatus.CONSUMED
    assert emptied.copy("a").status is CopyStatus.RELEASED
    emptied.notice("a", Seen.MISSING)
    quiet(emptied)
    assert len(emptied.live()) == 1
    if emptied.policies["f"].after_upload == "move":
        assert sent(emptied) == {"a": b"one"}


def test_a_step_asks_for_the_next_one_only_where_it_may_have_left_something(emptied, monkeypatch):
    monkeypatch.setattr("syncd.workers.consumer.BATCH", 1)
    for name in ("a", "b"):
        emptied.drop(name, name.encode())
    emptied.upload()
    assert [emptied.consumer.step() for _ in range(3)] == [0.0, 0.0, None]
    assert list(emptied.root.iterdir()) == []


@pytest.mark.parametrize("second", [b"two", b"one"], ids=["other content", "the same content"])
def test_a_new_drop_of_that_name_is_a_new_copy_beside_the_old(emptied, second):
    emptied.drop("a", b"one")
    emptied.upload()
    emptied.consumer.step()
    emptied.drop("a", second)
    emptied.upload()
    quiet(emptied)
    assert len(emptied.live()) == 2
    emptied.consumer.step()
    emptied.notice("a", Seen.MISSING)
    quiet(emptied)
    assert len(emptied.live()) == 2
    assert [c.status for c in emptied.copies("a")] == [CopyStatus.RELEASED] * 2


def test_a_new_drop_that_is_deleted_takes_only_its_own_copy_along(emptied):
    emptied.drop("a", b"one")
    emptied.upload()
    emptied.consumer.step()
    emptied.drop("a", b"two")
    emptied.upload()
    (emptied.root / "a").unlink()
    emptied.notice("a", Seen.MISSING)
    quiet(emptied)
    assert [c.status for c in emptied.copies("a")] == [CopyStatus.RELEASED, CopyStatus.GONE]


def test_what_was_superseded_before_its_file_was_taken_away_is_deleted(emptied):
    """An earlier state of a file is nothing that was dropped there."""
    emptied.drop("a", b"half")
    emptied.upload()
    emptied.drop("a", b"whole")
    emptied.upload()
    assert [c.status for c in emptied.copies("a")] == [CopyStatus.RETIRING, CopyStatus.LIVE]
    emptied.consumer.step()
    quiet(emptied)
    emptied.consumer.step()
    quiet(emptied)
    assert not (emptied.root / "a").exists()
    assert [c.status for c in emptied.copies("a")] == [CopyStatus.GONE, CopyStatus.RELEASED]
    assert len(emptied.live()) == 1


def test_a_file_that_is_no_longer_what_was_sent_stays(emptied):
    emptied.drop("a", b"one")
    emptied.upload()
    (emptied.root / "a").write_bytes(b"two")
    emptied.consumer.step()
    assert (emptied.root / "a").read_bytes() == b"two"
    assert emptied.copy("a").status is CopyStatus.LIVE


def test_the_same_size_and_time_do_not_pass_for_the_same_bytes(emptied, monkeypatch):
    """A filesystem whose stamps say nothing: only reading the file tells."""
    emptied.drop("a", b"one")
    emptied.upload()
    mark = emptied.file("a").fingerprint
    (emptied.root / "a").write_bytes(b"two")
    monkeypatch.setattr("syncd.disk.fingerprint", lambda _: mark)
    emptied.consumer.step()
    assert (emptied.root / "a").read_bytes() == b"two"


def test_what_others_deleted_since_is_looked_for_and_its_file_stays(emptied):
    """The folder may have been synced long before it was to be emptied."""
    for name in ("a", "b"):
        emptied.drop(name, name.encode())
    emptied.upload()
    emptied.client.delete(emptied.copy("a").file_uuid)
    emptied.now += FRESH_SECONDS
    emptied.consumer.step()
    assert (emptied.root / "a").read_bytes() == b"a"
    assert emptied.copy("a").status is CopyStatus.GONE
    assert emptied.holds() == [("sending", "remote_gone")]
    assert not (emptied.root / "b").exists()


@pytest.mark.parametrize("status", [401, 403, 404, 503])
def test_where_nobody_can_tell_whether_a_copy_is_still_there_its_file_stays(
    emptied, status, monkeypatch
):
    monkeypatch.setattr(consumer, "BATCH", 5)
    for number in range(12):
        emptied.drop(f"{number}", b"a")
    emptied.upload()
    emptied.now += FRESH_SECONDS
    emptied.faults({"match": "GET /v2/*", "action": {"status": status}})
    while emptied.consumer.step() == 0.0:
        pass
    emptied.faults()
    assert len(list(emptied.root.iterdir())) == 12
    assert all(copy.status is CopyStatus.LIVE for copy in emptied.copies())
    emptied.gate.try_now()
    emptied.gate.succeeded()
    emptied.now += 3600
    while emptied.consumer.step() == 0.0:
        pass
    assert list(emptied.root.iterdir()) == []


def test_a_copy_that_went_live_just_now_needs_no_second_look(emptied):
    emptied.drop("a", b"a")
    emptied.upload()
    before = len(emptied.ask("requests"))
    emptied.consumer.step()
    assert not (emptied.root / "a").exists()
    assert len(emptied.ask("requests")) == before


@pytest.mark.row(30)
def test_nothing_is_taken_away_while_the_ledger_has_lost_something(emptied):
    """What it calls live may have been deleted since the backup that it comes from."""
    emptied.drop("a", b"one")
    emptied.upload()
    lost = {"stops": "sending", "scope": holds.EVERYWHERE, "reason": holds.STATE_LOST}
    emptied.store.write(lambda db: holds.place(db, **lost, message="", now=emptied.now))
    emptied.consumer.step()
    assert (emptied.root / "a").exists()
    emptied.store.write(lambda db: holds.release(db, **lost, now=emptied.now))
    emptied.consumer.step()
    assert not (emptied.root / "a").exists()


@pytest.mark.parametrize("cut", ["before", "after"])
def test_a_cut_before_or_after_the_file_is_taken_away_ends_the_same(emptied, monkeypatch, cut):
    emptied.drop("a", b"one")
    emptied.upload()
    verb = "move" if emptied.policies["f"].after_upload == "move" else "remove"
    honest = getattr(moving, verb)

    def cutting(*args, **kwargs):
        if cut == "after":
            honest(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(moving, verb, cutting)
    with pytest.raises(KeyboardInterrupt):
        emptied.consumer.step()
    monkeypatch.undo()
    assert emptied.file("a").status is FileStatus.CONSUMED
    assert emptied.copy("a").status is CopyStatus.RELEASED
    # What a scan says meanwhile changes nothing.
    emptied.notice("a", Seen.PRESENT if cut == "before" else Seen.MISSING)
    emptied.now += 61
    emptied.consumer.step()
    assert not (emptied.root / "a").exists()
    assert emptied.file("a").due_at is None
    quiet(emptied)
    assert len(emptied.live()) == 1
    if verb == "move":
        assert sent(emptied) == {"a": b"one"}


def test_without_the_intent_a_cut_would_delete_the_copy_of_what_was_taken(emptied, monkeypatch):
    """The negative control: taken away first, told later."""
    emptied.drop("a", b"one")
    emptied.upload()
    begin = consumption.begin

    def untold(db, file_id, fingerprint, now):
        db.conn.execute("SAVEPOINT trial")
        may = begin(db, file_id, fingerprint, now)
        db.conn.execute("ROLLBACK TO trial")
        db.conn.execute("RELEASE trial")
        return may

    monkeypatch.setattr(consumption, "begin", untold)
    monkeypatch.setattr(consumption, "done", lambda *_, **__: None)
    emptied.consumer.step()
    emptied.notice("a", Seen.MISSING)
    quiet(emptied)
    assert emptied.live() == {}


def test_a_file_that_cannot_be_taken_away_stays_mirrored_and_says_why(emptied, monkeypatch):
    emptied.drop("a", b"one")
    emptied.upload()

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(moving, "move", refused)
    monkeypatch.setattr(moving, "remove", refused)
    emptied.consumer.step()
    assert emptied.file("a").status is FileStatus.READY
    assert "Permission denied" in emptied.file("a").error
    assert emptied.copy("a").status is CopyStatus.LIVE
    monkeypatch.undo()
    emptied.consumer.step()
    assert (emptied.root / "a").exists(), "it is not tried again at once"
    emptied.now += 1000
    emptied.consumer.step()
    assert not (emptied.root / "a").exists()


def test_the_intent_is_not_committed_for_a_file_that_has_moved_on_meanwhile(emptied):
    """What was due was read a while ago: only the row as it is now counts."""

    def begin(mark=None):
        mark = mark or emptied.file("a").fingerprint
        return emptied.store.write(
            lambda db: consumption.begin(db, emptied.file("a").id, mark, emptied.now)
        )

    emptied.drop("a", b"one")
    assert not begin(), "nothing of it is live"
    emptied.upload()
    live = emptied.file("a").fingerprint
    assert not begin(live._replace(size=4)), "the disk holds something else"
    emptied.notice("a", Seen.UNREADABLE)
    assert not begin(), "nobody can say what it holds"
    emptied.drop("a", b"other")
    assert not begin(live), "the table knows of something else"
    assert not begin(), "its new content is not known yet"
    emptied.store.write(
        lambda db: db.conn.execute("UPDATE files SET sha256 = ?", ("b" * 64,)).rowcount
    )
    assert not begin(), "its new content is not live yet"
    assert emptied.copy("a").status is CopyStatus.LIVE
