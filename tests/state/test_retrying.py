"""Trying again now, and leaving alone what ended syncd again and again."""

import pytest

from syncd.disk import Fingerprint
from syncd.state import copies, due, files, holds, observations
from syncd.state.database.store import Store
from syncd.state.ledger import QUARANTINE_CRASHES, Failure, Ledger, Offer, Stored
from syncd.state.lifecycle import CopyStatus
from syncd.state.manual_retry import Retrying, forget_backoff
from syncd.state.observations import Observation, Seen, Settling
from syncd.state.planner import Policy

POLICIES = {"f": Policy()}
SHA = "ab" * 32


class RetryDesk:
    def __init__(self, store):
        self.now = 1000.0
        self.adopt(store)
        store.write(
            lambda db: db.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f')")
        )

    def adopt(self, store):
        self.store = store
        self.ledger = Ledger(policies=POLICIES, instance=store.instance)
        self.retrying = Retrying(policies=POLICIES)

    def see(self, name, seen=Seen.PRESENT):
        mark = Fingerprint(1, 3, 5, 7) if seen is Seen.PRESENT else None
        self.store.write(
            lambda db: observations.record(
                db,
                "f",
                [Observation(name, seen, mark, "why")],
                settling=Settling(0, 60),
                policies=POLICIES,
                now=self.now,
            )
        )
        return self.file(name)

    def file(self, name):
        return self.store.read(lambda db: files.find(db, "f", name))

    def copies(self, name):
        return self.store.read(lambda db: copies.of_file(db, self.file(name).id))

    def begin(self, name):
        file = self.file(name)
        offer = Offer(file.id, file.fingerprint, SHA, "text/plain", "direct", ())
        return self.store.write(lambda db: self.ledger.begin(db, offer, self.now))

    def failed(self, name):
        """Send a file, and have it fail for now: it waits for a long time."""
        copy = self.begin(name)
        failure = Failure("no", 500)
        self.store.write(
            lambda db: self.ledger.not_sent(
                db, copy.id, self.now, failure=failure, again_at=self.now + 300
            )
        )

    def due(self):
        return [f.path for f in self.store.read(lambda db: due.uploads(db, self.now, 10))]

    def retry(self, name):
        return self.store.write(lambda db: self.retrying.files(db, [("f", name)], self.now))

    def crash(self):
        """End as kill -9 ends, and begin again."""
        directory = self.store.directory
        self.store.close()
        again = Store(directory)
        again.open(self.now)
        self.adopt(again)


@pytest.fixture
def desk(tmp_path):
    store = Store(tmp_path / "state")
    store.open(0.0)
    desk = RetryDesk(store)
    yield desk
    desk.store.close()


def test_all_that_waits_for_its_next_try_is_due_now(desk):
    for name in (b"a", b"b"):
        desk.see(name)
        desk.failed(name)
    desk.see(b"c", Seen.UNREADABLE)
    assert desk.due() == []
    tried = desk.store.write(lambda db: desk.retrying.all_waiting(db, desk.now, failed=False))
    assert (tried, sorted(desk.due())) == (3, [b"a", b"b"])
    assert desk.file(b"c").due_at == desk.now


def test_what_was_refused_for_good_is_tried_again_only_where_that_is_asked_for(desk):
    desk.see(b"a")
    copy = desk.begin(b"a")
    desk.store.write(
        lambda db: desk.ledger.refused_for_good(db, copy.id, Failure("no", 422), desk.now)
    )
    everything = desk.retrying.all_waiting
    assert desk.store.write(lambda db: everything(db, desk.now, failed=False)) == 0
    assert desk.due() == []
    assert desk.store.write(lambda db: everything(db, desk.now, failed=True)) == 1
    assert desk.due() == [b"a"]
    (again,) = desk.copies(b"a")
    assert (again.token, again.attempts, again.error_message) == (copy.token, 0, None)


def test_one_file_is_tried_whatever_it_failed_of_and_no_other(desk):
    for name in (b"a", b"b"):
        desk.see(name)
        desk.failed(name)
    assert desk.retry(b"a") == 1
    assert desk.due() == [b"a"]


def test_a_video_is_asked_for_at_the_services_own_pace_unless_somebody_names_it(desk):
    desk.see(b"clip.mp4")
    copy = desk.begin(b"clip.mp4")
    stored = Stored("11111111-1111-4111-8111-111111111111", processing_status="pending")
    look = desk.now + 300
    desk.store.write(lambda db: desk.ledger.stored(db, copy.id, stored, desk.now, look=look))
    tried = desk.store.write(lambda db: desk.retrying.all_waiting(db, desk.now, failed=True))
    assert (tried, desk.copies(b"clip.mp4")[0].due_at) == (0, look)
    assert desk.retry(b"clip.mp4") == 1
    assert desk.copies(b"clip.mp4")[0].due_at == desk.now


def test_whoever_names_a_file_that_waits_to_be_read_has_it_tried_now(desk):
    desk.see(b"unreadable", Seen.UNREADABLE)
    file = desk.see(b"put off")
    desk.store.write(lambda db: desk.ledger.put_off(db, file.id, desk.now + 300))
    assert [desk.retry(name) for name in (b"unreadable", b"put off", b"unknown")] == [1, 1, 0]
    assert desk.file(b"unreadable").due_at == desk.now
    assert desk.due() == [b"put off"]


def test_a_video_that_failed_gets_a_second_copy_and_keeps_its_object_until_that_is_live(desk):
    desk.see(b"clip.mp4")
    first = desk.begin(b"clip.mp4")
    stored = Stored("11111111-1111-4111-8111-111111111111", processing_status="pending")
    desk.store.write(lambda db: desk.ledger.stored(db, first.id, stored, desk.now, look=desk.now))
    desk.store.write(
        lambda db: desk.ledger.processing_failed(db, first.id, Failure("broken"), desk.now)
    )
    assert desk.retry(b"clip.mp4") == 1
    assert desk.retry(b"clip.mp4") == 1, "asked twice, it is planned once"
    assert [c.status for c in desk.copies(b"clip.mp4")] == [
        CopyStatus.FAILED,
        CopyStatus.PLANNED,
    ]
    second = desk.begin(b"clip.mp4")
    assert second.token != first.token
    done = Stored("22222222-2222-4222-8222-222222222222", processing_status="completed")
    desk.store.write(lambda db: desk.ledger.stored(db, second.id, done, desk.now, look=desk.now))
    assert [c.status for c in desk.copies(b"clip.mp4")] == [
        CopyStatus.RETIRING,
        CopyStatus.LIVE,
    ]


def held_in_doubt(desk):
    desk.see(b"a")
    copy = desk.begin(b"a")
    desk.store.write(lambda db: desk.ledger.doubt(db, copy.id, Failure("?"), desk.now + 3600))
    desk.store.write(
        lambda db: holds.place(
            db,
            stops="sending",
            scope=f"copy {copy.id}",
            reason=holds.NO_ECHO,
            message="nobody can tell",
            now=desk.now,
        )
    )
    return copy


def test_a_held_doubt_is_sent_again_only_for_whoever_names_the_file(desk):
    copy = held_in_doubt(desk)
    desk.store.write(lambda db: desk.retrying.all_waiting(db, desk.now, failed=True))
    assert desk.copies(b"a")[0].in_doubt
    assert desk.retry(b"a") == 1
    assert (desk.due(), desk.copies(b"a")[0].token) == ([b"a"], copy.token)
    assert desk.store.read(holds.open_holds) == []


@pytest.mark.parametrize(
    ("status", "is_due"), [(None, True), (500, True), (429, False), (503, False)]
)
def test_a_pass_tries_all_but_what_the_service_asked_to_wait_for(desk, status, is_due):
    desk.see(b"a")
    copy = desk.begin(b"a")
    failure, again_at = Failure("no", status), desk.now + 300
    desk.store.write(
        lambda db: desk.ledger.not_sent(db, copy.id, desk.now, failure=failure, again_at=again_at)
    )
    desk.see(b"c", Seen.UNREADABLE)
    desk.store.write(lambda db: forget_backoff(db, desk.now))
    assert desk.due() == ([b"a"] if is_due else [])
    assert desk.file(b"c").due_at == desk.now


def test_trying_again_cuts_short_no_missing_files_grace(desk):
    desk.see(b"a")
    copy = desk.begin(b"a")
    stored = Stored("11111111-1111-4111-8111-111111111111")
    desk.store.write(lambda db: desk.ledger.stored(db, copy.id, stored, desk.now, look=desk.now))
    grace_ends = desk.see(b"a", Seen.MISSING).due_at
    assert grace_ends > desk.now
    desk.retry(b"a")
    desk.store.write(lambda db: desk.retrying.all_waiting(db, desk.now, failed=True))
    assert desk.file(b"a").due_at == grace_ends


def test_a_doubt_that_is_not_held_is_looked_up_and_not_sent(desk):
    desk.see(b"a")
    copy = desk.begin(b"a")
    desk.store.write(lambda db: desk.ledger.doubt(db, copy.id, Failure("?"), desk.now + 30))
    assert desk.retry(b"a") == 1
    (known,) = desk.copies(b"a")
    assert (known.in_doubt, known.due_at) == (True, desk.now)


@pytest.mark.row(37)
def test_a_pass_looks_at_once_whether_an_upload_arrived(desk):
    desk.see(b"a")
    copy = desk.begin(b"a")
    desk.store.write(lambda db: desk.ledger.doubt(db, copy.id, Failure("?"), desk.now + 30))
    desk.store.write(lambda db: forget_backoff(db, desk.now))
    (known,) = desk.copies(b"a")
    assert (known.in_doubt, known.due_at) == (True, desk.now)


@pytest.mark.row(49)
def test_a_file_over_which_syncd_ended_three_times_is_left_alone_for_an_hour(desk):
    desk.see(b"poison")
    desk.see(b"fine")
    for number in range(QUARANTINE_CRASHES):
        copy = desk.begin(b"poison")
        desk.crash()
        assert desk.file(b"poison").crashes == number + 1
        desk.store.write(lambda db, c=copy: desk.ledger.absent(db, c, desk.now))
    assert desk.due() == [b"fine"]
    desk.store.write(lambda db: forget_backoff(db, desk.now))
    assert desk.due() == [b"fine"], "a pass does not end its rest"
    desk.now += 3601
    assert sorted(desk.due()) == [b"fine", b"poison"]


@pytest.mark.row(49)
def test_once_it_is_stored_nothing_is_held_against_a_file(desk):
    desk.see(b"a")
    desk.begin(b"a")
    desk.crash()
    (copy,) = desk.copies(b"a")
    stored = Stored("11111111-1111-4111-8111-111111111111")
    desk.store.write(lambda db: desk.ledger.stored(db, copy.id, stored, desk.now, look=desk.now))
    assert desk.file(b"a").crashes == 0


@pytest.mark.row(49)
def test_whoever_names_a_file_that_is_left_alone_has_it_tried_now(desk):
    desk.see(b"a")
    for _ in range(QUARANTINE_CRASHES):
        copy = desk.begin(b"a")
        desk.crash()
        desk.store.write(lambda db, c=copy: desk.ledger.absent(db, c, desk.now))
    assert desk.retry(b"a") == 1
    assert desk.due() == [b"a"]
    assert desk.file(b"a").crashes == 0, "one more end is the first again"


def test_what_failed_in_a_folder_that_is_not_worked_on_now_keeps_no_other_from_being_tried(desk):
    desk.see(b"video")
    desk.see(b"refused")
    video, refused, failure = desk.begin(b"video"), desk.begin(b"refused"), Failure("no")
    stored = Stored("u", "r", "pending")
    desk.store.write(lambda db: desk.ledger.stored(db, video.id, stored, desk.now, look=0.0))
    desk.store.write(lambda db: desk.ledger.processing_failed(db, video.id, failure, desk.now))
    desk.store.write(lambda db: desk.ledger.refused_for_good(db, refused.id, failure, desk.now))
    elsewhere = Retrying(policies={})
    desk.store.write(lambda db: elsewhere.all_waiting(db, desk.now, failed=True))
    assert desk.due() == [b"refused"]


def test_while_sending_rests_all_that_is_planned_waits_for_its_next_try(desk):
    desk.see(b"a")
    copy = desk.begin(b"a")
    desk.store.write(lambda db: desk.ledger.not_sent(db, copy.id, desk.now, again_at=desk.now))
    everything = desk.retrying.all_waiting
    assert desk.store.write(lambda db: everything(db, desk.now, failed=False)) == 0
    counted = desk.store.write(everything, desk.now, failed=False, all_planned=True)
    assert counted == 1
