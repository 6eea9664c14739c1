"""How fast files are sent, how much is left, and how long that takes."""

import pytest

from syncd.disk import Fingerprint
from syncd.report.rates import WINDOW_SECONDS, Meter, Rate, SentTotals, seconds_left
from syncd.state import files, observations, overview
from syncd.state.ledger import Ledger, Offer, Stored
from syncd.state.observations import Observation, Seen, Settling
from syncd.state.planner import Policy
from syncd.workers.transfers import Transfers

POLICIES = {"f": Policy(), "g": Policy()}


def test_the_rate_is_the_average_of_the_last_seconds():
    now = [0.0]
    meter = Meter(monotonic=lambda: now[0])
    assert meter.note(SentTotals(0, 0)) == Rate(0.0, 0.0)
    for second in range(1, 11):
        now[0] = second
        rate = meter.note(SentTotals(second // 5, second * 1000))
    assert rate == Rate(0.2, 1000)
    now[0] += WINDOW_SECONDS / 2
    assert 0 < meter.note(SentTotals(2, 10_000)).bytes < 1000
    now[0] += WINDOW_SECONDS
    assert meter.note(SentTotals(2, 10_000)) == Rate(0.0, 0.0)


def test_a_rest_before_is_no_part_of_the_rate():
    now = [0.0]
    meter = Meter(monotonic=lambda: now[0])
    for second in range(9):
        now[0] = second
        meter.note(SentTotals(0, 0))
    now[0] = 10.0
    assert meter.note(SentTotals(0, 4000)).bytes == 2000


def test_totals_that_begin_anew_are_no_negative_rate():
    now = [0.0]
    meter = Meter(monotonic=lambda: now[0])
    meter.note(SentTotals(9, 9000))
    now[0] = 1.0
    assert meter.note(SentTotals(0, 0)) == Rate(0.0, 0.0)
    now[0] = 2.0
    assert meter.note(SentTotals(1, 500)) == Rate(1.0, 500)


@pytest.mark.parametrize(
    ("files", "size", "rate", "seconds"),
    [
        (0, 0, Rate(0.0, 0.0), 0.0),
        (3, 900, Rate(0.0, 0.0), None),
        (3, 900, Rate(0.0, 100.0), 9.0),
        # A file a minute says nothing about when three more are there.
        (3, 900, Rate(0.05, 100.0), 9.0),
        # Thousands of small files are bound by their number.
        (5000, 50_000, Rate(20.0, 1e6), 250.0),
    ],
)
def test_the_time_left_follows_from_bytes_and_for_small_files_from_their_number(
    files, size, rate, seconds
):
    assert seconds_left(files, size, rate) == seconds


def test_what_was_sent_counts_transfers_that_ended_and_those_under_way_but_no_reading():
    class File:
        folder, path = "f", b"x"

    transfers = Transfers(lambda: 0.0)
    with (
        transfers.under_way(File, 10) as first,
        transfers.under_way(File, 10, is_read=True) as read,
    ):
        transfers.moved(first, 4)
        transfers.moved(read, 10)
        assert transfers.sent() == (0, 4)
    assert transfers.sent() == (1, 4)
    assert transfers.all() == []


def test_the_backlog_holds_what_is_to_be_sent_and_nothing_else(store):
    now, ledger = 1e6, Ledger(policies=POLICIES, instance=store.instance)

    def see(folder, path, size, settle=0.0):
        mark = Fingerprint(size, size, size, int(now * 1e9))
        store.write(
            lambda db: observations.record(
                db,
                folder,
                [Observation(path, Seen.PRESENT, mark)],
                settling=Settling(settle, 60.0),
                policies=POLICIES,
                now=now,
            )
        )
        return store.read(lambda db: files.find(db, folder, path))

    def begin(file):
        offer = Offer(file.id, file.fingerprint, "ab" * 32, "text/plain", "direct", ())
        return store.write(lambda db: ledger.begin(db, offer, now))

    store.write(
        lambda db: db.conn.execute(
            "INSERT INTO folders (name, path) VALUES ('f', x'2f'), ('g', x'2f')"
        )
    )
    see("f", b"queued", 5)
    begin(see("f", b"being sent", 70))
    see("f", b"settling", 1100, settle=50.0)
    doubted = begin(see("f", b"in doubt", 13_000))
    store.write(
        lambda db: db.conn.execute("UPDATE copies SET in_flight = 0 WHERE id = ?", [doubted.id])
    )
    copy = begin(see("f", b"synced", 170_000))
    stored = Stored("00000000-0000-4000-8000-000000000001", "r", None)
    store.write(lambda db: ledger.stored(db, copy.id, stored, now, look=now))
    see("g", b"queued", 19)
    assert store.read(overview.backlog) == {"f": 75, "g": 19}
