"""Nobody is told that all is well while something stands still."""

import pytest

from syncd.disk import Fingerprint
from syncd.report import status
from syncd.state import ages, copies, holds, observations, overview
from syncd.state.ages import AgeStarts, OverdueState, Timing
from syncd.state.holds import pauses
from syncd.state.ledger import Failure, Ledger, Offer, Stored
from syncd.state.observations import Observation, Seen, Settling
from syncd.state.planner import Policy

POLICIES = {"f": Policy()}
HOUR = 3600.0


class AgingDesk:
    def __init__(self, store):
        self.store, self.now = store, 1_000_000.0
        self.ledger = Ledger(policies=POLICIES, instance=store.instance)
        store.write(
            lambda db: db.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f')")
        )

    def do(self, verb, *args, **kwargs):
        return self.store.write(lambda db: verb(db, *args, **kwargs))

    def see(self, path, *, seen=Seen.PRESENT, settle=0.0, is_open=False):
        mark = Fingerprint(1, 3, 5, int(self.now * 1e9)) if seen is Seen.PRESENT else None
        observation = Observation(path, seen, mark, is_open=is_open)
        settling = Settling(settle, 60.0)
        self.do(
            observations.record,
            "f",
            [observation],
            settling=settling,
            policies=POLICIES,
            now=self.now,
        )

    def begin(self, path):
        from syncd.state import files

        file = self.store.read(lambda db: files.find(db, "f", path))
        offer = Offer(file.id, file.fingerprint, "ab" * 32, "video/mp4", "direct", ())
        return self.do(self.ledger.begin, offer, self.now)

    def store_it(self, path, status="completed"):
        copy = self.begin(path)
        stored = Stored("00000000-0000-4000-8000-000000000001", "r", status)
        self.do(self.ledger.stored, copy.id, stored, self.now, look=self.now)
        return self.store.read(lambda db: copies.existing(db, copy.id))

    def fail(self, path, times, status=500):
        for _ in range(times):
            copy = self.begin(path)
            self.do(self.ledger.not_sent, copy.id, self.now, failure=Failure("no", status))

    def hold(self, stops, scope):
        self.do(holds.place, stops=stops, scope=scope, reason="r", message="m", now=self.now)

    def overdue(self, **starts):
        starts = AgeStarts(**starts)
        found = self.store.read(
            lambda db: ages.overdue(db, self.now, timing=Timing(), starts=starts)
        )
        return [(entry["state"], entry["path"], entry["files"]) for entry in found]


@pytest.fixture
def desk(store):
    return AgingDesk(store)


def settling(desk):
    desk.see(b"a", settle=5.0)


def queued(desk):
    desk.see(b"a")


def failing(desk):
    desk.see(b"a")
    desk.fail(b"a", 1)


def in_doubt(desk):
    desk.see(b"a")
    desk.do(desk.ledger.doubt, desk.begin(b"a").id, Failure("no answer"), desk.now)


def processing(desk):
    desk.see(b"a")
    desk.store_it(b"a", "processing")


def deleting(desk):
    desk.see(b"a")
    desk.store_it(b"a")
    desk.see(b"a", seen=Seen.MISSING)


#: How a file comes into each state, and the seconds after which it is overdue.
STATES = {
    OverdueState.SETTLING: (settling, 60.0),
    OverdueState.QUEUED: (queued, 600.0),
    OverdueState.FAILING: (failing, 600.0),
    OverdueState.IN_DOUBT: (in_doubt, 180.0),
    OverdueState.PROCESSING: (processing, 86_400.0),
    OverdueState.DELETING: (deleting, 660.0),
}


@pytest.mark.parametrize("state", STATES)
def test_each_state_is_overdue_past_its_limit_and_not_before(desk, state):
    come_into, limit = STATES[state]
    since = desk.now
    come_into(desk)
    desk.now = since + limit - 2
    progress = {"progress_at": since} if state is OverdueState.QUEUED else {}
    assert desk.overdue(**progress) == []
    desk.now = since + limit + 2
    assert desk.overdue(**progress) == [(state, "a", 1)]
    if limit <= 700:
        assert desk.overdue(undisturbed_since=desk.now - 30, **progress) == [], "clocks stand still"


def test_a_video_is_overdue_also_where_the_service_asks_to_wait_again_and_again(desk):
    desk.see(b"a")
    copy, since = desk.store_it(b"a", "processing"), desk.now
    failure = Failure("Service Unavailable", 503)
    for _ in range(5):
        desk.do(desk.ledger.still_processing, copy, "pending", desk.now, failure)
    desk.now = since + 24 * HOUR - 2
    assert desk.overdue(undisturbed_since=desk.now - 30) == []
    desk.now += 4
    assert desk.overdue(undisturbed_since=desk.now - 30) == [(OverdueState.PROCESSING, "a", 1)]


@pytest.mark.parametrize("scope", ["f", holds.EVERYWHERE])
@pytest.mark.parametrize(
    "state", [OverdueState.QUEUED, OverdueState.FAILING, OverdueState.DELETING]
)
def test_what_is_paused_is_not_overdue_and_what_goes_on_is(desk, state, scope):
    since = desk.now
    STATES[state][0](desk)
    desk.do(pauses.pause, scope, None, desk.now)
    desk.now += 10 * HOUR
    assert desk.overdue(progress_at=since) == []
    desk.do(pauses.resume, scope, desk.now)
    assert desk.overdue(progress_at=since) == [(state, "a", 1)]
    assert desk.overdue(progress_at=since, undisturbed_since=desk.now) == [], "it begins anew"


@pytest.mark.parametrize(
    "state", [OverdueState.QUEUED, OverdueState.FAILING, OverdueState.DELETING]
)
def test_what_is_held_is_not_overdue(desk, state):
    since = desk.now
    STATES[state][0](desk)
    if state is OverdueState.DELETING:
        desk.hold("deletions", "f")
    else:
        desk.hold("sending", holds.workspace_scope(None))
    desk.now += 10 * HOUR
    assert desk.overdue(progress_at=since) == []


def test_a_queue_that_moves_is_not_overdue_however_old_its_oldest_file(desk):
    queued(desk)
    desk.now += 10 * HOUR
    assert desk.overdue(progress_at=desk.now - 60) == []


def test_a_file_that_is_open_for_writing_is_not_overdue(desk):
    desk.see(b"a", settle=5.0, is_open=True)
    desk.now += 10 * HOUR
    assert desk.overdue() == []


def test_a_file_that_was_tried_again_and_again_is_named_whatever_its_age(desk):
    desk.see(b"a")
    desk.fail(b"a", 4)
    assert desk.overdue() == []
    desk.fail(b"a", 1)
    assert desk.overdue() == [(OverdueState.FAILING, "a", 1)]


def test_ages_count_from_when_a_file_was_due_first_and_not_from_its_next_try(desk):
    failing(desk)
    since = desk.now
    desk.now += 300
    copy = desk.begin(b"a")
    desk.do(desk.ledger.reserved, copy.id, "00000000-0000-4000-8000-000000000009")
    failure = Failure("the storage refuses it", 403)
    desk.do(desk.ledger.not_sent, copy.id, desk.now, failure=failure, again_at=desk.now + HOUR)
    desk.now = since + 601
    assert desk.overdue() == [(OverdueState.FAILING, "a", 1)]
    facts = desk.store.read(lambda db: overview.overview(db, desk.now))
    assert facts["folders"][0]["oldest_queued_seconds"] == 601


def test_a_file_that_was_put_off_again_and_again_waits_since_it_was_due_first(desk):
    from syncd.state import files

    desk.see(b"a")
    since = desk.now
    file = desk.store.read(lambda db: files.find(db, "f", b"a"))
    for _ in range(11):
        desk.do(desk.ledger.put_off, file.id, desk.now + 60)
        desk.now += 60
    assert desk.now - since > 600
    assert desk.overdue() == [(OverdueState.FAILING, "a", 1)]


@pytest.mark.row(79)
def test_a_delete_that_is_refused_is_named_with_its_cause(desk):
    desk.see(b"a")
    copy = desk.store_it(b"a")
    refused = Failure("the key may not delete", 403)
    desk.do(
        lambda db: db.conn.execute(
            "UPDATE copies SET status = 'retiring', attempts = 5, delete_sent_at = ?, due_at = ?, "
            "error_status = 403, error_message = ? WHERE id = ?",
            (desk.now, desk.now + 300, refused.message, copy.id),
        )
    )
    facts = desk.store.read(lambda db: overview.overview(db, desk.now))
    (reason,) = status._reasons(facts, desk.now)
    assert "not deleted remotely so far: f/a" in reason
    assert "the key may not delete (status 403)" in reason
    assert "syncd why f/a" in reason


def test_what_may_have_moved_into_a_paused_folder_waits_for_its_resume(desk):
    deleting(desk)
    desk.now += HOUR
    assert [state for state, _, _ in desk.overdue()] == [OverdueState.DELETING]
    desk.do(lambda db: db.conn.execute("INSERT INTO folders (name, path) VALUES ('p', x'2f70')"))
    moved = Observation(b"moved", Seen.PRESENT, Fingerprint(1, 3, 5, 5))
    settling = Settling(0.0, 60.0)
    known = {"settling": settling, "policies": POLICIES | {"p": Policy()}, "now": desk.now}
    desk.do(observations.record, "p", [moved], **known)
    assert desk.overdue() != []
    desk.do(pauses.pause, "p", None, desk.now)
    assert desk.overdue() == []
