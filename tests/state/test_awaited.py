"""The table's answers to `wait`, for many paths and for files that are gone."""

from syncd.state import awaited, files
from syncd.state.lifecycle import FileStatus, Verdict
from tests.state.test_costs import add_copy, add_file, add_folder

NOW = 1_000.0


def test_more_paths_are_waited_for_than_a_statement_has_variables(store):
    def fill(db):
        add_folder(db)
        for path in (b"a/1", b"b", b"bc", b"other"):
            add_file(db, path, due_at=NOW)

    store.write(fill)
    many = [("f", b"a"), ("f", b"b"), *(("f", b"none/%d" % n) for n in range(40_000))]
    left = store.read(lambda db: awaited.count(db, many, up_to=9))
    assert (sum(left.going.values()), left.example) == (2, ("f", b"a/1"))
    rows = store.read(lambda db: awaited.page(db, many, up_to=9, after=("", b""), limit=10))
    assert [place for place, _ in rows] == [("f", b"a/1"), ("f", b"b")]


def test_a_file_whose_deletion_is_held_is_waited_for_by_nobody(store):
    def fill(db):
        add_folder(db)
        file_id = add_file(db, b"gone", status=FileStatus.MISSING, sha256="0" * 64)
        add_copy(db, file_id, 1)
        files.update(db, file_id, verdict=Verdict.HELD)

    store.write(fill)
    left = store.read(lambda db: awaited.count(db, [("f", b"")], up_to=9))
    assert (left.going, left.blocked) == ({}, 0)
    rows = store.read(lambda db: awaited.page(db, [("f", b"")], up_to=9, after=("", b""), limit=10))
    assert rows == []
