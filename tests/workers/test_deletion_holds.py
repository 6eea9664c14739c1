"""Too many at once: the hold, its verdicts, and what takes it away."""

import os
import shutil
import time
from dataclasses import replace

import pytest

from syncd import disk
from syncd.state import due, holds, manifest, observations
from syncd.state.deletions import Deletions
from syncd.state.holds import decisions, missing
from syncd.state.lifecycle import CopyStatus, Verdict
from syncd.state.observations import Observation, Seen, Settling
from syncd.state.planner import Limits, Policy

MANY = ("deletions", "many_missing")
SETTLING = Settling(settle_seconds=0.0, grace_seconds=60.0)


@pytest.fixture
def full(shop):
    """A shop with ten files in `d` and two beside it, of which four may vanish in an hour."""
    limit(shop, files=4)
    (shop.root / "d").mkdir()
    for number in range(10):
        shop.drop(f"d/{number}", b"%d" % number)
    shop.drop("a", b"a")
    shop.drop("b", b"b")
    shop.upload()
    shop.upload()
    assert len(shop.live()) == 12
    return shop


def limit(shop, **limits):
    policy = shop.policies["f"]
    shop.policies["f"] = replace(policy, limits=Limits(**{"percent": 20.0, "most": 1000} | limits))


def lose(shop, *names):
    for name in names:
        (shop.root / name).unlink()
        shop.notice(name, Seen.MISSING)


def lose_directory(shop):
    names = [f"d/{number}" for number in range(10)]
    shutil.rmtree(shop.root / "d")
    for name in names:
        shop.notice(name, Seen.MISSING)


def grace(shop, seconds=61):
    """Let time pass, and the deleter go round until nothing more is due."""
    shop.now += seconds
    for _ in range(3):
        shop.deleter.step()
        shop.now += 11


def deletes(shop):
    return sum(r["method"] == "DELETE" for r in shop.ask("requests"))


def decide(shop, verdict):
    hold = shop.store.read(lambda db: decisions.of_folder(db, "f"))[0]
    return shop.store.write(lambda db: decisions.decide(db, hold.id, verdict, shop.now)).hold.id


def undo(shop, hold_id, verdict):
    return shop.store.write(lambda db: decisions.decide(db, hold_id, verdict, shop.now)).files


@pytest.mark.long
@pytest.mark.row(6)
def test_many_missing_files_are_held_before_the_first_of_them_retires(full):
    lose_directory(full)
    grace(full)
    assert deletes(full) == 0
    assert {copy.status for copy in full.copies()} == {CopyStatus.LIVE}
    (hold,) = full.store.read(holds.open_holds)
    assert (hold.stops, hold.scope, hold.reason) == ("deletions", "f", "many_missing")
    assert (hold.affects, len(hold.first), hold.parent) == (10, 10, "d")
    assert hold.message.startswith("10 files in d went missing, nothing deleted yet")
    assert hold.commands == [f"syncd deletes {v} {hold.id}" for v in ("approve", "reject")]


@pytest.mark.long
@pytest.mark.row(6)
def test_without_the_review_they_would_all_have_been_deleted(full, monkeypatch):
    """The negative control: the same loss, with the review planted out."""
    monkeypatch.setattr(Deletions, "review", lambda *_: None)
    lose_directory(full)
    grace(full)
    assert deletes(full) == 10


@pytest.mark.long
def test_a_few_files_are_deleted_without_asking(full):
    lose(full, "a", "b", "d/0", "d/1")
    grace(full)
    assert (full.holds(), deletes(full)) == ([], 4)


def test_those_that_trickle_away_within_an_hour_count_together(full):
    for name in ("a", "b", "d/0", "d/1"):
        lose(full, name)
        grace(full)
    assert (full.holds(), deletes(full)) == ([], 4)
    lose(full, "d/2")
    grace(full)
    assert (full.holds(), deletes(full)) == ([MANY], 4)


@pytest.mark.long
def test_those_deleted_an_hour_ago_do_not_count(full):
    lose(full, "a", "b", "d/0", "d/1")
    grace(full)
    full.now += 3600
    lose(full, "d/2", "d/3")
    grace(full)
    assert (full.holds(), deletes(full)) == ([], 6)


@pytest.mark.long
def test_few_of_many_files_are_few(full):
    limit(full, files=0, percent=50.0)
    lose(full, "a", "b", "d/0", "d/1", "d/2", "d/3")
    grace(full)
    assert (full.holds(), deletes(full)) == ([], 6)
    lose(full, "d/4")
    grace(full)
    assert full.holds() == [MANY]


def test_more_than_the_most_are_held_whatever_part_they_are(full):
    limit(full, files=4, percent=100.0, most=3)
    lose(full, "a", "b", "d/0", "d/1")
    grace(full)
    assert (full.holds(), deletes(full)) == ([MANY], 0)


@pytest.mark.long
def test_the_hold_ends_by_itself_once_all_files_are_back_and_not_before(full):
    lose_directory(full)
    grace(full)
    (full.root / "d").mkdir()
    for number in range(10):
        assert full.holds() == [MANY]
        full.drop(f"d/{number}", b"%d" % number)
        grace(full)
    assert full.holds() == []
    full.upload()
    grace(full)
    assert (deletes(full), len(full.live())) == (0, 12)
    assert len(full.copies()) == 12, "what came back was taken up, and nothing was sent"


@pytest.mark.long
def test_an_approved_hold_deletes_what_it_listed_and_what_goes_later_is_judged_anew(full):
    lose(full, "d/0", "d/1", "d/2", "d/3", "d/4")
    grace(full)
    decide(full, "approved")
    lose(full, "d/5", "d/6", "d/7", "d/8", "d/9")
    grace(full)
    assert deletes(full) == 5
    assert full.holds() == [MANY]
    assert len(full.live()) == 7
    evidence = full.copy("d/0").evidence
    assert '"approved_in_hold": 1' in evidence


@pytest.mark.long
def test_what_is_approved_is_still_looked_at_a_last_time(full):
    lose_directory(full)
    grace(full)
    decide(full, "approved")
    (full.root / "d").mkdir()
    (full.root / "d" / "3").write_bytes(b"3")
    grace(full)
    full.upload()
    grace(full)
    assert deletes(full) == 9
    assert full.copy("d/3").status is CopyStatus.LIVE


@pytest.mark.long
def test_an_approval_does_not_reach_beyond_a_root_that_is_gone(full):
    lose_directory(full)
    grace(full)
    decide(full, "approved")
    full.root.rename(full.root.with_name("away"))
    grace(full)
    assert deletes(full) == 0


@pytest.mark.long
def test_a_rejected_hold_keeps_the_copies_and_remembers_it(full):
    lose_directory(full)
    grace(full)
    decide(full, "rejected")
    grace(full)
    assert (full.holds(), deletes(full)) == ([], 0)
    assert full.copy("d/0").status is CopyStatus.RELEASED
    assert full.copy("a").status is CopyStatus.LIVE
    grace(full, 100_000)
    assert (deletes(full), len(full.live())) == (0, 12)


@pytest.mark.long
def test_a_rejected_file_that_comes_back_is_taken_up_again_and_a_changed_one_is_new(full):
    lose_directory(full)
    grace(full)
    decide(full, "rejected")
    grace(full)
    (full.root / "d").mkdir()
    full.drop("d/0", b"0")
    full.drop("d/1", b"other")
    full.upload()
    full.poller.step()
    grace(full)
    assert [c.status for c in full.copies("d/0")] == [CopyStatus.LIVE]
    assert [c.status for c in full.copies("d/1")] == [CopyStatus.GONE, CopyStatus.LIVE]
    assert full.file("d/0").verdict is None


@pytest.mark.long
@pytest.mark.parametrize("settled", [True, False], ids=["carried out", "just decided"])
def test_a_rejection_can_be_undone(full, settled):
    lose_directory(full)
    grace(full)
    hold = decide(full, "rejected")
    if settled:
        grace(full)
    assert undo(full, hold, "approved") == 10
    grace(full)
    assert (deletes(full), len(full.live())) == (10, 2)


def test_a_file_may_only_have_moved_to_a_folder_of_its_own_workspace():
    policies = {"f": Policy(), "g": Policy("w"), "h": Policy()}
    assert Deletions(policies=policies).neighbours("f") == ["f", "h"]


@pytest.mark.parametrize(
    ("reason", "says"),
    [("key_refused", "cannot be approved or rejected"), ("many_missing", "ended by itself")],
)
def test_what_is_no_question_or_none_any_more_takes_no_verdict(shop, reason, says):
    place = {"stops": "sending", "scope": "*", "reason": reason}

    def hold(db):
        holds.place(db, message="m", now=shop.now, **place)
        (known,) = holds.open_holds(db)
        if reason == "many_missing":
            holds.release(db, now=shop.now, **place)
        return known.id

    hold_id = shop.store.write(hold)
    with pytest.raises(decisions.ReviewError, match=says):
        undo(shop, hold_id, "approved")
    assert shop.store.read(lambda db: holds.get(db, hold_id)).verdict is None


@pytest.mark.long
def test_a_verdict_is_final_once_nothing_of_it_is_left_to_change(full):
    lose_directory(full)
    grace(full)
    hold = decide(full, "approved")
    grace(full)
    assert deletes(full) == 10
    with pytest.raises(decisions.ReviewError, match="was approved, and there is nothing left"):
        undo(full, hold, "rejected")
    assert full.store.read(lambda db: holds.get(db, hold)).verdict == "approved"


@pytest.mark.long
def test_an_approval_can_be_undone_until_the_first_delete_is_committed(full):
    lose_directory(full)
    grace(full)
    full.faults({"match": "DELETE /v2/files/*", "action": {"status": 503}})
    hold = decide(full, "approved")
    full.now += 11
    full.deleter.step()
    begun = sum(copy.delete_sent_at is not None for copy in full.copies())
    assert 0 < begun < 10, "the first refusals shut the gate"
    full.faults()
    assert undo(full, hold, "rejected") == 10 - begun
    full.gate.succeeded()
    grace(full, 4000)
    assert len(full.live()) == 12 - begun
    assert sum(copy.status is CopyStatus.RELEASED for copy in full.copies()) == 10 - begun


@pytest.mark.long
def test_a_renamed_folder_trips_nothing_however_long_its_hashing_takes(full):
    for number in range(10):
        (full.root / "d" / str(number)).rename(full.root / f"moved-{number}")
        full.notice(f"d/{number}", Seen.MISSING)
        full.notice(f"moved-{number}")
    grace(full)
    grace(full, 4000)
    assert (full.holds(), deletes(full)) == ([], 0)
    full.upload()
    full.upload()
    grace(full)
    assert (full.holds(), deletes(full), len(full.live())) == ([], 0, 12)
    assert len(full.copies()) == 12


@pytest.mark.long
def test_a_folder_whose_deletions_are_not_mirrored_keeps_every_copy(full):
    full.policies["f"] = replace(full.policies["f"], mirror_deletions=False)
    lose_directory(full)
    grace(full)
    assert (full.holds(), deletes(full), len(full.live())) == ([], 0, 12)
    assert full.copy("d/0").status is CopyStatus.RELEASED
    # Turned on later, it deletes nothing of what went missing before.
    full.policies["f"] = replace(full.policies["f"], mirror_deletions=True)
    grace(full, 10_000)
    assert deletes(full) == 0
    lose(full, "a")
    grace(full)
    assert deletes(full) == 1


def test_the_evidence_is_kept_with_the_copy(full):
    lose(full, "a")
    lost_at = full.now
    grace(full)
    copy = full.copy("a")
    assert copy.status is CopyStatus.GONE
    for fact in (f'"first_look_at": {lost_at}', '"first_look_by": "scan"', '"checks": ["the root'):
        assert fact in copy.evidence


@pytest.mark.row(39)
@pytest.mark.parametrize("rule", ["hold", "reupload", "forget"])
def test_a_copy_that_others_deleted_is_held_sent_again_or_forgotten(full, rule):
    full.policies["f"] = replace(full.policies["f"], remote_gone=rule)
    copy = full.copy("a")
    full.client.delete(copy.file_uuid)
    full.store.write(lambda db: full.ledger.gone_remotely(db, copy.id, full.now))
    full.upload()
    grace(full)
    sent_again = full.copy("a").status is CopyStatus.LIVE
    assert sent_again == (rule == "reupload")
    assert full.holds() == ([("sending", "remote_gone")] if rule == "hold" else [])
    full.drop("a", b"new words")
    full.upload()
    grace(full)
    assert full.copy("a").status is CopyStatus.LIVE, "a change is sent whatever was decided"
    assert full.holds() == [], "and ends the hold"


@pytest.mark.row(39)
def test_few_of_many_that_others_deleted_are_sent_again_without_asking(full):
    limit(full, files=0, percent=50.0)
    full.policies["f"] = replace(full.policies["f"], remote_gone="reupload")
    copy = full.copy("a")
    full.client.delete(copy.file_uuid)
    full.store.write(lambda db: full.ledger.gone_remotely(db, copy.id, full.now))
    assert full.holds() == []
    full.upload()
    assert full.copy("a").status is CopyStatus.LIVE


@pytest.mark.row(39)
def test_where_a_file_is_gone_as_well_nobody_is_asked_about_its_copy(full):
    lose(full, "a")
    copy = full.copy("a")
    full.client.delete(copy.file_uuid)
    full.store.write(lambda db: full.ledger.gone_remotely(db, copy.id, full.now))
    assert (full.file("a").verdict, full.holds()) == (None, [])


@pytest.mark.long
@pytest.mark.row(39)
def test_many_that_others_deleted_are_held_even_where_they_are_to_be_sent_again(full):
    full.policies["f"] = replace(full.policies["f"], remote_gone="reupload")
    for copy in full.copies():
        full.store.write(lambda db, c=copy: full.ledger.gone_remotely(db, c.id, full.now))
    full.deleter.step()
    (hold,) = full.store.read(holds.open_holds)
    assert (hold.reason, hold.affects) == ("remote_gone", 8)
    named = full.store.read(lambda db: [entry["path"] for entry in manifest.held(db, hold.id)])
    assert named == hold.first
    verdicts = [full.file(name).verdict for name in ("a", "b", *(f"d/{n}" for n in range(10)))]
    assert (verdicts.count(Verdict.HELD), verdicts.count(None)) == (8, 4)
    full.store.write(lambda db: decisions.decide(db, hold.id, "rejected", full.now))
    for _ in range(3):
        full.upload()
    assert sum(copy.status is CopyStatus.LIVE for copy in full.copies()) == 12


@pytest.mark.long
def test_what_is_missing_counts_as_undecided_until_its_deletion_is(full):
    lose(full, "a")
    assert full.store.read(missing.undecided) == {"f": 1}
    grace(full)
    assert full.store.read(missing.undecided) == {}


# Judged when they are decided


@pytest.mark.row(66)
@pytest.mark.parametrize("seconds", [3700, 100_000])
def test_many_missing_are_held_however_late_the_second_look_comes(full, seconds):
    """So it is with `once` from cron, after a stop or a suspend, and with a long grace."""
    lose_directory(full)
    grace(full, seconds)
    assert (full.holds(), deletes(full)) == ([MANY], 0)


@pytest.mark.row(66)
def test_many_missing_are_held_after_another_hold_of_hours(full):
    place = {"stops": "deletions", "scope": "f", "reason": "root_missing"}
    full.store.write(lambda db: holds.place(db, message="m", now=full.now, **place))
    lose_directory(full)
    grace(full, 10_000)
    full.store.write(lambda db: holds.release(db, now=full.now, **place))
    grace(full)
    assert (full.holds(), deletes(full)) == ([MANY], 0)


@pytest.mark.row(66)
def test_those_whose_grace_is_not_over_count_with_the_first_that_is(full):
    lose(full, "a", "b")
    full.now += 59
    lose_directory(full)
    full.now += 2
    full.deleter.step()
    (hold,) = full.store.read(holds.open_holds)
    assert (hold.affects, deletes(full)) == (12, 0)


@pytest.mark.long
def test_a_deletion_that_is_dated_in_the_future_counts_like_one_of_this_hour(full):
    full.now += 50_000
    lose(full, "a", "b", "d/0", "d/1")
    grace(full)
    assert deletes(full) == 4
    full.now -= 50_000
    full.deleter.step()
    lose(full, "d/2")
    grace(full)
    assert full.holds() == [MANY]


@pytest.mark.row(66)
def test_a_file_that_was_deleted_counts_even_if_it_was_back_since(full):
    gone = ("a", "b", "d/0", "d/1")
    lose(full, *gone)
    grace(full)
    assert deletes(full) == 4
    for name in gone:
        full.drop(name, b"another one")
        full.notice(name)
    lose(full, *gone, "d/2")
    grace(full)
    assert (full.holds(), deletes(full)) == ([MANY], 4)


@pytest.mark.row(66)
def test_a_file_that_is_back_before_its_deletion_does_not_count_when_it_changes(full, monkeypatch):
    few = ("a", "b", "d/0", "d/1")
    lose(full, *few)
    with monkeypatch.context() as shut:
        shut.setattr(full.gate, "seconds_shut_for_all", lambda: 5.0)
        grace(full)
    for name in few:
        full.drop(name, b"another one")
        full.notice(name)
    full.upload()
    full.upload()
    grace(full)
    assert deletes(full) == 4
    lose(full, "d/2")
    grace(full)
    assert (full.holds(), deletes(full)) == ([], 5)


@pytest.mark.long
def test_what_a_person_approved_is_no_reason_to_hold_the_next_one(full):
    lose_directory(full)
    grace(full)
    decide(full, "approved")
    grace(full)
    lose(full, "a")
    grace(full)
    assert (full.holds(), deletes(full)) == ([], 11)


@pytest.mark.long
@pytest.mark.row(66)
def test_an_approval_reaches_the_files_that_the_hold_named_and_no_others(full):
    lose(full, *(f"d/{number}" for number in range(5)))
    grace(full)
    lose(full, *(f"d/{number}" for number in range(5, 10)))
    # No step has run since: nobody has judged the rest.
    decide(full, "approved")
    full.now += 200
    for _ in range(4):
        full.deleter.step()
        full.now += 61
    assert (full.holds(), deletes(full), len(full.live())) == ([MANY], 5, 7)


def both(shop):
    return [(h.reason, h.affects, h.first) for h in shop.store.read(holds.open_holds)]


@pytest.mark.long
def test_a_second_hold_collects_what_vanishes_later_and_is_judged_anew(full):
    lose(full, *(f"d/{number}" for number in range(5)))
    grace(full)
    lose(full, "a")
    grace(full)
    lose(full, "b")
    grace(full)
    assert both(full) == [
        ("many_missing", 5, [f"d/{number}" for number in range(5)]),
        ("more_missing", 2, ["a", "b"]),
    ]
    second = full.store.read(holds.open_holds)[1]
    assert second.commands == [f"syncd deletes list {second.id}"]
    with pytest.raises(decisions.ReviewError, match="still collects"):
        undo(full, second.id, "approved")
    decide(full, "rejected")
    grace(full)
    assert (both(full), deletes(full)) == ([], 2), "two alone are few"


@pytest.mark.long
def test_a_second_hold_that_is_large_is_shown_once_the_first_is_decided(full):
    lose(full, *(f"d/{number}" for number in range(5)))
    grace(full)
    lose(full, *(f"d/{number}" for number in range(5, 10)))
    grace(full)
    second = full.store.read(holds.open_holds)[1]
    decide(full, "approved")
    grace(full)
    (shown,) = full.store.read(holds.open_holds)
    assert (shown.id, shown.reason, shown.affects, deletes(full)) == (
        second.id,
        *("many_missing", 5, 5),
    )
    assert shown.message.startswith("5 files in d went missing")
    assert shown.commands == [f"syncd deletes {v} {shown.id}" for v in ("approve", "reject")]


def test_nothing_is_deleted_for_ten_seconds_and_a_rejection_takes_all_of_it_back(full):
    lose_directory(full)
    grace(full)
    hold = decide(full, "approved")
    full.now += 9
    full.deleter.step()
    assert deletes(full) == 0
    assert undo(full, hold, "rejected") == 10
    grace(full)
    assert (deletes(full), len(full.live())) == (0, 12)


@pytest.mark.parametrize("rejected_before", [1, 2])
def test_an_approval_after_a_rejection_is_taken_back_as_well(full, rejected_before):
    lose_directory(full)
    grace(full)
    hold = decide(full, "rejected")
    grace(full)
    for _ in range(rejected_before):
        assert undo(full, hold, "approved") == 10
        full.now += 9
        full.deleter.step()
        assert full.store.read(lambda db: decisions.is_changeable(db, hold))
        assert undo(full, hold, "rejected") == 10
        grace(full)
    assert (deletes(full), len(full.live())) == (0, 12)


@pytest.mark.long
@pytest.mark.parametrize("off", [{"files": None}, {"percent": None}])
def test_a_limit_that_is_off_holds_nothing(full, off):
    limit(full, **({"files": 0, "percent": 0.0} | off))
    lose_directory(full)
    grace(full)
    assert (full.holds(), deletes(full)) == ([], 10)


def test_no_limit_is_off_because_others_are(full):
    limit(full, files=None, percent=None, most=9)
    lose_directory(full)
    grace(full)
    assert (full.holds(), deletes(full)) == ([MANY], 0)


def test_a_hold_ends_where_deletions_are_mirrored_no_more(full):
    lose_directory(full)
    grace(full)
    full.policies["f"] = replace(full.policies["f"], mirror_deletions=False)
    grace(full)
    assert (full.holds(), deletes(full), len(full.live())) == ([], 0, 12)
    assert full.copy("d/0").status is CopyStatus.RELEASED


@pytest.mark.long
def test_a_hold_whose_last_file_was_deleted_by_others_ends(full):
    lose_directory(full)
    grace(full)
    for number in range(10):
        copy = full.copy(f"d/{number}")
        full.store.write(lambda db, c=copy: full.ledger.gone_remotely(db, c.id, full.now))
    grace(full)
    assert (full.holds(), deletes(full)) == ([], 0)


@pytest.mark.long
def test_one_pass_waits_for_what_was_approved_and_not_for_what_is_held(full):
    def waiting():
        return full.store.read(
            lambda db: due.pass_counts(db, now=full.now, attempts=5, deletions=False)
        ).waiting

    lose_directory(full)
    grace(full)
    assert waiting() == 0
    decide(full, "approved")
    assert waiting() == 10
    grace(full)
    assert waiting() == 0


# Files of equal size


def write_open(shop, name, content):
    (shop.root / name).write_bytes(content)
    mark = disk.Fingerprint.of((shop.root / name).lstat())
    seen = [Observation(os.fsencode(name), Seen.PRESENT, mark, is_open=True)]
    shop.store.write(
        lambda db: observations.record(
            db, "f", seen, settling=SETTLING, policies=shop.policies, now=shop.now
        )
    )


@pytest.mark.long
@pytest.mark.row(81)
def test_a_file_of_its_size_that_stays_open_does_not_keep_a_deletion_for_ever(full):
    full.now = time.time()
    lose(full, "a")
    write_open(full, "segment", b"s")
    grace(full)
    assert deletes(full) == 0, "it may be the missing file under a new name"
    grace(full, 600)
    write_open(full, "segment", b"s")
    grace(full)
    assert deletes(full) == 1


@pytest.mark.long
@pytest.mark.row(81)
def test_new_files_of_its_size_do_not_keep_a_deletion_for_ever(full):
    full.now = time.time()
    lose(full, "a")
    for number in range(70):
        full.now += 11
        os.utime(full.root / "b", (full.now, full.now))
        path = full.root / "new"
        path.write_bytes(b"%d" % (number % 10))
        mark = disk.Fingerprint.of(path.lstat())._replace(ctime_ns=int(full.now * 1e9))
        seen = [Observation(b"new-%d" % number, Seen.PRESENT, mark)]
        full.store.write(
            lambda db, seen=seen: observations.record(
                db, "f", seen, settling=SETTLING, policies=full.policies, now=full.now
            )
        )
        full.store.write(
            lambda db, n=number: db.conn.execute(
                "UPDATE files SET sha256 = 'h' WHERE path = ?", (b"new-%d" % (n - 1),)
            )
        )
        full.deleter.step()
    assert deletes(full) == 1


@pytest.mark.long
@pytest.mark.row(66)
def test_files_that_waited_for_a_rename_are_held_when_they_wait_no_more(full):
    full.now = time.time()
    write_open(full, "segment", b"s")
    lose_directory(full)
    grace(full)
    assert full.holds() == []
    grace(full, 4000)
    assert (full.holds(), deletes(full)) == ([MANY], 0)


# Superseded copies, and changes of most of a folder


@pytest.mark.long
def test_a_superseded_copy_is_kept_for_its_grace(full):
    full.policies["f"] = replace(full.policies["f"], superseded_grace=3600.0)
    full.drop("a", b"newer")
    full.upload()
    full.now += 1800
    full.drop("a", b"newest")
    full.upload()
    grace(full, 1700)
    assert (deletes(full), len(full.live())) == (0, 14)
    grace(full, 100)
    assert (deletes(full), len(full.live())) == (1, 13), "each counts from its own successor"
    grace(full, 1800)
    assert (deletes(full), len(full.live())) == (2, 12)


def test_content_that_is_back_within_the_grace_takes_its_old_copy_up_again(full):
    full.policies["f"] = replace(full.policies["f"], superseded_grace=3600.0)
    first = full.copy("a").file_uuid
    full.drop("a", b"newer")
    full.upload()
    grace(full)
    full.drop("a", b"a")
    full.upload()
    full.deleter.step()
    live = [copy.file_uuid for copy in full.copies("a") if copy.status is CopyStatus.LIVE]
    assert live == [first]


@pytest.fixture
def guarded(full):
    full.now = time.time()
    full.policies["f"] = replace(full.policies["f"], hold_changes=True)
    return full


def scramble(shop):
    for number in range(10):
        (shop.root / f"d/{number}").write_bytes(b"scrambled %d" % number)
    for number in range(10):
        shop.notice(f"d/{number}")


@pytest.mark.long
def test_changes_of_most_of_a_folder_are_held_before_the_first_is_sent(guarded):
    before = guarded.live()
    scramble(guarded)
    for _ in range(3):
        guarded.upload()
    (hold,) = guarded.store.read(holds.open_holds)
    assert (hold.stops, hold.reason, hold.affects) == ("sending", "many_changed", 10)
    tally = guarded.store.read(
        lambda db: due.pass_counts(db, now=guarded.now, attempts=5, deletions=False)
    )
    assert (tally.synced, tally.waiting) == (len(before) - 10, 0), "the held ones count as held"
    assert guarded.live() == before
    decide(guarded, "approved")
    for _ in range(3):
        guarded.upload()
    grace(guarded)
    assert guarded.holds() == []
    assert len(guarded.live().keys() & before.keys()) == 2


@pytest.mark.long
def test_rejected_changes_are_left_alone_until_the_file_changes_again(guarded):
    before = guarded.live()
    scramble(guarded)
    for _ in range(3):
        guarded.upload()
    hold = decide(guarded, "rejected")
    for _ in range(3):
        guarded.upload()
    assert (guarded.holds(), guarded.live()) == ([], before)
    guarded.now += 4000
    guarded.drop("d/0", b"edited by hand")
    guarded.upload()
    grace(guarded)
    assert len(guarded.live().keys() & before.keys()) == 11
    assert undo(guarded, hold, "approved") == 9


@pytest.mark.long
def test_a_held_change_that_goes_missing_is_judged_like_any_missing_file(guarded):
    scramble(guarded)
    for _ in range(3):
        guarded.upload()
    lose_directory(guarded)
    grace(guarded)
    assert (guarded.holds(), deletes(guarded)) == ([MANY], 0)


@pytest.mark.long
def test_a_few_changes_and_new_files_are_sent_as_ever(guarded):
    for number in range(6):
        guarded.drop(f"d/{number}", b"edited %d" % number)
    for number in range(30):
        guarded.drop(f"new-{number}", b"%d" % number)
    for _ in range(5):
        guarded.upload()
    assert guarded.holds() == []
    assert sum(copy.status is CopyStatus.LIVE for copy in guarded.copies()) == 42


def test_braces_in_a_path_stand_for_themselves(full):
    (full.root / "{files} {id}").mkdir()
    for number in range(5):
        full.drop(f"{{files}} {{id}}/{number}", b"in braces %d" % number)
    for _ in range(2):
        full.upload()
    lose(full, *(f"{{files}} {{id}}/{number}" for number in range(5)))
    grace(full)
    (hold,) = full.store.read(holds.open_holds)
    assert hold.message.startswith("5 files in {files} {id} went missing, ")
    place = {"stops": "deletions", "scope": "f", "reason": "root_missing", "now": full.now}
    commands = ["ls -la '/{id}'", "syncd retry '/{id}'"]
    named = {"message": "the folder '/{files}'", "commands": commands}
    full.store.write(lambda db: holds.place(db, **place, **named))
    hold = full.store.read(holds.open_holds)[-1]
    assert (hold.message, hold.commands) == ("the folder '/{files}'", commands)
