import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from syncd.exceptions import ForeignStateError, StateLockedError, StateWriteError
from syncd.state.database import schema
from syncd.state.database.store import Store, fact, lock_holder, set_fact
from syncd.state.database.writer import Writer


@pytest.fixture
def writer(tmp_path):
    writer = Writer(tmp_path / "state.db")
    writer.start()
    yield writer
    writer.stop()


def test_transactions_that_arrive_together_share_a_commit(writer):
    begun, go_on = threading.Event(), threading.Event()

    def slow(db):
        begun.set()
        go_on.wait(5)

    first = threading.Thread(target=writer.write, args=(slow,))
    first.start()
    begun.wait(5)
    others = [
        threading.Thread(target=writer.write, args=(lambda db, k=str(k): set_fact(db, k, k),))
        for k in range(20)
    ]
    for thread in others:
        thread.start()
    while writer._jobs.qsize() < 20:
        threading.Event().wait(0.005)
    go_on.set()
    for thread in [first, *others]:
        thread.join()
    assert writer.version == 2
    assert writer.write(lambda db: [fact(db, str(k)) for k in range(20)]) == [
        str(k) for k in range(20)
    ]


def test_a_transaction_that_fails_takes_no_other_with_it(writer):
    def fails(db):
        set_fact(db, "half", "done")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        writer.write(fails)
    writer.write(lambda db: set_fact(db, "whole", "done"))
    assert writer.write(lambda db: (fact(db, "half"), fact(db, "whole"))) == (None, "done")


def test_a_commit_that_fails_is_reported_as_unknown_and_the_database_is_reopened(writer):
    def breaks_the_disk(db):
        set_fact(db, "lost", "1")
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(StateWriteError, match="disk I/O error"):
        writer.write(breaks_the_disk)
    assert not writer.failed
    writer.write(lambda db: set_fact(db, "next", "1"))
    assert writer.write(lambda db: (fact(db, "lost"), fact(db, "next"))) == (None, "1")


@pytest.mark.long
def test_two_failed_commits_in_a_row_are_fatal(writer):
    def breaks_the_disk(db):
        raise sqlite3.OperationalError("disk I/O error")

    for _ in range(2):
        with pytest.raises(StateWriteError):
            writer.write(breaks_the_disk)
    assert writer.failed


@pytest.mark.long
def test_a_commit_of_nothing_is_no_sign_that_the_disk_is_well_again(writer, caplog):
    caplog.set_level("INFO", "syncd.state.database.writer")

    def breaks_the_disk(db):
        raise sqlite3.OperationalError("disk I/O error")

    for _ in range(2):
        with pytest.raises(StateWriteError):
            writer.write(breaks_the_disk)
        writer.write(lambda db: fact(db, "nothing"))
    assert writer.failed
    assert len(caplog.records) == 1, "one alert, and none of its end"


@pytest.mark.long
def test_a_full_disk_is_no_reason_to_give_up(writer):
    def fills_the_disk(db):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    for _ in range(3):
        with pytest.raises(StateWriteError):
            writer.write(fills_the_disk)
    assert (writer.failed, writer.recoveries) == (False, 0)
    writer.write(lambda db: set_fact(db, "again", "1"))
    # Observations of the meantime were not recorded: every folder is scanned for them.
    assert writer.recoveries == 1


def test_a_closed_writer_says_so(tmp_path):
    writer = Writer(tmp_path / "state.db")
    writer.start()
    writer.stop()
    with pytest.raises(StateWriteError, match="closed"):
        writer.write(lambda db: None)


def test_the_database_keeps_its_promises(writer):
    pragmas = [
        writer.write(lambda db, p=p: db.conn.execute(f"PRAGMA {p}").fetchone()[0])
        for p in ("journal_mode", "synchronous", "foreign_keys", "application_id", "user_version")
    ]
    assert pragmas == ["wal", 2, 1, schema.APPLICATION_ID, schema.SCHEMA_VERSION]


@pytest.mark.parametrize(
    "content",
    [b"hello, I am a letter", b"SQLite format 3\0" + b"\0" * 84 + b"x" * 5000],
    ids=["text", "another program's database"],
)
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(ForeignStateError, match="not a state database of syncd"):
        Store(tmp_path).open(0.0)
    assert path.read_bytes() == content


def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path):
    store = Store(tmp_path)
    store.open(0.0)
    store.write(lambda db: db.conn.execute("PRAGMA user_version = 99"))
    store.close()
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(ForeignStateError, match="newer syncd"):
        Store(tmp_path).open(0.0)
    assert (tmp_path / "state.db").read_bytes() == before


def test_a_second_instance_is_told_who_holds_the_state(tmp_path, monkeypatch):
    monkeypatch.setattr("syncd.state.database.directory.LOCK_SECONDS", 0.1)
    store = Store(tmp_path)
    store.open(0.0)
    with pytest.raises(StateLockedError, match=f"process {os.getpid()}"):
        Store(tmp_path).open(0.0)
    assert lock_holder(tmp_path) == os.getpid()
    store.close()
    assert lock_holder(tmp_path) is None


def test_the_state_is_for_its_owner_alone(tmp_path):
    store = Store(tmp_path / "state")
    store.open(0.0)
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "state").iterdir()}
    store.close()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}


REACHED = {
    "an object of a probe": "INSERT INTO service VALUES ('probe left', '[]')",
    "a URL that it fetches": "INSERT INTO service VALUES ('fetch 0a', '{}')",
    "an unanswered upload": "INSERT INTO unanswered VALUES "
    "('t', 1, 1, 1, NULL, 'direct', 'text/plain', '', 1, 0.0, 0, 0.0)",
}


@pytest.mark.parametrize("sql", REACHED.values(), ids=REACHED)
def test_a_state_belongs_to_the_service_that_may_hold_something_of_it(tmp_path, sql):
    store = Store(tmp_path)
    store.open(0.0)
    store.bind("http://misspelt", 0.0, advice="set it back")
    store.bind("http://a", 0.0, advice="set it back")
    store.write(lambda db: db.conn.execute(sql))
    store.bind("http://a", 0.0, advice="set it back")
    with pytest.raises(ForeignStateError, match="set it back"):
        store.bind("http://b", 0.0, advice="set it back")
    store.close()


def test_the_sandbox_of_a_service_is_another_service(tmp_path):
    store = Store(tmp_path)
    store.open(0.0)
    store.bind("http://a", 0.0, advice="", sandbox=True)
    store.bind("http://a", 0.0, advice="")
    store.write(lambda db: db.conn.execute(REACHED["an unanswered upload"]))
    store.bind("http://a", 0.0, advice="", sandbox=None)
    with pytest.raises(ForeignStateError, match=r"to base url http://a, and not to .*\(sandbox\)"):
        store.bind("http://a", 0.0, advice="", sandbox=True)
    store.close()


def test_an_older_state_takes_the_sandbox_that_is_configured_first(tmp_path):
    store = Store(tmp_path)
    store.open(0.0)
    store.bind("http://a", 0.0, advice="")
    store.write(lambda db: db.conn.execute(REACHED["an unanswered upload"]))
    store.write(lambda db: db.conn.execute("DELETE FROM service WHERE key = 'sandbox'"))
    store.bind("http://a", 0.0, advice="", sandbox=True)
    with pytest.raises(ForeignStateError):
        store.bind("http://a", 0.0, advice="", sandbox=False)
    store.close()


def test_a_write_by_a_reader_is_refused(store):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.read(lambda db: set_fact(db, "k", "v"))


def test_another_program_that_opens_and_closes_the_database_takes_nothing_from_us(store):
    """A lock lost on the way would let it delete the WAL, and our next commits with it."""
    store.write(lambda db: set_fact(db, "before", "1"))
    store.read(lambda db: fact(db, "before"))
    path = str(store.directory / "state.db")
    look = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
    query = "print([r[0] for r in db.execute('SELECT key FROM service')]); db.close()"
    subprocess.run([sys.executable, "-c", look + query, path], check=True, capture_output=True)
    store.write(lambda db: set_fact(db, "after", "1"))
    told = subprocess.run(
        [sys.executable, "-c", look + query, path], check=True, capture_output=True, text=True
    ).stdout
    assert "after" in told


def test_a_query_within_a_query_shares_its_view(store):
    assert store.read(lambda _: store.read(lambda db: fact(db, "none"))) is None


def test_no_transaction_is_left_waiting_when_the_writer_stops(tmp_path):
    writer = Writer(tmp_path / "state.db")
    writer.start()
    outcomes = []

    def keep_writing():
        try:
            while True:
                writer.write(lambda db: fact(db, "k"))
        except StateWriteError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=keep_writing) for _ in range(4)]
    for thread in threads:
        thread.start()
    writer.stop()
    for thread in threads:
        thread.join(5)
    assert len(outcomes) == 4


@pytest.mark.long
@pytest.mark.row(22)
def test_a_table_that_another_process_locks_is_waited_for_and_nothing_is_believed(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    store = Store(tmp_path)
    store.open(0.0)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(5):
            with pytest.raises(StateWriteError, match="locked"):
                store.write(lambda db: set_fact(db, "known", "too early"))
        other.execute("ROLLBACK")
    assert not store.failed, "a lock heals by itself: no restart, and no loop of them"
    store.write(lambda db: set_fact(db, "known", "yes"))
    assert store.fact("known") == "yes"
    store.close()
