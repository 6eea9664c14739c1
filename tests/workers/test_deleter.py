import os
import shutil
import threading
import time
from dataclasses import replace

import pytest

from syncd import disk
from syncd.exceptions import StateWriteError
from syncd.files_api import Answer
from syncd.state import holds, observations
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.observations import Observation, Seen, Settling
from syncd.workers import deleter
from syncd.workers.clock_seen import ClockWatch


@pytest.fixture
def synced(shop):
    shop.drop("a", b"a")
    shop.drop("b", b"b")
    shop.upload()
    return shop


def deletes(shop):
    return [r for r in shop.ask("requests") if r["method"] == "DELETE"]


def lose(shop, name="a"):
    (shop.root / name).unlink()
    shop.notice(name, Seen.MISSING)


def test_a_deleted_file_is_deleted_remotely_after_its_grace_and_not_before(synced):
    lose(synced)
    synced.now += 59
    synced.deleter.step()
    assert len(synced.live()) == 2
    synced.now += 2
    synced.deleter.step()
    assert list(synced.live()) == [synced.copy("b").file_uuid]
    assert synced.copy("a").status is CopyStatus.GONE


def test_a_file_that_is_there_at_the_second_look_is_kept(synced):
    synced.notice("a", Seen.MISSING)
    synced.now += 61
    synced.deleter.step()
    assert synced.file("a").status is FileStatus.SETTLING
    assert deletes(synced) == []


def test_what_is_not_mirrored_any_more_is_kept_though_its_deletion_was_due(synced):
    lose(synced)
    synced.now += 61
    synced.gate._shut(1000)
    synced.deleter.step()
    assert synced.copy("a").status is CopyStatus.RETIRING
    synced.policies["f"] = replace(synced.policies["f"], mirror_deletions=False)
    synced.now += 1001
    synced.deleter.step()
    assert deletes(synced) == []
    assert synced.copy("a").status is CopyStatus.RELEASED


def test_a_file_that_comes_back_between_the_second_look_and_the_delete_is_kept(synced):
    lose(synced)
    synced.now += 61
    synced.faults({"match": "DELETE /v2/files/*", "action": {"status": 503}})
    synced.gate._shut(1000)
    synced.deleter.step()
    assert synced.copy("a").status is CopyStatus.RETIRING
    (synced.root / "a").write_bytes(b"a")
    synced.now += 1001
    synced.deleter.step()
    assert deletes(synced) == []
    assert synced.file("a").status is FileStatus.SETTLING, "it is looked at anew"
    synced.notice("a")
    synced.now += 61
    synced.deleter.step()
    assert (synced.file("a").status, deletes(synced)) == (FileStatus.READY, [])


@pytest.mark.row(23)
def test_a_deletion_whose_outcome_could_not_be_recorded_is_made_again(synced, monkeypatch):
    def fail(*_):
        raise StateWriteError("I/O error")

    lose(synced)
    synced.now += 61
    with monkeypatch.context() as patch:
        patch.setattr(synced.deletions, "deleted", fail)
        with pytest.raises(StateWriteError):
            synced.deleter.step()
    assert synced.copy("a").in_flight
    synced.deleter.step()
    assert synced.copy("a").status is CopyStatus.GONE
    assert len(deletes(synced)) == 2


# Deletions that are promised together


def at_the_first_delete(shop, monkeypatch, act):
    """Do something once the first DELETE is answered."""
    real, sent = shop.client.delete, []

    def delete(uuid):
        real(uuid)
        sent.append(uuid)
        if len(sent) == 1:
            act()

    monkeypatch.setattr(shop.client, "delete", delete)


def kept(shop):
    """Return the name of the one file of two whose copy was not deleted."""
    (uuid,) = shop.live()
    (name,) = (name for name in "ab" if shop.copy(name).file_uuid == uuid)
    return name


def test_what_is_back_before_its_promised_delete_leaves_is_kept(synced, monkeypatch):
    lose(synced, "a")
    lose(synced, "b")

    def bring_back():
        name = kept(synced)
        (synced.root / name).write_bytes(name.encode())
        synced.notice(name)

    at_the_first_delete(synced, monkeypatch, bring_back)
    synced.now += 61
    synced.deleter.step()
    assert len(deletes(synced)) == 1
    copy = synced.copy(kept(synced))
    assert (copy.in_flight, copy.delete_sent_at, copy.evidence) == (False, None, None)
    synced.now += 61
    synced.upload()
    synced.deleter.step()
    assert synced.copy(kept(synced)).status is CopyStatus.LIVE
    assert len(deletes(synced)) == 1


@pytest.mark.parametrize("cause", ["hold", "gate", "old look", "stop"])
def test_a_promise_that_is_not_kept_is_taken_back(synced, monkeypatch, cause):
    place = {"stops": "deletions", "scope": "f", "reason": "root_missing", "now": synced.now}
    worker = synced.deleter
    causes = {
        "hold": lambda: synced.store.write(lambda db: holds.place(db, message="m", **place)),
        "gate": lambda: synced.gate._shut(1000),
        "old look": lambda: monkeypatch.setattr(worker, "steady", lambda: synced.now + 60),
        "stop": lambda: monkeypatch.setattr(worker, "stopped", lambda: True),
    }
    lose(synced, "a")
    lose(synced, "b")
    at_the_first_delete(synced, monkeypatch, causes[cause])
    synced.now += 61
    worker.step()
    assert len(deletes(synced)) == 1
    copy = synced.copy(kept(synced))
    assert (copy.status, copy.in_flight) == (CopyStatus.RETIRING, False)
    assert (copy.delete_sent_at, copy.attempts, copy.due_at) == (None, 0, synced.now + 1)


def test_deletions_of_one_step_share_their_commits(synced):
    names = [f"f{number}" for number in range(20)]
    for name in names:
        synced.drop(name, name.encode())
    synced.upload()
    for name in names:
        lose(synced, name)
    synced.deleter.step()
    synced.now += 61
    before = synced.store.writer.version
    synced.deleter.step()
    assert len(deletes(synced)) == 20
    assert synced.store.writer.version - before <= 4, "judged, promised and recorded"


@pytest.mark.parametrize("how", ["gone", "replaced", "unreadable parent"])
def test_nothing_is_deleted_at_a_root_that_is_not_the_right_one(synced, how):
    synced.notice("a", Seen.MISSING)
    synced.notice("b", Seen.MISSING)
    synced.now += 61
    shutil.move(synced.root, synced.root.with_name("away"))
    if how == "replaced":
        synced.root.mkdir()
    elif how == "unreadable parent":
        synced.root.symlink_to("/proc/1/root/none")
    synced.deleter.step()
    synced.now += 1000
    synced.deleter.step()
    assert deletes(synced) == []
    assert len(synced.live()) == 2


def test_a_deletion_that_must_wait_makes_room_for_others(synced, monkeypatch):
    """A round takes up so many: those that cannot be done must not come first in each."""
    lose(synced)
    synced.now += 61
    monkeypatch.setattr(synced.gate, "seconds_shut_for_all", lambda: 5.0)
    synced.deleter.step()
    monkeypatch.undo()
    copy = synced.copy("a")
    assert copy.status is CopyStatus.RETIRING
    shutil.move(synced.root, synced.root.with_name("away"))
    synced.deleter.step()
    assert synced.copy("a").due_at == synced.now + 10, "its root is gone: nobody can say"
    shutil.move(synced.root.with_name("away"), synced.root)
    synced.now += 11
    unclear = disk.Sight(disk.Found.UNREADABLE, error="Input/output error")
    monkeypatch.setattr("syncd.workers.deleter.look", lambda *_, **__: {b"a": unclear})
    synced.deleter.step()
    monkeypatch.undo()
    assert synced.copy("a").due_at == synced.now + 10, "the disk does not say"
    assert synced.file("a").status is FileStatus.MISSING
    synced.now += 11
    place = {"stops": "deletions", "scope": "f", "reason": "root_missing"}
    synced.store.write(lambda db: holds.place(db, message="m", now=synced.now, **place))
    synced.deleter.step()
    assert synced.copy("a").due_at == synced.now + 10, "its deletion is held"
    assert deletes(synced) == []
    synced.store.write(lambda db: holds.release(db, now=synced.now, **place))
    synced.now += 11
    synced.deleter.step()
    assert synced.copy("a").status is CopyStatus.GONE


def test_a_round_asks_for_the_next_one_at_once_only_where_it_was_full(synced, monkeypatch):
    assert synced.deleter.step() is None
    monkeypatch.setattr("syncd.workers.deleter.BATCH", 1)
    lose(synced)
    lose(synced, "b")
    synced.now += 61
    assert [synced.deleter.step() for _ in range(3)] == [0.0, 0.0, None]
    assert synced.live() == {}


def test_a_hold_stops_the_deletions_of_missing_files(synced):
    lose(synced)
    synced.store.write(
        lambda db: holds.place(
            db, stops="deletions", scope="f", reason="root_missing", message="m", now=synced.now
        )
    )
    synced.now += 1000
    synced.deleter.step()
    assert deletes(synced) == []


def test_a_hold_does_not_stop_the_deletion_of_what_was_superseded(synced):
    synced.store.write(
        lambda db: holds.place(
            db, stops="deletions", scope="f", reason="root_missing", message="m", now=synced.now
        )
    )
    synced.drop("a", b"newer words")
    synced.upload()
    synced.deleter.step()
    assert len(deletes(synced)) == 1
    assert len(synced.live()) == 2


def test_a_404_counts_as_deleted_only_while_the_key_is_good(synced):
    lose(synced)
    synced.now += 61
    synced.client.delete(synced.copy("a").file_uuid)
    synced.faults(
        {"match": "DELETE /v2/files/*", "action": {"status": 404}},
        {"match": "GET /v2/files", "action": {"status": 401}},
    )
    synced.deleter.step()
    assert synced.copy("a").status is CopyStatus.RETIRING
    assert ("sending", "key_refused") in synced.holds()
    synced.faults()
    synced.reconciler.step()
    synced.now += 1000
    synced.deleter.step()
    assert synced.copy("a").status is CopyStatus.GONE


def test_a_delete_without_an_answer_is_sent_again(synced):
    lose(synced)
    synced.now += 61
    synced.faults({"match": "DELETE /v2/files/*", "times": 1, "action": "drop_after"})
    synced.deleter.step()
    assert synced.copy("a").delete_sent_at is not None
    assert synced.copy("a").status is CopyStatus.RETIRING
    synced.now += 61
    synced.deleter.step()
    assert synced.copy("a").status is CopyStatus.GONE


def test_nothing_retires_while_an_unhashed_file_of_its_size_may_be_the_missing_one(synced):
    (synced.root / "a").rename(synced.root / "renamed")
    synced.notice("a", Seen.MISSING)
    synced.now += 61
    synced.notice("renamed")
    synced.deleter.step()
    assert synced.copy("a").status is CopyStatus.LIVE
    synced.upload()
    assert synced.copy("renamed").status is CopyStatus.LIVE
    synced.now += 1000
    synced.deleter.step()
    assert deletes(synced) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_directory_that_may_not_be_listed_makes_nothing_missing(shop):
    (shop.root / "d").mkdir()
    shop.drop("d/a", b"a")
    shop.upload()
    shop.notice("d/a", Seen.MISSING)
    (shop.root / "d").chmod(0)
    shop.now += 61
    shop.deleter.step()
    (shop.root / "d").chmod(0o700)
    assert deletes(shop) == []


@pytest.mark.row(88)
@pytest.mark.parametrize("action", ["garbage", {"status": 202}, {"status": 404}])
def test_only_the_services_own_word_proves_a_deletion(synced, monkeypatch, action):
    """A portal or a maintenance page answers anything with HTML."""
    lose(synced)
    synced.now += 61
    sent = synced.client._sender.send

    def portal(operation, source, per_call):
        answer = sent(operation, source, per_call) if operation.name != "delete" else None
        status = 200 if action == "garbage" else action["status"]
        return answer or Answer(
            operation="delete", status=status, headers={}, body=b"<html>maintenance</html>"
        )

    with monkeypatch.context() as behind:
        behind.setattr(synced.client._sender, "send", portal)
        synced.deleter.step()
    assert synced.copy("a").status is CopyStatus.RETIRING
    assert len(synced.live()) == 2
    synced.now += 4000
    synced.deleter.step()
    assert list(synced.live()) == [synced.copy("b").file_uuid]
    assert synced.copy("a").status is CopyStatus.GONE


# A disk that hangs


@pytest.fixture
def hung(synced, monkeypatch):
    """The shop, beside a folder whose disk does not answer before the event is set."""
    answers = threading.Event()
    real = deleter.look

    def look(store, name, *args, **known):
        if name == "hung":
            answers.wait(20)
        return real(store, name, *args, **known)

    monkeypatch.setattr(deleter, "look", look)
    synced.policies["hung"] = synced.policies["f"]

    def add(db):
        db.conn.execute("INSERT INTO folders (name, path) SELECT 'hung', path FROM folders")
        db.conn.execute(
            "INSERT INTO parts (folder, path, filesystem, inode) "
            "SELECT 'hung', path, filesystem, inode FROM parts"
        )

    synced.store.write(add)
    (synced.root / "x").write_bytes(b"x")
    mark = disk.Fingerprint.of((synced.root / "x").lstat())
    seen(synced, Observation(b"x", Seen.PRESENT, mark))
    synced.uploader.roots["hung"] = synced.uploader.roots["f"]
    synced.upload()
    assert len(synced.live()) == 3
    synced.deleter.mirrored = {"hung": synced.deleter.mirrored["f"], **synced.deleter.mirrored}
    synced.deleter._lookouts._patience_seconds = 0.2
    (synced.root / "x").unlink()
    seen(synced, Observation(b"x", Seen.MISSING))
    yield synced, answers
    answers.set()


def seen(shop, observation):
    shop.store.write(
        lambda db: observations.record(
            db,
            "hung",
            [observation],
            settling=Settling(0.0, 60.0),
            policies=shop.policies,
            now=shop.now,
        )
    )


@pytest.mark.long
@pytest.mark.row(78)
def test_a_folder_that_hangs_stops_no_deletion_of_another(hung):
    shop, answers = hung
    shop.drop("b", b"newer words")
    shop.upload()
    lose(shop)
    shop.now += 61
    shop.deleter.step()
    assert len(deletes(shop)) == 2
    answers.set()
    time.sleep(0.2)
    for _ in range(3):
        shop.now += 11
        shop.deleter.step()
    assert len(deletes(shop)) == 3, "its own deletions are done once it answers"


@pytest.mark.long
@pytest.mark.row(78)
def test_an_answer_that_came_late_counts_for_nothing_that_changed_meanwhile(hung):
    shop, answers = hung
    shop.now += 61
    shop.deleter.step()
    # Back, and gone again, while its disk was asked: a grace of its own begins.
    seen(shop, Observation(b"x", Seen.MISSING, removal_seen=True))
    answers.set()
    time.sleep(0.2)
    (shop.root / "x").write_bytes(b"x")
    shop.now += 61
    shop.deleter.step()
    told = "SELECT event FROM history WHERE folder = 'hung' AND event = 'missing'"
    assert shop.store.read(lambda db: db.conn.execute(told).fetchall()) == []
    assert deletes(shop) == []


# The clock, and a machine that starts anew


def reborn(shop, boot, steady=100.0):
    old = shop.deleter
    return deleter.Deleter(
        store=shop.store,
        ledger=shop.ledger,
        deletions=shop.deletions,
        mirrored=old.mirrored,
        policies=shop.policies,
        client=shop.client,
        gate=shop.gate,
        clock=shop.clock,
        steady=lambda: steady,
        clocks=ClockWatch(store=shop.store, clock=shop.clock, steady=lambda: steady, boot=boot),
        pause=lambda _: False,
    )


@pytest.mark.row(81)
def test_a_pass_on_a_fresh_boot_each_does_the_deletions_of_the_last_one(synced):
    lose(synced)
    for day in range(2):
        synced.now += 86_400
        fresh = reborn(synced, f"boot-{day}")
        fresh.step()
    assert len(deletes(synced)) == 1


@pytest.mark.row(16)
@pytest.mark.parametrize("seconds", [-3600, 10 * 365 * 86_400], ids=["behind", "years ahead"])
def test_a_clock_that_is_not_sane_after_a_boot_lets_the_grace_begin_anew(synced, seconds):
    synced.now += 10_000
    synced.deleter.step()
    lose(synced)
    synced.now += seconds
    fresh = reborn(synced, "another boot")
    fresh.step()
    assert deletes(synced) == []
    synced.now += 61
    fresh.clocks.steady = lambda: 161.0
    fresh.step()
    assert len(deletes(synced)) == 1


@pytest.mark.row(81)
def test_a_clock_that_is_set_back_delays_no_deletion(synced):
    synced.now += 10_000
    synced.deleter.step()
    lose(synced)
    synced.now += 61
    synced.gate._shut(1000)
    synced.deleter.step()
    synced.gate._shut_until = 0.0
    steady = synced.now
    synced.now -= 600
    synced.deleter.clocks.steady = lambda: steady
    synced.deleter.step()
    assert len(deletes(synced)) == 1


# Wanted and kept copies


def test_a_file_that_is_back_takes_what_was_sent_of_it_meanwhile(synced):
    """Its upload got no answer, and while it was looked for the file was gone for a while."""
    synced.faults({"match": "POST /v2/files/-/uploads", "times": 1, "action": "drop_after"})
    synced.drop("c", b"c")
    synced.upload()
    assert synced.copy("c").in_doubt
    lose(synced, "c")
    synced.now += 61
    synced.deleter.step()
    assert not synced.copy("c").wanted
    (synced.root / "c").write_bytes(b"c")
    synced.notice("c")
    assert synced.copy("c").wanted


def test_what_is_kept_of_a_missing_file_is_wanted_still(synced):
    """A missing file's upload without an answer is released once it is found, not deleted."""
    synced.policies["f"] = replace(synced.policies["f"], mirror_deletions=False)
    synced.faults({"match": "POST /v2/files/-/uploads", "times": 1, "action": "drop_after"})
    synced.drop("c", b"c")
    synced.upload()
    lose(synced, "c")
    synced.now += 61
    synced.deleter.step()
    assert synced.file("c").confirmed_at is not None
    assert (synced.copy("c").wanted, synced.copy("c").evidence) == (True, None)
