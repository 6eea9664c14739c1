"""The cost of a file, a version or a listing does not grow with their number."""

from contextlib import closing
from uuid import UUID

import pytest
from sqlite_utils import Database

from syncd.disk import Fingerprint
from syncd.state import copies, due, files, grace, history, intents, observations, scan_index
from syncd.state.copies import NEWEST_KEPT, Copy
from syncd.state.database import schema
from syncd.state.database.migrations import migrations
from syncd.state.ledger import Ledger, Offer, Stored
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.observations import Observation, Seen, Settling
from syncd.state.planner import Policy

POLICIES = {"f": Policy()}
SETTLING = Settling(settle_seconds=5.0, grace_seconds=60.0)
NOW = 1e9
A = "a" * 64
DAY = 86_400.0

pytestmark = pytest.mark.row(87)


def add_folder(db):
    db.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f66')")


def add_file(db, path, *, status=FileStatus.READY, sha256=None, due_at=None):
    mark = Fingerprint(1, 1, 1, 1)
    file_id = files.insert(
        db, folder="f", path=path, status=status, fingerprint=mark, changed_at=0.0, due_at=due_at
    )
    files.update(db, file_id, sha256=sha256)
    return file_id


def add_copy(db, file_id, number, status=CopyStatus.LIVE, **more):
    copy = Copy(
        id=0,
        file_id=file_id,
        token=f"t{number}",
        file_uuid=str(UUID(int=number)),
        status=status,
        wanted=True,
        in_flight=False,
        generation=1,
        sha256=A,
        size=1,
        content_type="text/plain",
        workspace_uuid=None,
        method="direct",
        live_at=1.0,
    )
    return copies.insert(db, copy._replace(**more))


def steps(db, query):
    """Return how much SQLite worked, in units of ten instructions."""
    worked = []
    db.conn.set_progress_handler(lambda: worked.append(1) and None, 10)
    try:
        query(db)
    finally:
        db.conn.set_progress_handler(None, 0)
    return len(worked)


def count(store, table):
    return store.read(lambda db: db.conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def make_version(store, verbs, number):
    """Let the file hold new content, and bring that up; the version before is deleted."""
    mark = Fingerprint(1, 1, number, number)
    seen = [Observation(b"a", Seen.PRESENT, mark)]
    store.write(
        lambda db: observations.record(
            db, "f", seen, settling=Settling(0, 60), policies=POLICIES, now=NOW
        )
    )
    file = store.read(lambda db: files.find(db, "f", b"a"))
    offer = Offer(file.id, mark, f"{number:064x}", "text/plain", "direct")
    copy = store.write(lambda db: verbs.begin(db, offer, NOW))
    stored = Stored(str(UUID(int=number)), None, "completed")
    store.write(lambda db: verbs.stored(db, copy.id, stored, NOW, look=NOW))
    for old in store.read(lambda db: copies.where(db, "status = 'retiring'")):
        store.write(lambda db, c=old: copies.move(db, c, CopyStatus.GONE, gone_at=NOW))


def test_of_a_file_that_changes_all_the_time_the_newest_versions_are_kept(store, monkeypatch):
    for module in (copies, history):
        monkeypatch.setattr(module, "NEWEST_KEPT", 10)
    store.write(add_folder)
    verbs = Ledger(policies=POLICIES, instance=store.instance)
    for number in range(1, 26):
        make_version(store, verbs, number)
    kept = store.read(lambda db: copies.where(db, "1 ORDER BY id"))
    assert [copy.file_uuid for copy in kept] == [str(UUID(int=n)) for n in range(15, 26)]
    assert [copy.status for copy in kept] == [CopyStatus.GONE] * 10 + [CopyStatus.LIVE]
    assert count(store, "history") == 10


@pytest.mark.long
def test_old_versions_make_no_new_one_dearer(store):
    store.write(add_folder)
    file_id = store.write(lambda db: add_file(db, b"a"))
    store.write(lambda db: add_copy(db, file_id, 1))
    few = store.read(lambda db: steps(db, lambda db: copies.of_file(db, file_id)))
    for number in range(2, 1000):
        store.write(lambda db, n=number: add_copy(db, file_id, n, CopyStatus.GONE, gone_at=NOW))
    assert store.read(lambda db: steps(db, lambda db: copies.of_file(db, file_id))) <= few + 1


def test_many_files_of_equal_content_make_no_new_one_dearer(store):
    def search(db):
        return intents.rename_sources(db, 0, A, 1, None)

    def add(db, numbers):
        for number in numbers:
            add_copy(db, add_file(db, b"%d" % number, sha256=A), number)

    store.write(add_folder)
    store.write(lambda db: add(db, range(1, 20)))
    few = store.read(lambda db: steps(db, search))
    store.write(lambda db: add(db, range(20, 1000)))
    assert store.read(lambda db: steps(db, search)) <= few + 1
    missing = store.write(
        lambda db: add_file(db, b"old", status=FileStatus.MISSING, sha256=A, due_at=NOW)
    )
    store.write(lambda db: add_copy(db, missing, 1000))
    found = store.read(search)
    # Most likely it was moved from where it is known to be missing.
    assert found[0].file_id == missing
    assert len(found) == intents.RENAME_SOURCES


def test_what_is_old_is_forgotten_a_little_at_a_time(store):
    def fill(db):
        add_folder(db)
        for number in range(20):
            event = "deleted" if number % 2 else "synced"
            db.conn.execute(
                "INSERT INTO history (at, folder, path, event) VALUES (?, 'f', x'61', ?)",
                (NOW - 100 * DAY - 20 * DAY * number, event),
            )
        file_id = add_file(db, b"a")
        for number in range(5):
            add_copy(db, file_id, number, CopyStatus.GONE, gone_at=NOW - 400 * DAY)
        add_copy(db, file_id, 10, CopyStatus.GONE, gone_at=NOW - 300 * DAY)
        for number in range(3):
            add_file(db, b"x%d" % number, status=FileStatus.INELIGIBLE)

    store.write(fill)
    rounds = []
    while forgotten := store.write(lambda db: history.prune(db, NOW, limit=4)):
        rounds.append(forgotten)
    assert max(rounds) == 4
    # Ten that were no deletions, and the deletions of more than a year ago.
    assert sum(rounds) == 10 + 3 + 5 + 3
    assert (count(store, "history"), count(store, "copies"), count(store, "files")) == (7, 1, 1)


def test_a_ledger_that_has_grown_before_is_cut_back_when_it_is_brought_up_to_date(tmp_path):
    path = tmp_path / "state.db"
    with closing(schema._connect(path)) as connection:
        db = Database(connection)
        migrations.apply(db, stop_before="costs_kept_flat")
        connection.execute("BEGIN")
        # Rows are written as they are now, with a column that a later step adds.
        connection.execute("ALTER TABLE copies ADD COLUMN superseded_at REAL")
        add_folder(db)
        file_id = add_file(db, b"a")
        for number in range(1, NEWEST_KEPT + 51):
            add_copy(db, file_id, number, CopyStatus.GONE)
            connection.execute(
                "INSERT INTO history (at, folder, path, event) VALUES (?, 'f', x'61', 'synced')",
                (float(number),),
            )
        add_copy(db, file_id, 1000)
        connection.execute("ALTER TABLE copies DROP COLUMN superseded_at")
        connection.execute("COMMIT")
    with closing(schema.open_writable(path)) as db:
        kept = copies.where(db, "status = 'gone' ORDER BY id")
        assert [copy.token for copy in kept] == [f"t{n}" for n in range(51, NEWEST_KEPT + 51)]
        assert len(copies.where(db, "status = 'live'")) == 1
        oldest = db.conn.execute("SELECT count(*), min(at) FROM history").fetchone()
        assert tuple(oldest) == (NEWEST_KEPT, 51.0)


def test_the_log_is_cut_back_once_all_of_it_is_in_the_database(store):
    def limit(db):
        return db.conn.execute("PRAGMA journal_size_limit").fetchone()[0]

    assert store.write(limit) == 64 << 20


@pytest.mark.row(81)
def test_what_is_due_follows_a_clock_that_was_set_back(store):
    set_back = 3000.0

    def fill(db):
        add_folder(db)
        add_file(db, b"soon", status=FileStatus.SETTLING, due_at=NOW + set_back + 5)
        add_file(db, b"over", due_at=NOW + set_back - 100)
        add_file(db, b"past", due_at=NOW - 10)

    store.write(fill)
    store.write(lambda db: grace.restart(db, NOW, ["f"], set_back=set_back))
    due = {file.path: file.due_at for file in store.read(lambda db: files.where(db, "1"))}
    assert due == {b"soon": NOW + 5, b"over": NOW, b"past": NOW - 10}


@pytest.mark.row(81)
def test_a_request_that_began_while_the_clock_was_read_keeps_its_time(store):
    def fill(db):
        add_folder(db)
        for number, sent_at in enumerate((NOW + 0.01, NOW + 60)):
            file_id = add_file(db, b"%d" % number)
            add_copy(db, file_id, number, CopyStatus.SENDING, sent_at=sent_at)

    store.write(fill)
    store.write(lambda db: grace.restart(db, NOW, ["f"]))
    sent = [copy.sent_at for copy in store.read(lambda db: copies.where(db, "1 ORDER BY id"))]
    assert sent == [NOW + 0.01, grace.LONG_AGO]


@pytest.mark.row(81)
def test_a_file_that_changed_after_now_settles_from_now_on(store):
    mark = Fingerprint(1, 1, 1, 1)
    seen = [Observation(b"a", Seen.PRESENT, mark)]

    def look(db, now):
        observations.record(db, "f", seen, settling=SETTLING, policies=POLICIES, now=now)
        return files.find(db, "f", b"a").status

    def fill(db):
        add_folder(db)
        file_id = add_file(db, b"a", status=FileStatus.SETTLING, due_at=NOW)
        files.update(db, file_id, changed_at=NOW + 3000)

    store.write(fill)
    assert store.write(lambda db: look(db, NOW)) is FileStatus.SETTLING
    assert store.write(lambda db: look(db, NOW + 4)) is FileStatus.SETTLING
    assert store.write(lambda db: look(db, NOW + 5)) is FileStatus.READY


@pytest.mark.parametrize("status", [FileStatus.MISSING, FileStatus.CONSUMED, FileStatus.INELIGIBLE])
def test_files_that_are_gone_make_no_scan_and_no_pass_dearer(store, status):
    def work(number):
        def fill(db):
            for at in range(number):
                add_file(db, b"d/%d" % (at + number), status=status)
                add_file(db, b"%d/a" % (at + number), status=status)
            return [
                steps(
                    db, lambda db: scan_index.expected_in(db, "f", [b"d"], skips=False, limit=1000)
                ),
                steps(db, lambda db: scan_index.in_directory(db, "f", b"d")),
                steps(db, lambda db: scan_index.next_directories(db, "f", b"", 1000)),
                steps(db, lambda db: due.pass_counts(db, now=NOW, attempts=5, deletions=False)),
            ]

        return store.write(fill)

    store.write(add_folder)
    store.write(lambda db: add_file(db, b"d/there"))
    many, few = work(1000), work(1)
    assert all(after <= before + 10 for before, after in zip(few, many, strict=True))
