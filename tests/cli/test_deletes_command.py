import io
import json
import sys
from types import SimpleNamespace

import click
import pytest

from syncd.identity import identify
from syncd.state import copies, folders, holds
from syncd.state.database.store import Store
from syncd.state.holds import decisions


@pytest.fixture
def held(desk, monkeypatch):
    """A state in which 21 of 22 files of f are missing, and held."""
    monkeypatch.setenv("AYMARA_AI_API_KEY", "key-of-the-test")
    root = str(desk.home / "f").encode()
    desk.do(folders.note, "f", root, 1.0)
    desk.do(folders.accept_part, "f", b"", identify(root))
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


def yes(verb):
    return ["--yes"] if verb == "approve" else []


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


@pytest.mark.long
@pytest.mark.parametrize("what", ["1", "f"])
@pytest.mark.parametrize(("verb", "verdict"), [("approve", "approved"), ("reject", "kept")])
def test_a_verdict_is_recorded_and_says_how_to_undo_it(closed, syncd, verb, verdict, what):
    code, out, err = syncd("deletes", verb, *yes(verb), what)
    other = {"approve": "reject", "reject": "approve"}[verb]
    assert code == 0
    assert "21 files" in out
    assert f"to undo it: syncd deletes {other} 1" in out
    assert "syncd run" in err
    assert syncd("deletes", "list")[0] == 0
    code, out, _ = syncd("deletes", "list", "--all", "--json")
    (item,) = json.loads(out)
    assert item["verdict"] == {"approve": "approved", "reject": "rejected"}[verb]
    assert len(syncd("deletes", "list", "1", "--json")[1].splitlines()) == 21
    assert str(reopen(closed).file(b"d/03").verdict) == verdict
    assert closed.file(b"d/21").verdict is None


@pytest.mark.parametrize("what", ["1", "f"])
def test_an_undone_verdict_is_the_other_one(closed, syncd, what):
    assert syncd("deletes", "approve", "--yes", "1")[0] == 0
    _, out, _ = syncd("deletes", "reject", what, "--json")
    assert json.loads(out) == {
        "verdict": "rejected",
        "holds": [
            {
                "id": 1,
                "reason": "many_missing",
                "folder": "f",
                "files": 21,
                "undo": "syncd deletes approve 1",
            }
        ],
    }
    assert {row.verdict for row in map(reopen(closed).file, [b"d/00", b"d/20"])} == {"kept"}


@pytest.mark.parametrize("arguments", [["1"], ["f"], ["1", "--json"]])
def test_without_a_terminal_an_approval_needs_a_yes(closed, syncd, arguments):
    code, out, err = syncd("deletes", "approve", *arguments)
    assert (code, out) == (2, "")
    assert "--yes" in err
    assert reopen(closed).file(b"d/03").verdict == "held"


@pytest.mark.parametrize(("answer", "verdict"), [("y", "approved"), ("n", "held")])
def test_an_approval_says_what_it_deletes_and_asks(closed, syncd, monkeypatch, answer, verdict):
    terminal = io.StringIO(f"{answer}\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    code, _, err = syncd("deletes", "approve", "1")
    assert code == (0 if answer == "y" else 1)
    assert ("nothing was approved" in err) == (answer == "n")
    assert "the remote copies of 21 files of f will be deleted" in err
    assert "d/09" in err
    assert reopen(closed).file(b"d/03").verdict == verdict


@pytest.mark.row(66)
def test_what_is_named_after_a_hold_was_shown_is_not_approved_with_it(desk, syncd, monkeypatch):
    """Files that a verification finds gone while somebody reads the list are another question."""
    monkeypatch.setenv("AYMARA_AI_API_KEY", "key-of-the-test")
    root = str(desk.home / "f").encode()
    desk.do(folders.note, "f", root, 1.0)
    desk.do(folders.accept_part, "f", b"", identify(root))
    lost = [desk.sync(b"%d" % number, number + 1) for number in range(3)]
    for copy in lost[:2]:
        desk.do(desk.ledger.gone_remotely, copy.id, desk.now)
    newest = desk.store.read(lambda db: decisions.last_named(db, 1))
    desk.do(desk.ledger.gone_remotely, lost[2].id, desk.now)
    decision = desk.do(decisions.decide, 1, "approved", desk.now, up_to=newest)
    assert decision.files == 2
    assert [str(desk.file(b"%d" % n).verdict) for n in range(3)] == 2 * ["forgotten"] + ["held"]
    (hold,) = desk.store.read(holds.open_holds)
    assert (hold.id, hold.reason, hold.first) == (2, "remote_gone", ["2"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("approve", "--yes", "77"), "there is no hold 77"),
        (("approve", "--yes", "g"), "no deletions of g are held"),
        (("reject", "nowhere"), "no folder 'nowhere'"),
        (("list", "77"), "there is no hold 77"),
    ],
)
def test_what_cannot_be_decided_is_an_error_that_says_why(closed, syncd, arguments, says):
    code, _, err = syncd("deletes", *arguments)
    assert code != 0
    assert says in err


def test_a_missing_root_is_nothing_to_approve(held, syncd):
    held.hold("deletions", "g", "the folder g cannot be listed: mount it")
    held.do(
        lambda db: db.conn.execute("UPDATE holds SET reason = 'root_missing' WHERE scope = 'g'")
    )
    held.store.close()
    code, _, err = syncd("deletes", "approve", "--yes", "2")
    assert code == 1
    assert "mount it" in err


@pytest.mark.long
def test_another_root_is_taken_once_it_is_approved(held, syncd):
    (held.home / "f").rename(held.home / "away")
    (held.home / "f").mkdir()
    hold = {"stops": "folder", "scope": "f", "reason": "root_replaced"}
    held.do(holds.place, **hold, message="another one", now=held.now)
    held.store.close()
    code, _, err = syncd("deletes", "reject", "2")
    assert code == 1
    assert "bring the right one back" in err
    code, out, _ = syncd("deletes", "approve", "--yes", "2")
    assert code == 0, out
    assert "taken for the right one" in out
    taken = identify(str(held.home / "f").encode())
    assert reopen(held).store.read(lambda db: folders.parts(db, "f")[b""].identity) == taken


@pytest.mark.long
@pytest.mark.row(65)
@pytest.mark.parametrize("lacks", [2, 1, 0])
def test_the_approval_of_another_root_tells_how_many_files_it_lacks(
    desk, syncd, monkeypatch, lacks
):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "key-of-the-test")
    for number in range(2):
        desk.sync(b"%d" % number, number)
    (desk.home / "f").rename(desk.home / "away")
    (desk.home / "f").mkdir()
    for number in range(lacks, 2):
        (desk.home / "f" / str(number)).write_text("other content")
    hold = {"stops": "folder", "scope": "f", "reason": "root_replaced", "affects": 2}
    desk.do(holds.place, **hold, message="another one", now=desk.now)
    desk.store.close()
    code, _, err = syncd("deletes", "approve", "1")
    assert code == 2
    fate = f"{lacks} synced files are not in it: their remote copies will be deleted"
    foretold = {
        2: fate.replace("2 ", "2 of 2 "),
        1: "1 of 2 synced files is not in it: their remote copies will be deleted",
        0: "all 2 synced files are in it, some with other content",
    }
    assert foretold[lacks] in err
    code, out, _ = syncd("deletes", "approve", "--yes", "1")
    assert code == 0
    if lacks:
        assert fate.replace("1 synced files are", "1 synced file is") in out
    files = f"{lacks} file" + ("" if lacks == 1 else "s")
    assert f"hold 1 (root_replaced), {files}" in syncd("log")[1]


@pytest.mark.row(65)
def test_a_folder_that_deletes_nothing_remotely_says_so_when_another_root_is_approved(desk, syncd):
    desk.sync(b"a", 1)
    path = desk.home / "syncd.toml"
    path.write_text(path.read_text().replace('"f"', '"f"\nmirror_deletions = false', 1))
    hold = {"stops": "folder", "scope": "f", "reason": "root_replaced", "affects": 1}
    desk.do(holds.place, **hold, message="another one", now=desk.now)
    desk.store.close()
    assert "no remote copy of what it lacks will be deleted" in syncd("deletes", "approve", "1")[2]


@pytest.mark.row(65)
def test_what_stops_a_folder_whole_offers_no_list_of_files(held, syncd):
    hold = {"stops": "folder", "scope": "f", "reason": "root_replaced", "affects": 22}
    held.do(holds.place, **hold, first=["a"], message="another one", now=held.now)
    held.store.close()
    out = syncd("deletes", "list")[1]
    assert "syncd deletes list 1 lists all" in out
    assert "syncd deletes list 2" not in out
    assert "syncd deletes list 2" not in syncd("deletes", "approve", "2")[2]
    # It cannot be rejected: that of its folder which can be is.
    code, out, _ = syncd("deletes", "reject", "f")
    assert (code, "hold 1" in out, "hold 2" in out) == (0, True, False)


def test_a_number_is_that_of_a_hold_and_says_so_where_a_folder_has_it_for_a_name(held, syncd):
    (held.home / "one").mkdir()
    held.do(folders.note, "1", bytes(held.home / "one"), 1.0)
    held.store.close()
    code, out, err = syncd("deletes", "approve", "--yes", "1")
    assert (code, "hold 1 of f" in out) == (0, True)
    assert f"given by its path, {held.home / 'one'}" in err
    code, _, err = syncd("deletes", "approve", "--yes", str(held.home / "one"))
    assert (code, "no deletions of 1 are held" in err) == (1, True)


def test_why_tells_of_what_was_deleted_with_its_uuid_and_its_evidence(held, syncd_json, syncd):
    held.do(holds.release, stops="deletions", scope="f", reason="many_missing", now=held.now)
    copy = held.store.read(lambda db: copies.where(db, "1 ORDER BY id LIMIT 1"))[0]
    file = held.file(b"d/00")
    held.do(held.deletions.confirm_missing, [file.id], held.now, checks=["the root is right"])
    held.do(held.deletions.begin_delete, [copy], held.now)
    held.do(held.deletions.deleted, [copy], held.now)
    _, told = syncd_json("why", "f/d/00", "--json")
    assert told["status"] == "deleted"
    evidence = told["copies"][0]["evidence"]
    assert (evidence["missing_seconds"], evidence["checks"]) == (61, ["the root is right"])
    assert [(h["event"], h["file_uuid"]) for h in told["history"]][-1] == (
        "deleted",
        copy.file_uuid,
    )
    _, out, _ = syncd("why", "f/d/00")
    assert copy.file_uuid in out
    assert "seen twice" in out


def test_an_interrupted_question_is_no_answer(closed, syncd, monkeypatch):
    def interrupted(*_, **__):
        raise click.Abort

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(click, "confirm", interrupted)
    code, _, err = syncd("deletes", "approve", "1")
    assert (code, "nothing was approved" in err) == (130, False)


def test_a_hold_that_was_decided_so_is_refused_before_its_files_are_shown(closed, syncd):
    assert syncd("deletes", "approve", "--yes", "1")[0] == 0
    code, _, err = syncd("deletes", "approve", "1")
    assert code == 1
    assert err == "syncd: hold 1 was approved, and there is nothing left of it to change\n"
    assert syncd("deletes", "reject", "1")[0] == 0, "it can still become the other one"
    assert syncd("deletes", "approve", "--yes", "1")[0] == 0


def test_a_verdict_that_is_carried_out_is_listed_without_a_way_back(closed, syncd):
    assert (
        "21 files are deleted remotely in 10 seconds"
        in syncd("deletes", "approve", "--yes", "1")[1]
    )
    assert "> syncd deletes reject 1" in syncd("deletes", "list", "--all")[1]
    reopen(closed).do(lambda db: db.conn.execute("DELETE FROM copies"))
    assert "syncd deletes reject" not in syncd("deletes", "list", "--all")[1]
