"""Observations that are recorded together leave the table as one by one."""

import random
import sqlite3
from contextlib import closing

import pytest

from syncd.disk import Fingerprint
from syncd.state import files, observations
from syncd.state.database import migrations
from syncd.state.database.connection import Database
from syncd.state.observations import Observation, Seen, Settling
from syncd.state.planner import Policy

PATHS = [b"d/%d\xff" % number for number in range(12)]


def tables():
    """Return an empty state in memory."""
    db = Database(sqlite3.connect(":memory:", isolation_level=None))
    db.conn.row_factory = sqlite3.Row
    migrations.apply(db.conn)
    db.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f66')")
    return db


def record(db, seen, now, *, skip=False):
    settling = Settling(5.0, 60.0, skip_existing=skip)
    policies = {"f": Policy()}
    db.conn.execute("BEGIN")
    changed = observations.record(db, "f", seen, settling=settling, policies=policies, now=now)
    db.conn.execute("COMMIT")
    return changed


def rows(db):
    """Return the files without their numbers, which tell in which order they came."""
    return [tuple(row)[1:] for row in db.conn.execute("SELECT * FROM files ORDER BY path")]


def an_observation(pick):
    mark = Fingerprint(pick.randrange(3), 7, 0, pick.choice((0, 10**9, 10**12)))
    return Observation(
        pick.choice(PATHS),
        seen := pick.choice((*[Seen.PRESENT] * 4, *Seen)),
        mark if seen is Seen.PRESENT else None,
        is_open=pick.random() < 0.2,
        reason="why",
    )


def test_a_batch_leaves_what_its_observations_leave_one_by_one(monkeypatch):
    monkeypatch.setattr(observations, "backoff_seconds", lambda _: 1.0)
    pick = random.Random(1)
    for _ in range(60):
        with closing(tables()) as together, closing(tables()) as alone:
            skip = pick.random() < 0.3
            for now in (100.0, 200.0, 3000.0):
                seen = [an_observation(pick) for _ in range(pick.randrange(1, 15))]
                changed = record(together, seen, now, skip=skip)
                assert changed == sum(record(alone, [one], now, skip=skip) for one in seen)
                assert rows(together) == rows(alone)


@pytest.mark.row(2)
def test_one_new_file_that_cannot_be_recorded_leaves_the_others(monkeypatch):
    real = observations._new_row

    def fails(observation, *more):
        if observation.path == PATHS[1]:
            raise ValueError("odd")
        return real(observation, *more)

    with closing(tables()) as db:
        monkeypatch.setattr(observations, "_new_row", fails)
        seen = [Observation(path, Seen.PRESENT, Fingerprint(1, 1, 1, 1)) for path in PATHS[:3]]
        assert record(db, seen, 100.0) == 2
        assert {file.path for file in files.where(db, "1")} == {PATHS[0], PATHS[2]}
