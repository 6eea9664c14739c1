import json

import pytest

from syncd.identity import identify
from syncd.state import folders
from syncd.state.store import Store


@pytest.fixture
def held(desk, monkeypatch):
    """A state in which 21 of 22 files of f are missing, and held."""
    monkeypatch.setenv("AYMARA_AI_API_KEY", "key-of-the-test")
    root = str(desk.home / "f").encode()
    desk.do(folders.accept_root, "f", root, identify(root), 1.0)
    for number in range(22):
        desk.sync(b"d/%02d" % number, number)
    for number in range(21):
        desk.miss(b"d/%02d" % number)
    desk.now += 61
    desk.do(desk.deletions.review, "f", desk.now)
    return desk


@pytest.fixture
def closed(held):
    """The same, with no daemon at work."""
    held.store.close()
    return held


def reopen(desk):
    desk.store = Store(desk.directory)
    desk.store.open(desk.now)
    return desk


def test_the_list_says_what_is_missing_and_both_commands(held, syncd):
    code, out, _ = syncd("deletes", "list")
    assert code == 1
    for words in ("many_missing", "21 files, all in d", "d/00", "syncd deletes approve 1"):
        assert words in out
    assert "syncd deletes reject 1" in out
    code, out, _ = syncd("status")
    assert "syncd deletes approve 1" in out


def test_the_list_as_json_has_every_fact_and_the_files_a_line_each(held, syncd):
    _, out, _ = syncd("deletes", "list", "--json")
    (item,) = json.loads(out)
    assert (item["id"], item["folder"], item["affects"], item["parent"]) == (1, "f", 21, "d")
    assert (len(item["first"]), item["verdict"]) == (10, None)
    _, out, _ = syncd("deletes", "list", "1", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"] for line in lines] == [f"d/{number:02}" for number in range(21)]
    assert all(line["file_uuid"] and line["status"] == "held" for line in lines)


def test_nothing_to_review_is_said_and_is_well(desk, syncd):
    assert syncd("deletes", "list") == (0, "nothing waits for a decision\n", "")


def test_why_tells_of_what_was_deleted_with_its_uuid_and_its_evidence(held, syncd_json, syncd):
    held.do(lambda db: db.conn.execute("UPDATE holds SET released_at = 1"))
    copy = held.store.read(
        lambda db: db.conn.execute("SELECT id, file_uuid FROM copies ORDER BY id").fetchone()
    )
    file = held.file(b"d/00")
    held.do(held.deletions.confirm_missing, file.id, held.now, checks=["the root is right"])
    held.do(held.deletions.begin_delete, copy[0], held.now)
    held.do(held.deletions.deleted, copy[0], held.now)
    _, told = syncd_json("why", "f/d/00", "--json")
    assert told["status"] == "deleted"
    evidence = told["copies"][0]["evidence"]
    assert (evidence["missing_seconds"], evidence["checks"]) == (61, ["the root is right"])
    assert [(h["event"], h["file_uuid"]) for h in told["history"]][-1] == ("deleted", copy[1])
    _, out, _ = syncd("why", "f/d/00")
    assert copy[1] in out
    assert "seen twice" in out


def test_a_verdict_that_is_carried_out_is_listed_without_a_way_back(closed, syncd):
    assert "21 files are deleted remotely now" in syncd("deletes", "approve", "1")[1]
    assert "> syncd deletes reject 1" in syncd("deletes", "list", "--all")[1]
    reopen(closed).do(lambda db: db.conn.execute("DELETE FROM copies"))
    assert "syncd deletes reject" not in syncd("deletes", "list", "--all")[1]
