import shutil
import sqlite3
from contextlib import closing, suppress

import pytest
from sqlite_utils import Database

from syncd.disk import Fingerprint
from syncd.exceptions import StateError
from syncd.state import files, folders
from syncd.state.database import schema
from syncd.state.database.migrations import migrations
from syncd.state.holds import decisions
from syncd.state.lifecycle import FileStatus

STEPS = [migration.name for migration in migrations._migrations]


def test_the_last_migration_is_the_one_by_which_a_current_database_is_known():
    assert STEPS[-1] == schema.LAST_MIGRATION


def test_a_new_database_is_made_in_one_commit(tmp_path, monkeypatch):
    connect, statements = schema._connect, []

    def watched(path):
        connection = connect(path)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(schema, "_connect", watched)
    schema.open_writable(tmp_path / schema.FILE_NAME).close()
    assert statements.count("COMMIT") == 1


def columns(db):
    tables = [
        row[0] for row in db.conn.execute("SELECT name FROM sqlite_master WHERE type='table'")
    ]
    return {
        table: {row[1] for row in db.conn.execute(f"PRAGMA table_info({table})")}
        for table in tables
    }


def test_a_database_of_the_first_version_is_brought_up_to_date_with_its_rows(tmp_path):
    path = tmp_path / schema.FILE_NAME
    old = Database(sqlite3.connect(path, isolation_level=None))
    migrations.apply(old, stop_before="what_is_noticed")
    assert old.conn.execute("PRAGMA user_version").fetchone()[0] == 1
    old.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f66')")
    old.conn.execute(
        "INSERT INTO files (folder, path, parent, status, inode, size, mtime_ns, ctime_ns, "
        "changed_at) VALUES ('f', x'61', x'', 'ready', 1, 2, 3, 4, 5.0)"
    )
    old.conn.close()
    schema.refuse_foreign(path)
    new = schema.open_writable(path)
    file = files.find(new, "f", b"a")
    assert (file.status, file.fingerprint) == (FileStatus.READY, Fingerprint(1, 2, 3, 4))
    assert (file.settling_since, file.is_open, file.is_skipped) == (None, False, False)
    fresh = schema.open_writable(tmp_path / "fresh.db")
    assert columns(new) == columns(fresh)
    assert new.conn.execute("PRAGMA user_version").fetchone()[0] == schema.SCHEMA_VERSION
    new.close()
    fresh.close()


def test_copies_that_retired_in_an_older_state_are_known_by_what_superseded_them(tmp_path):
    path = tmp_path / schema.FILE_NAME
    old = Database(sqlite3.connect(path, isolation_level=None))
    migrations.apply(old, stop_before="superseded_copies")
    old.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f66')")
    for file_id, copies_then in enumerate(
        ([("retiring", 3.0), ("live", 7.0)], [("retiring", 3.0)])
    ):
        old.conn.execute(
            "INSERT INTO files (id, folder, path, parent, status, changed_at) "
            "VALUES (?, 'f', ?, x'', 'ready', 5.0)",
            (file_id, b"%d" % file_id),
        )
        for status, live_at in copies_then:
            old.conn.execute(
                "INSERT INTO copies (file_id, token, status, generation, sha256, size, "
                "content_type, method, created_at, live_at) "
                "VALUES (?, 't', ?, 1, 's', 1, 'c', 'direct', 1.0, ?)",
                (file_id, status, live_at),
            )
    old.conn.close()
    with closing(schema.open_writable(path)) as new:
        known = new.conn.execute("SELECT superseded_at FROM copies ORDER BY id").fetchall()
        assert [row[0] for row in known] == [7.0, None, None]


@pytest.mark.row(66)
def test_the_workspaces_of_an_older_state_are_known_in_the_spelling_of_now(tmp_path):
    path = tmp_path / schema.FILE_NAME
    old = Database(sqlite3.connect(path, isolation_level=None))
    migrations.apply(old, stop_before="workspaces_in_one_spelling")
    old.conn.execute("INSERT INTO folders (name, path, workspace) VALUES ('f', x'2f66', 'ABC-d')")
    old.conn.execute("INSERT INTO folders (name, path, workspace) VALUES ('g', x'2f67', '')")
    old.conn.close()
    new = schema.open_writable(path)
    assert folders.workspaces(new) == {"f": "abc-d", "g": ""}
    new.close()


def test_open_holds_and_verdicts_of_an_older_state_are_carried_over(tmp_path):
    path = tmp_path / schema.FILE_NAME
    old = Database(sqlite3.connect(path, isolation_level=None))
    migrations.apply(old, stop_before="decisions_named")
    old.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f66')")
    for number, (stops, scope, reason) in enumerate(
        [("deletions", "f", "many_missing"), ("sending", "folder f", "remote_gone")], start=1
    ):
        old.conn.execute(
            "INSERT INTO holds (id, stops, scope, reason, message, affects, since) "
            "VALUES (?, ?, ?, ?, 'm', 1, 1.0)",
            (number, stops, scope, reason),
        )
    rows = [
        (b"held", "missing", None, None),
        (b"kept", "missing", "kept", 9),
        (b"gone", "ready", "gone", None),
        (b"rule", "ready", "forgotten", None),
        (b"plain", "ready", None, None),
    ]
    for number, (name, status, verdict, hold) in enumerate(rows, start=1):
        old.conn.execute(
            "INSERT INTO files (id, folder, path, parent, status, changed_at, due_at, verdict, "
            "hold_id) VALUES (?, 'f', ?, x'', ?, 5.0, 7.0, ?, ?)",
            (number, name, status, verdict, hold),
        )
        old.conn.execute(
            "INSERT INTO copies (file_id, token, status, generation, sha256, size, content_type, "
            "method, created_at) VALUES (?, 't', 'live', 1, 's', 1, 'c', 'direct', 1.0)",
            (number,),
        )
    old.conn.execute(
        "INSERT INTO holds (id, stops, scope, reason, message, since, released_at, verdict) "
        "VALUES (9, 'deletions', 'f', 'many_missing', 'm', 1.0, 2.0, 'rejected')"
    )
    old.conn.close()
    with closing(schema.open_writable(path)) as new:
        known = [files.find(new, "f", row[0]) for row in rows]
        assert [(file.verdict, file.hold_id) for file in known] == [
            *(("held", 1), ("kept", 9), ("held", 2), ("forgotten", None), (None, None)),
        ]
        assert known[0].due_at is None
        decisions.decide(new, 1, "approved", 100.0)
        assert files.find(new, "f", b"held").due_at == 110.0


def made(path, step):
    """Make a database as it was before the migration `step`, with rows where it had tables."""
    if step == STEPS[0]:
        return
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        migrations.apply(Database(connection), stop_before=step)
        connection.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f66')")
        connection.execute("INSERT INTO service (key, value) VALUES ('instance', '0123abcd')")


def facts(db):
    rows = "SELECT name, path FROM folders UNION ALL SELECT key, value FROM service"
    return [tuple(row) for row in db.conn.execute(rows)]


def assert_whole(path, step, fresh):
    schema.refuse_foreign(path)
    with closing(schema.open_writable(path, check=True)) as db:
        assert columns(db) == fresh
        assert facts(db) == ([] if step == STEPS[0] else [("f", b"/f"), ("instance", "0123abcd")])
        assert [applied.name for applied in migrations.applied(Database(db.conn))] == STEPS
        assert db.conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


@pytest.fixture
def fresh(tmp_path):
    with closing(schema.open_writable(tmp_path / "fresh.db")) as db:
        return columns(db)


@pytest.mark.long
@pytest.mark.row(28)
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_statement_of_a_migration_the_next_start_is_whole(
    tmp_path, monkeypatch, fresh, step
):
    """A kill at a statement leaves the disk as it is at that statement."""
    path, moments = tmp_path / "old" / schema.FILE_NAME, []
    path.parent.mkdir()
    made(path, step)
    connect = schema._connect

    def remember(statement):
        moments.append(tmp_path / f"{len(moments)}")
        shutil.copytree(path.parent, moments[-1], ignore=shutil.ignore_patterns("backups"))

    def watched(path):
        connection = connect(path)
        connection.set_trace_callback(remember)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(schema, "_connect", watched)
        schema.refuse_foreign(path)
        schema.open_writable(path, check=True).close()
    assert len(moments) > 10
    # Until it commits, a transaction leaves the files as they were.
    for moment in {content(moment): moment for moment in moments}.values():
        assert_whole(moment / schema.FILE_NAME, step, fresh)


def content(directory):
    return tuple(
        sorted((path.name, path.read_bytes()) for path in directory.iterdir() if path.is_file())
    )


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.row(28)
@pytest.mark.parametrize("number", [1, 20, pytest.param(None, marks=pytest.mark.long)])
@pytest.mark.parametrize("step", STEPS)
def test_a_migration_that_fails_at_any_statement_is_made_at_the_next_start(
    tmp_path, monkeypatch, fresh, step, number
):
    execute, made_before, left = Database.execute, tmp_path / "made", [0]

    def fails(self, *arguments):
        left[0] -= 1
        if left[0] == 0:
            raise sqlite3.OperationalError("disk I/O error")
        return execute(self, *arguments)

    made_before.mkdir()
    made(made_before / schema.FILE_NAME, step)
    for nth in [number] if number else range(1, 100):
        path = tmp_path / f"{nth}" / schema.FILE_NAME
        shutil.copytree(made_before, path.parent)
        with monkeypatch.context() as patch, suppress(StateError):
            patch.setattr(Database, "execute", fails)
            left[0] = nth
            schema.open_writable(path).close()
        assert_whole(path, step, fresh)
        if left[0] > 0:
            break
    assert number or nth > 5
