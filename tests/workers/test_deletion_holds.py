"""Too many at once: the hold, its verdicts, and what takes it away."""

import os
import shutil
from dataclasses import replace

import pytest

from syncd.state import holds, manifest
from syncd.state.deletions import Deletions
from syncd.state.holds import decisions, missing
from syncd.state.lifecycle import CopyStatus, Verdict
from syncd.state.planner import Limits, Policy
from syncd.state.sightings import Seen

MANY = ("deletions", "many_missing")


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


@pytest.mark.row(6)
def test_without_the_review_they_would_all_have_been_deleted(full, monkeypatch):
    """The negative control: the same loss, with the review planted out."""
    monkeypatch.setattr(Deletions, "review", lambda *_: None)
    lose_directory(full)
    grace(full)
    assert deletes(full) == 10


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


def test_those_deleted_an_hour_ago_do_not_count(full):
    lose(full, "a", "b", "d/0", "d/1")
    grace(full)
    full.now += 3600
    lose(full, "d/2", "d/3")
    grace(full)
    assert (full.holds(), deletes(full)) == ([], 6)


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


def test_an_approval_does_not_reach_beyond_a_root_that_is_gone(full):
    lose_directory(full)
    grace(full)
    decide(full, "approved")
    full.root.rename(full.root.with_name("away"))
    grace(full)
    assert deletes(full) == 0


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


def test_a_rejected_file_that_comes_back_is_taken_up_again_and_a_changed_one_is_new(full):
    lose_directory(full)
    grace(full)
    decide(full, "rejected")
    grace(full)
    (full.root / "d").mkdir()
    full.drop("d/0", b"0")
    full.drop("d/1", b"other")
    full.upload()
    grace(full)
    assert [c.status for c in full.copies("d/0")] == [CopyStatus.LIVE]
    assert [c.status for c in full.copies("d/1")] == [CopyStatus.GONE, CopyStatus.LIVE]
    assert full.file("d/0").verdict is None


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


def test_a_verdict_is_final_once_nothing_of_it_is_left_to_change(full):
    lose_directory(full)
    grace(full)
    hold = decide(full, "approved")
    grace(full)
    assert deletes(full) == 10
    with pytest.raises(decisions.ReviewError, match="was approved, and there is nothing left"):
        undo(full, hold, "rejected")
    assert full.store.read(lambda db: holds.get(db, hold)).verdict == "approved"


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
    verdicts = [full.file(os.fsdecode(p)).verdict for p in (b"a", b"d/0")]
    assert verdicts == [Verdict.HELD, None]
    full.store.write(lambda db: decisions.decide(db, hold.id, "rejected", full.now))
    for _ in range(3):
        full.upload()
    assert sum(copy.status is CopyStatus.LIVE for copy in full.copies()) == 12


def test_what_is_missing_counts_as_undecided_until_its_deletion_is(full):
    lose(full, "a")
    assert full.store.read(missing.undecided) == {"f": 1}
    grace(full)
    assert full.store.read(missing.undecided) == {}
