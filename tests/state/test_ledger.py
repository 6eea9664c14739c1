import pytest

from syncd.disk import Fingerprint
from syncd.state import attempts, copies, due, files, history, holds
from syncd.state.copies import Copy
from syncd.state.deletions import Deletions
from syncd.state.holds.missing import awaiting_rename
from syncd.state.ledger import (
    Declined,
    Elsewhere,
    Failure,
    Ledger,
    Offer,
    Stored,
    recover,
)
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.observations import Observation, Seen, Settling, record
from syncd.state.planner import Policy

A, B = "a" * 64, "b" * 64
POLICIES = {"f": Policy(), "g": Policy()}
SETTLING = Settling(settle_seconds=5.0, grace_seconds=60.0)
UUID = "00000000-0000-4000-8000-00000000000"


class LedgerDesk:
    """A store with two folders, and verbs that fill in what a test does not care for."""

    def __init__(self, store):
        self.store = store
        self.now = 1000.0
        self.ledger = Ledger(policies=POLICIES, instance=store.instance)
        self.deletions = Deletions(policies=POLICIES)
        for name in POLICIES:
            store.write(
                lambda db, n=name: db.conn.execute(
                    "INSERT INTO folders (name, path) VALUES (?, ?)", (n, n.encode())
                )
            )

    def do(self, verb, *args, **kwargs):
        return self.store.write(lambda db: verb(db, *args, **kwargs))

    def see(self, path, mark=1, *, seen=Seen.PRESENT, folder="f", size=7):
        """See a quiet file whose fingerprint is made of `mark`."""
        fingerprint = Fingerprint(mark, size, mark, mark)
        observation = Observation(path, seen, fingerprint if seen is Seen.PRESENT else None)
        self.do(record, folder, [observation], settling=SETTLING, policies=POLICIES, now=self.now)
        return self.store.read(lambda db: files.find(db, folder, path))

    def offer(self, file, sha256=A, vacated=()):
        return Offer(file.id, file.fingerprint, sha256, "text/plain", "direct", vacated)

    def begin(self, file, sha256=A, **more):
        return self.do(self.ledger.begin, self.offer(file, sha256, **more), self.now)

    def arrive(self, copy, number=1, status="completed"):
        stored = Stored(f"{UUID}{number}", "remote", status)
        return self.do(self.ledger.stored, copy.id, stored, self.now, look=self.now + 2)

    def answer(self, copy):
        """Have the service say that it has a copy."""
        facts = {"remote_file_path": None, "frame_count": None, "video_metadata": None}
        return self.do(self.ledger.completed, copy.id, self.now, **facts)

    def sync(self, path, sha256=A, number=1, mark=1, folder="f"):
        file = self.see(path, mark, folder=folder)
        copy = self.begin(file, sha256)
        self.arrive(copy, number)
        return file, self.copy(copy)

    def copy(self, copy):
        return self.store.read(lambda db: copies.get(db, copy.id))

    def file(self, file):
        return self.store.read(lambda db: files.get(db, file.id))

    def confirm(self, file):
        """Tell of a second look that finds a file missing; return whether that counts."""
        self.do(self.deletions.confirm_missing, [file.id], self.now)
        return self.file(file).confirmed_at == self.now


@pytest.fixture
def desk(store):
    return LedgerDesk(store)


def test_the_intent_is_committed_before_anything_is_sent(desk):
    copy = desk.begin(desk.see(b"a"))
    assert (copy.status, copy.in_flight, copy.sent_at) == (CopyStatus.SENDING, True, desk.now)
    assert copy.token.startswith(f"sy2-{desk.store.instance}-")
    assert copy.sha256 == A


def test_a_second_intent_for_a_path_waits_for_the_first(desk):
    file = desk.see(b"a")
    desk.begin(file)
    assert desk.begin(file) is Declined.LATER


def test_an_offer_that_the_row_has_moved_on_from_is_declined(desk):
    file = desk.see(b"a", 1)
    desk.see(b"a", 2)
    assert desk.begin(file) is Declined.CHANGED


def test_an_upload_goes_live_and_a_video_is_processed_first(desk):
    text, video = desk.begin(desk.see(b"a")), desk.begin(desk.see(b"v"), B)
    assert desk.arrive(text, 1) == "live"
    assert desk.arrive(video, 2, "pending") == "processing"
    assert desk.copy(video).due_at == desk.now + 2
    became = desk.do(
        desk.ledger.completed,
        video.id,
        desk.now,
        remote_file_path="d/",
        frame_count=3,
        video_metadata="{}",
    )
    assert (became, desk.copy(video).frame_count) == ("live", 3)


def test_the_old_copy_retires_in_the_transaction_that_makes_the_new_one_live(desk):
    _, old = desk.sync(b"a", A, 1, mark=1)
    new = desk.begin(desk.see(b"a", 2), B)
    assert desk.copy(old).status is CopyStatus.LIVE
    desk.arrive(new, 2)
    assert (desk.copy(old).status, desk.copy(new).status) == ("retiring", "live")


def test_a_stale_copy_that_arrived_whole_goes_live_and_is_superseded_in_its_turn(desk):
    stale = desk.begin(desk.see(b"a", 1), A)
    file = desk.see(b"a", 2)
    assert desk.arrive(stale, 1) == "live"
    fresh = desk.begin(desk.file(file), B)
    assert desk.arrive(fresh, 2) == "live"
    assert desk.copy(stale).status is CopyStatus.RETIRING


def test_a_stale_copy_that_arrives_after_a_newer_one_retires(desk):
    stale = desk.begin(desk.see(b"a", 1), A)
    desk.arrive(stale, 1, "processing")
    fresh = desk.begin(desk.see(b"a", 2), B)
    desk.arrive(fresh, 2)
    assert desk.copy(stale).status is CopyStatus.RETIRING


def test_what_was_certainly_not_sent_is_planned_again(desk):
    file = desk.see(b"a")
    first = desk.begin(file)
    failure = Failure("connection refused")
    desk.do(desk.ledger.not_sent, first.id, desk.now, failure=failure, again_at=desk.now + 3)
    assert desk.begin(file) is Declined.LATER
    desk.now += 3
    second = desk.begin(file)
    assert isinstance(second, Copy)
    assert (second.id, second.attempts) == (first.id, 2)
    assert desk.store.read(attempts.every) == []


def test_a_refused_content_is_failed_and_only_a_change_sends_the_file_again(desk):
    file = desk.see(b"a")
    copy = desk.begin(file)
    failure = Failure("too large", 413, "file.too_large", "req-1")
    desk.do(desk.ledger.refused_for_good, copy.id, failure, desk.now)
    assert desk.begin(file) is Declined.NEEDLESS
    kept = desk.copy(copy)
    assert (kept.status, kept.error_message, kept.error_request_id) == (
        "failed",
        "too large",
        "req-1",
    )
    assert isinstance(desk.begin(desk.see(b"a", 2), B), Copy)
    assert desk.copy(copy).status is CopyStatus.GONE


def test_after_a_crash_what_was_in_flight_is_in_doubt(desk):
    file = desk.see(b"a")
    copy = desk.begin(file)
    assert desk.do(recover, desk.now) == 1
    assert desk.copy(copy).in_doubt
    assert desk.begin(file) is Declined.LATER


def test_a_doubt_proven_absent_is_sent_again_with_a_token_of_its_own(desk):
    file = desk.see(b"a")
    copy = desk.begin(file)
    desk.do(desk.ledger.doubt, copy.id, Failure("no answer"), desk.now)
    desk.do(desk.ledger.absent, copy, desk.now)
    again = desk.begin(file)
    assert again.id == copy.id
    assert again.token != copy.token, "each request has a token of its own"


def test_a_doubt_whose_file_is_gone_retires_when_it_is_found_and_never_goes_live(desk):
    file = desk.see(b"a")
    copy = desk.begin(file)
    desk.do(desk.ledger.doubt, copy.id, Failure("no answer"), desk.now)
    desk.see(b"a", seen=Seen.MISSING)
    desk.now += 60
    assert desk.confirm(file)
    assert desk.arrive(copy) == "retiring"


def late(desk, copy, **changes):
    """Have what was sent for `copy` before turn up, after its request was given up."""
    attempt = attempts.Attempt.of(copy)._replace(**changes)
    stored = Stored(f"{UUID}9", None, "completed")
    verb = desk.ledger.found_late
    return desk.do(verb, attempt, stored, desk.now, whole=True, look=desk.now + 2)


@pytest.fixture
def given_up(desk):
    """Return a copy as it was sent, whose request was given up."""
    copy = desk.begin(desk.see(b"a"))
    desk.do(desk.ledger.doubt, copy.id, Failure("no answer"), desk.now)
    desk.do(desk.ledger.absent, copy, desk.now)
    return copy


def test_what_arrives_late_is_the_copy_while_nothing_of_its_file_is_live(desk, given_up):
    assert desk.store.read(attempts.every)[0].token == given_up.token
    assert late(desk, given_up) == "live"
    assert desk.copy(given_up).file_uuid == f"{UUID}9"
    assert desk.store.read(attempts.every) == []


def test_what_arrives_late_retires_where_another_copy_is_live(desk, given_up):
    again = desk.begin(files_of(desk, given_up))
    desk.arrive(again)
    assert late(desk, given_up) == "retiring"
    assert desk.copy(again).status is CopyStatus.LIVE


def test_what_arrives_late_never_supersedes_newer_content(desk, given_up):
    newer = desk.begin(desk.see(b"a", 2), B)
    assert late(desk, given_up) == "retiring"
    assert desk.arrive(newer, 2) == "live"


def test_what_arrives_late_of_a_file_that_is_gone_retires(desk, given_up):
    file = desk.see(b"a", seen=Seen.MISSING)
    desk.now += 60
    assert desk.confirm(file)
    assert late(desk, given_up) == "retiring"


def test_an_object_that_the_ledger_knows_is_never_found_again(desk, given_up):
    again = desk.begin(files_of(desk, given_up))
    desk.arrive(again, 9)
    assert late(desk, given_up) is None
    assert desk.copy(again).status is CopyStatus.LIVE


def test_what_is_found_more_than_a_day_after_it_was_sent_is_released_and_not_deleted(
    desk, given_up
):
    again = desk.begin(files_of(desk, given_up))
    desk.arrive(again)
    assert late(desk, given_up, looks=2) == "released"
    desk.begin(desk.see(b"a", 2), B)
    kept = desk.store.read(lambda db: copies.where(db, "file_uuid = ?", (f"{UUID}9",)))[0]
    assert (kept.status, kept.kept) == ("released", True)


def files_of(desk, copy):
    return desk.store.read(lambda db: files.get(db, copy.file_id))


def test_a_missing_file_is_retired_after_its_grace_and_not_before(desk):
    file, copy = desk.sync(b"a")
    desk.see(b"a", seen=Seen.MISSING)
    desk.now += 59
    assert not desk.confirm(file)
    assert desk.copy(copy).status is CopyStatus.LIVE
    desk.now += 1
    assert desk.confirm(file)
    assert desk.copy(copy).status is CopyStatus.RETIRING
    assert desk.file(file).due_at is None


def test_a_missing_file_is_not_retired_while_deletions_are_held(desk):
    file, copy = desk.sync(b"a")
    desk.see(b"a", seen=Seen.MISSING)
    desk.now += 60
    hold = {"stops": "deletions", "scope": "f", "reason": "root_missing"}
    desk.do(holds.place, **hold, message="gone", now=desk.now)
    assert not desk.confirm(file)
    desk.do(holds.release, **hold, now=desk.now)
    assert desk.confirm(file)
    assert desk.copy(copy).status is CopyStatus.RETIRING


def test_a_file_that_comes_back_in_time_causes_no_traffic(desk):
    file, copy = desk.sync(b"a")
    desk.see(b"a", seen=Seen.MISSING)
    desk.see(b"a", 1)
    desk.now += 100
    assert not desk.confirm(file)
    assert desk.copy(copy).status is CopyStatus.LIVE
    assert desk.file(file).due_at is None


def test_retirement_is_revoked_by_a_return_until_a_delete_is_committed(desk):
    file, copy = desk.sync(b"a")
    for delete_sent in (False, True):
        desk.see(b"a", seen=Seen.MISSING)
        desk.now += 60
        desk.confirm(file)
        if delete_sent:
            assert desk.do(desk.deletions.begin_delete, [copy], desk.now)
        desk.see(b"a", 1)
        assert bool(desk.do(desk.deletions.needed_again, [desk.copy(copy)])) is not delete_sent
        desk.answer(copy)
        expected = CopyStatus.RETIRING if delete_sent else CopyStatus.LIVE
        assert desk.copy(copy).status is expected


def test_a_file_that_changes_back_in_time_takes_its_earlier_copy_up_and_the_later_one_retires(desk):
    _, first = desk.sync(b"a")
    second = desk.begin(desk.see(b"a", 2), B)
    desk.arrive(second, 2)
    assert desk.copy(first).status is CopyStatus.RETIRING
    assert desk.begin(desk.see(b"a", 1), A) is Declined.LATER
    assert desk.copy(second).status is CopyStatus.LIVE, "until the service says that it has it"
    desk.answer(first)
    assert desk.copy(first).status is CopyStatus.LIVE
    assert desk.copy(second).status is CopyStatus.RETIRING


def test_what_becomes_of_a_copy_leaves_alone_when_its_file_is_due(desk):
    """A file that was put off after a failure, while the copy of what it was is deleted."""
    file, first = desk.sync(b"a")
    second = desk.begin(desk.see(b"a", 2), B)
    desk.arrive(second, 2)
    desk.see(b"a", 3)
    desk.do(desk.ledger.put_off, file.id, desk.now + 300)
    desk.do(desk.deletions.begin_delete, [first], desk.now)
    desk.do(desk.deletions.deleted, [first], desk.now)
    assert desk.file(file).due_at == desk.now + 300


def test_only_what_retires_is_ever_deleted(desk):
    _, copy = desk.sync(b"a")
    assert desk.do(desk.deletions.begin_delete, [copy], desk.now) == []


def test_no_delete_while_an_upload_of_the_path_is_under_way(desk):
    _, old = desk.sync(b"a", A, 1, mark=1)
    desk.arrive(desk.begin(desk.see(b"a", 2), B), 2)
    desk.begin(desk.see(b"a", 3), "c" * 64)
    assert desk.do(desk.deletions.begin_delete, [old], desk.now) == []
    assert desk.copy(old).delete_sent_at is None


def test_a_rename_moves_the_copy_without_traffic(desk):
    old, copy = desk.sync(b"old", mark=1)
    desk.see(b"old", seen=Seen.MISSING)
    new = desk.see(b"new", 1)
    assert desk.begin(new, vacated={old.id}) is Declined.NEEDLESS
    assert desk.copy(copy).file_id == new.id
    assert desk.file(old) is None
    assert desk.file(new).due_at is None
    events = desk.store.read(
        lambda db: db.conn.execute("SELECT event FROM history WHERE path = ?", (b"new",)).fetchall()
    )
    assert [row[0] for row in events] == ["moved"]


def test_content_that_is_live_elsewhere_is_not_sent_before_somebody_looked_there(desk):
    old, _ = desk.sync(b"old", mark=1)
    copied = desk.see(b"copied", 2)
    assert desk.begin(copied, vacated=None) == Elsewhere((desk.file(old),))
    assert isinstance(desk.begin(copied, vacated=()), Copy)


def test_a_file_whose_content_is_live_elsewhere_stays_due_until_somebody_looked_there(desk):
    old, _ = desk.sync(b"old")
    desk.now += 10
    moved = desk.see(b"moved", 2)
    assert isinstance(desk.begin(moved, vacated=None), Elsewhere)
    # Cut here, the next start has to find it, and must not delete the copy that it brings along.
    assert [file.id for file in desk.do(due.uploads, desk.now, 10)] == [moved.id]
    desk.see(b"old", seen=Seen.MISSING)
    assert desk.do(awaiting_rename, [old.id], POLICIES, desk.now)
    assert desk.begin(moved, vacated={old.id}) is Declined.NEEDLESS
    assert desk.do(due.uploads, desk.now + 1000, 10) == []


def test_a_rename_brings_no_video_along_that_was_never_seen_to_be_usable(desk):
    """Its file went missing while the service was still at work on it."""
    file = desk.see(b"v")
    first = desk.begin(file)
    desk.arrive(first, 1, "pending")
    desk.see(b"v", seen=Seen.MISSING)
    desk.now += 60
    assert desk.confirm(file)
    assert desk.copy(first).status is CopyStatus.RETIRING
    second = desk.begin(desk.see(b"renamed", 2), vacated=[file.id])
    assert (second.status, second.file_id != file.id) == (CopyStatus.SENDING, True)
    assert desk.copy(first).status is CopyStatus.RETIRING


def test_a_rename_is_decided_by_content_and_not_by_inode(desk):
    old, copy = desk.sync(b"old", A, mark=1)
    desk.see(b"old", seen=Seen.MISSING)
    new = desk.see(b"new", 1)
    assert isinstance(desk.begin(new, B, vacated={old.id}), Copy)
    assert desk.copy(copy).file_id == old.id


def test_a_rename_takes_nothing_from_a_path_that_merely_changed(desk):
    old, copy = desk.sync(b"old", A, mark=1)
    desk.see(b"old", 2)
    new = desk.see(b"new", 1)
    assert isinstance(desk.begin(new, A, vacated=()), Copy)
    assert desk.copy(copy).file_id == old.id


def test_a_rename_over_a_synced_file_retires_what_was_there(desk):
    source, kept = desk.sync(b"draft", A, 1, mark=1)
    _, replaced = desk.sync(b"final", B, 2, mark=2)
    desk.see(b"draft", seen=Seen.MISSING)
    final = desk.see(b"final", 1)
    assert desk.begin(final, A, vacated={source.id}) is Declined.NEEDLESS
    assert desk.copy(kept).file_id == final.id
    assert (desk.copy(kept).status, desk.copy(replaced).status) == ("live", "retiring")


def test_nothing_retires_while_an_unhashed_file_of_its_size_may_be_it_under_a_new_name(desk):
    file, _ = desk.sync(b"old")
    desk.see(b"old", seen=Seen.MISSING)
    desk.see(b"new", 1, folder="g")
    assert desk.do(awaiting_rename, [file.id], ["f", "g"], desk.now) == {file.id}
    assert not desk.do(awaiting_rename, [file.id], ["f"], desk.now)


def test_an_excluded_file_releases_its_copy_and_takes_it_up_again(desk):
    _, copy = desk.sync(b"a")
    desk.see(b"a", seen=Seen.INELIGIBLE)
    assert desk.copy(copy).status is CopyStatus.RELEASED
    desk.see(b"a", 1)
    facts = {"remote_file_path": None, "frame_count": None, "video_metadata": None}
    assert desk.do(desk.ledger.completed, copy.id, desk.now, **facts) == "live"


def test_an_object_reserved_for_content_that_did_not_arrive_retires_and_the_copy_is_kept(desk):
    file = desk.see(b"a")
    copy = desk.begin(file)
    desk.do(desk.ledger.reserved, copy.id, f"{UUID}1")
    failure = Failure("the URL expired", 403)
    desk.do(desk.ledger.not_sent, copy.id, desk.now, failure=failure, again_at=desk.now + 9)
    kept, record = desk.store.read(lambda db: copies.of_file(db, file.id))
    assert (kept.id, kept.status, kept.due_at) == (copy.id, CopyStatus.PLANNED, desk.now + 9)
    assert (kept.attempts, kept.error_message, kept.file_uuid) == (1, "the URL expired", None)
    assert (record.status, record.file_uuid) == (CopyStatus.RETIRING, f"{UUID}1")
    desk.now += 9
    assert desk.begin(file).attempts == 2
    assert desk.do(desk.deletions.begin_delete, [record], desk.now) == []


def test_a_failed_video_keeps_its_object_until_its_file_is_gone(desk):
    file = desk.see(b"v")
    copy = desk.begin(file)
    desk.arrive(copy, 1, "pending")
    desk.do(desk.ledger.processing_failed, copy.id, Failure("moov atom not found"), desk.now)
    assert desk.copy(copy).status is CopyStatus.FAILED
    desk.see(b"v", seen=Seen.MISSING)
    desk.now += 60
    desk.confirm(file)
    assert desk.copy(copy).status is CopyStatus.RETIRING


def test_history_forgets_after_ninety_days_and_deletions_after_a_year(desk):
    file, copy = desk.sync(b"a")
    desk.do(history.add, file, "deleted", desk.now, copy=copy)

    def told():
        return desk.store.read(
            lambda db: [r[0] for r in db.conn.execute("SELECT event FROM history ORDER BY id")]
        )

    desk.do(history.prune, desk.now + 91 * 86_400)
    assert told() == ["deleted"]
    desk.do(history.prune, desk.now + 366 * 86_400)
    assert told() == []


def test_a_growing_file_settles_only_when_it_is_quiet(desk):
    def look(mark, ctime):
        fingerprint = Fingerprint(1, mark, mark, int(ctime * 1e9))
        desk.do(
            record,
            "f",
            [Observation(b"g", Seen.PRESENT, fingerprint)],
            settling=SETTLING,
            policies=POLICIES,
            now=desk.now,
        )
        return desk.store.read(lambda db: files.find(db, "f", b"g")).status

    assert look(1, desk.now) is FileStatus.SETTLING
    desk.now += 4.9
    assert look(1, desk.now - 4.9) is FileStatus.SETTLING
    assert look(2, desk.now) is FileStatus.SETTLING
    desk.now += 4.9
    assert look(2, desk.now - 4.9) is FileStatus.SETTLING
    desk.now += 0.2
    assert look(2, desk.now - 5.1) is FileStatus.READY


def test_a_deletion_under_way_is_finished_though_something_else_took_the_files_place(desk):
    file, copy = desk.sync(b"a")
    desk.see(b"a", seen=Seen.MISSING)
    desk.now += 61
    desk.confirm(file)
    desk.do(desk.deletions.begin_delete, [copy], desk.now)
    desk.do(recover, desk.now)
    desk.see(b"a", seen=Seen.INELIGIBLE)
    (begun,) = desk.do(desk.deletions.begin_delete, [copy], desk.now)
    assert begun.in_flight


def test_a_video_of_a_file_that_is_gone_never_goes_live_though_a_doubt_keeps_it_waiting(desk):
    file = desk.see(b"a.mp4")
    video = desk.begin(file)
    desk.arrive(video, status="processing")
    doubtful = desk.begin(desk.see(b"a.mp4", 2), B)
    desk.do(desk.ledger.doubt, doubtful.id, Failure("timed out"), desk.now)
    desk.see(b"a.mp4", seen=Seen.MISSING)
    desk.now += 61
    desk.confirm(file)
    facts = {"remote_file_path": None, "frame_count": 1, "video_metadata": None}
    became = desk.do(desk.ledger.completed, video.id, desk.now, **facts)
    assert became == CopyStatus.RETIRING


def test_a_pass_waits_neither_for_a_held_upload_nor_for_what_goes_only_after_it(desk):
    _, old = desk.sync(b"a")
    other = desk.begin(desk.see(b"a", 2), B)
    desk.do(desk.ledger.doubt, other.id, Failure("no answer"), desk.now)
    desk.do(copies.move, old, CopyStatus.RETIRING, due_at=desk.now)

    def waiting():
        return desk.store.read(
            lambda db: due.pass_counts(db, now=desk.now, attempts=5, deletions=False)
        ).waiting

    assert waiting() == 1, "one file"
    held = {"stops": "sending", "reason": "no_echo", "message": "", "now": desk.now}
    desk.do(holds.place, scope=f"copy {other.id}", **held)
    assert waiting() == 0


def test_what_a_pass_cannot_bring_further_counts_as_failed_and_not_as_waiting(desk):
    def counts(**asked):
        asked = {"attempts": 2, "deletions": False} | asked
        told = desk.store.read(lambda db: due.pass_counts(db, now=desk.now, **asked))
        return told.synced, told.waiting, told.failed

    desk.sync(b"live")
    assert counts() == (1, 0, 0)
    desk.see(b"ready")
    desk.see(b"unreadable", seen=Seen.UNREADABLE)
    desk.sync(b"missing", number=2)
    desk.see(b"missing", seen=Seen.MISSING)
    assert counts() == (1, 1, 1), "the missing one is left to the next pass"
    assert counts(deletions=True) == (1, 2, 1)
    assert counts(closed=["f"]) == (1, 0, 2), "what is ready there, too"
    planned = desk.begin(desk.see(b"planned"))
    desk.do(desk.ledger.not_sent, planned.id, desk.now, failure=Failure("no way"))
    assert counts() == (1, 2, 1)
    assert counts(closed=["f"]) == (1, 0, 3)
    assert counts(attempts=1) == (1, 1, 2), "tried often enough"


def test_a_file_with_a_live_copy_counts_as_synced_only_while_that_has_its_content(desk):
    def counts():
        told = desk.store.read(
            lambda db: due.pass_counts(db, now=desk.now, attempts=2, deletions=False)
        )
        return told.synced, told.waiting, told.failed, told.held

    for number, name in enumerate((b"same", b"changed", b"unreadable"), 1):
        desk.sync(name, number=number)
    assert counts() == (3, 0, 0, 0)
    desk.see(b"unreadable", seen=Seen.UNREADABLE)
    assert counts() == (2, 0, 1, 0)
    changed = desk.see(b"changed", 2)
    assert counts() == (1, 1, 1, 0), "it is due"
    copy = desk.begin(changed, B)
    assert counts() == (1, 1, 1, 0), "it is being sent"
    desk.do(desk.ledger.doubt, copy.id, Failure("no answer"), desk.now)
    held = {"stops": "sending", "reason": "no_echo", "message": "", "now": desk.now}
    desk.do(holds.place, scope=f"copy {copy.id}", **held)
    assert counts() == (1, 0, 1, 1), "nor while its upload is held"


def test_a_file_whose_upload_was_broken_off_waits_once_beside_the_record_it_left(desk):
    def waiting():
        return desk.store.read(
            lambda db: due.pass_counts(db, now=desk.now, attempts=5, deletions=False)
        ).waiting

    for number, name in enumerate((b"a", b"b")):
        copy = desk.begin(desk.see(name))
        desk.do(desk.ledger.reserved, copy.id, str(number))
        desk.do(desk.ledger.not_sent, copy.id, desk.now, counts=False)
        assert waiting() == number + 1
    desk.see(b"a", 2)
    assert waiting() == 2
