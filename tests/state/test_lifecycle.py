import itertools
import sqlite3

import pytest

from syncd.state import copies, files
from syncd.state.lifecycle import ARROWS, CopyStatus, FileStatus


@pytest.fixture
def file_id(store):
    def insert(db):
        db.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'2f66')")
        return files.insert(
            db,
            folder="f",
            path=b"a",
            status=FileStatus.READY,
            fingerprint=None,
            changed_at=0.0,
            due_at=None,
        )

    return store.write(insert)


def insert_copy(store, file_id, status):
    copy = copies.Copy(
        id=0,
        file_id=file_id,
        token="t",
        file_uuid=None,
        status=status,
        wanted=True,
        in_flight=False,
        generation=1,
        sha256="0" * 64,
        size=1,
        content_type="text/plain",
        workspace_uuid=None,
        method="direct",
    )
    return store.write(lambda db: copies.insert(db, copy)).id


def test_the_database_refuses_every_change_of_status_without_an_arrow(store, file_id):
    for source, target in itertools.permutations(CopyStatus, 2):
        copy_id = insert_copy(store, file_id, source)

        def change(db, copy_id=copy_id, target=target):
            db.conn.execute("UPDATE copies SET status = ? WHERE id = ?", (target, copy_id))

        if target in ARROWS[source]:
            store.write(change)
            assert store.read(lambda db, i=copy_id: copies.get(db, i)).status is target
        else:
            with pytest.raises(sqlite3.IntegrityError, match="no such change"):
                store.write(change)
            assert store.read(lambda db, i=copy_id: copies.get(db, i)).status is source
        store.write(lambda db, i=copy_id: db.conn.execute("DELETE FROM copies WHERE id = ?", (i,)))


def test_a_file_has_at_most_one_live_copy(store, file_id):
    insert_copy(store, file_id, "live")
    with pytest.raises(sqlite3.IntegrityError):
        insert_copy(store, file_id, "live")


def test_every_status_but_gone_leads_somewhere():
    assert {status for status in CopyStatus if not ARROWS[status]} == {CopyStatus.GONE}
