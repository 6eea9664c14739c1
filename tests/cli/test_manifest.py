"""One user word a file, and the manifest."""

import os
from collections import Counter

import pytest

from syncd.exceptions import StateError
from syncd.state import hooks, manifest, overview, stories, texts, views
from syncd.state.ledger import Failure
from syncd.state.manifest import Word
from syncd.state.observations import Seen

KEYS = [
    *("folder", "path", "status", "size", "sha256", "file_uuid", "remote_file_path"),
    *("content_type", "processing_status", "frame_count", "attempts", "next_attempt_at"),
    *("error", "synced_at", "changed_at"),
]


def words(desk):
    return {
        entry["path"]: entry["status"]
        for entry in desk.store.read(lambda db: [*manifest.entries(db)])
    }


def word(desk, path=b"x"):
    file = desk.file(path)
    return desk.store.read(lambda db: manifest.word(db, file.id))


def test_a_file_that_just_changed_is_settling(desk):
    desk.see(b"x", age=1.0)
    assert word(desk) is Word.SETTLING


def test_a_quiet_file_is_queued_before_and_after_it_is_planned(desk):
    copy = desk.begin(desk.see(b"x"))
    desk.see(b"y")
    desk.do(desk.ledger.not_sent, copy.id, desk.now)
    assert words(desk) == {"x": "queued", "y": "queued"}


def test_a_file_is_uploading_while_it_is_sent_and_while_it_is_in_doubt(desk):
    copy = desk.begin(desk.see(b"x"))
    assert word(desk) is Word.UPLOADING
    desk.do(desk.ledger.doubt, copy.id, Failure("no answer"), desk.now)
    assert word(desk) is Word.UPLOADING


def test_a_video_is_processing_then_synced(desk):
    copy = desk.begin(desk.see(b"x"))
    desk.arrive(copy, status="pending")
    assert word(desk) is Word.PROCESSING
    desk.do(
        desk.ledger.completed,
        copy.id,
        desk.now,
        remote_file_path="r",
        frame_count=3,
        video_metadata=None,
    )
    assert word(desk) is Word.SYNCED


def test_a_refused_file_and_an_unreadable_one_are_failed(desk):
    desk.refuse(b"x")
    desk.see(b"y", seen=Seen.UNREADABLE, reason="Permission denied")
    assert words(desk) == {"x": "failed", "y": "failed"}


def test_a_changed_file_is_queued_and_known_by_its_live_copy(desk):
    desk.sync(b"x", size=7)
    desk.see(b"x", mark=2, size=9, age=50.0)
    entry = desk.store.read(lambda db: next(manifest.entries(db)))
    assert entry["status"] == "queued"
    assert (entry["size"], entry["sha256"], entry["file_uuid"]) == (7, "a" * 64, desk_uuid(1))


def desk_uuid(number):
    return f"00000000-0000-4000-8000-{number:012d}"


def test_a_missing_file_is_deleting_then_deleted(desk):
    copy = desk.sync(b"x")
    desk.miss(b"x")
    assert word(desk) is Word.DELETING
    desk.delete(b"x", copy)
    assert word(desk) is Word.DELETED


def test_a_missing_file_is_held_while_its_folders_deletions_are(desk):
    desk.sync(b"x")
    desk.hold("deletions", "g")
    desk.miss(b"x")
    assert word(desk) is Word.DELETING
    desk.hold("deletions", "f")
    assert word(desk) is Word.HELD


def test_what_waits_is_held_while_sending_is_and_what_is_synced_is_not(desk):
    desk.see(b"x")
    desk.sync(b"y", 2)
    desk.hold("sending", "*")
    assert words(desk) == {"x": "held", "y": "synced"}


def test_a_hold_of_one_copy_holds_its_file_alone(desk):
    copy = desk.begin(desk.see(b"x"))
    desk.do(desk.ledger.doubt, copy.id, Failure("no answer"), desk.now)
    desk.see(b"y")
    desk.hold("sending", f"copy {copy.id}")
    assert words(desk) == {"x": "held", "y": "queued"}


def test_an_excluded_file_that_was_synced_is_ignored_and_keeps_its_uuid(desk):
    desk.sync(b"x")
    desk.see(b"x", seen=Seen.INELIGIBLE, reason="excluded: *.x")
    entry = desk.store.read(lambda db: next(manifest.entries(db)))
    assert (entry["status"], entry["file_uuid"]) == ("ignored", desk_uuid(1))


def test_every_state_of_a_copy_has_a_word(desk):
    """Each file is counted once, whatever its rows say."""
    desk.see(b"settling", age=0.0)
    desk.sync(b"synced", 1)
    desk.refuse(b"failed")
    counts = desk.store.read(lambda db: overview.overview(db, desk.now))["counts"]
    assert counts == {"settling": 1, "synced": 1, "failed": 1}


def test_hooks_are_told_the_keys_of_the_manifest_and_a_few_more(desk):
    desk.do(hooks.configure, ["hook"])
    desk.arrive(desk.begin(desk.see(b"x")))
    [line] = desk.do(hooks.batch, "hook", "synced", desk.now, read_to=0).lines
    assert [key for key in line.document if key in KEYS] == KEYS
    assert line.document.keys() - set(KEYS) == {"event", "at", "reason", "workspace_uuid"}


def test_the_manifest_has_exactly_the_keys_of_the_contract(desk):
    desk.sync(b"x")
    entry = desk.store.read(lambda db: next(manifest.entries(db)))
    assert list(entry) == KEYS
    assert entry | {"synced_at": None, "changed_at": None} == {
        "folder": "f",
        "path": "x",
        "status": "synced",
        "size": 7,
        "sha256": "a" * 64,
        "file_uuid": desk_uuid(1),
        "remote_file_path": "remote",
        "content_type": "text/plain",
        "processing_status": "completed",
        "frame_count": None,
        "attempts": 0,
        "next_attempt_at": None,
        "error": None,
        "synced_at": None,
        "changed_at": None,
    }
    assert entry["synced_at"].endswith(".000Z")
    assert texts.seconds(entry["changed_at"]) == desk.now - 100


def test_a_name_that_is_not_utf8_comes_with_its_bytes(desk):
    desk.see(b"\xff\n")
    entry = desk.store.read(lambda db: next(manifest.entries(db)))
    assert (entry["path"], entry["path_b64"]) == ("\\xff\n", "/wo=")


def test_the_manifest_is_ordered_filtered_and_without_deleted_files(desk):
    gone = desk.sync(b"gone")
    desk.delete(b"gone", gone)
    desk.see(b"b")
    desk.see(b"a")
    desk.see(b"a", folder="g")

    def paths(**wanted):
        entries = desk.store.read(lambda db: [*manifest.entries(db, **wanted)])
        return [f"{entry['folder']}/{entry['path']}" for entry in entries]

    assert paths() == ["f/a", "f/b", "g/a"]
    assert paths(status="deleted") == ["f/gone"]


def test_an_error_carries_status_code_and_request_id(desk):
    desk.refuse(b"x")
    entry = desk.store.read(lambda db: next(manifest.entries(db)))
    assert entry["error"] == "too large (status 413, file.too_large, request req-7)"
    assert entry["attempts"] == 1


def test_a_file_that_waits_says_when_it_is_tried_next(desk):
    copy = desk.begin(desk.see(b"x"))
    failure = Failure("no route")
    desk.do(desk.ledger.not_sent, copy.id, desk.now, failure=failure, again_at=desk.now + 30)
    entry = desk.store.read(lambda db: next(manifest.entries(db)))
    assert entry["next_attempt_at"] == texts.timestamp(desk.now + 30)
    assert (entry["attempts"], entry["error"]) == (1, "no route")


def test_the_overview_counts_each_folder_and_says_how_long_the_oldest_waits(desk):
    desk.see(b"x", age=1e6)
    desk.sync(b"y", folder="g")
    told = desk.store.read(lambda db: overview.overview(db, desk.now + 40))
    assert [folder["counts"] for folder in told["folders"]] == [{"queued": 1}, {"synced": 1}]
    assert [f["oldest_queued_seconds"] for f in told["folders"]] == [40.0, None]


def test_the_summary_is_one_line(desk):
    desk.see(b"x")
    desk.sync(b"y", 1)
    desk.refuse(b"z")
    desk.hold("sending", "*")
    assert desk.store.read(overview.summary) == (
        "1 synced, 1 queued, 1 failed, sending held: the key is refused"
    )


def test_a_story_has_every_copy_and_the_history(desk):
    old = desk.sync(b"x", 1)
    desk.begin(desk.see(b"x", mark=2, age=50.0), "b" * 64)
    told = desk.store.read(lambda db: stories.story(db, "f", b"x"))
    assert [copy["status"] for copy in told["copies"]] == ["live", "sending"]
    assert [(line["event"], line["file_uuid"]) for line in told["history"]] == [
        ("synced", desk_uuid(1))
    ]
    assert told["copies"][0]["token"] == old.token
    assert desk.store.read(lambda db: stories.story(db, "f", b"nope")) is None


def test_a_state_directory_that_cannot_be_entered_says_so(tmp_path, monkeypatch):
    def denied(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", denied)
    with pytest.raises(StateError, match=r"cannot read the state directory .*ask as the user"):
        views.read(tmp_path, overview.summary)


def test_a_state_directory_that_is_a_file_says_so(tmp_path):
    (tmp_path / "state").touch()
    with pytest.raises(StateError, match=r"the state directory .* is a file"):
        views.read(tmp_path / "state", overview.summary)


def test_a_database_of_another_user_says_who_may_read_it(desk, monkeypatch):
    monkeypatch.setattr(views.os, "access", lambda *_: False)
    with pytest.raises(StateError, match=r"user \d+ may not read .*ask as the user"):
        views.read(desk.directory, overview.summary)


@pytest.mark.parametrize("hold", [None, "*", "w"])
def test_counting_by_the_index_and_file_by_file_says_the_same(desk, hold):
    for number in range(5):
        desk.sync(b"%d" % number, number + 1)
    desk.arrive(desk.begin(desk.see(b"5")), 6, status="pending")
    desk.refuse(b"6")
    desk.see(b"7")
    desk.see(b"8", age=1.0)
    desk.see(b"0", 2, size=8)
    desk.miss(b"1")
    desk.see(b"2", seen=Seen.UNREADABLE)
    desk.see(b"3", seen=Seen.INELIGIBLE)
    if hold:
        desk.hold("sending", hold)
    told = desk.store.read(lambda db: overview.overview(db, desk.now))
    by_path = words(desk)
    one_by_one = Counter(by_path.values())
    assert told["counts"] == one_by_one
    assert len(one_by_one) >= 6
    for status in one_by_one:
        rows = desk.store.read(lambda db, s=status: [*manifest.entries(db, status=s)])
        assert {row["path"] for row in rows} == {p for p, word in by_path.items() if word == status}


@pytest.fixture
def motley(desk):
    """Files of every word, and some that two conditions may find."""
    desk.see(b"settling", age=1.0)
    desk.see(b"queued")
    desk.do(desk.ledger.not_sent, desk.begin(desk.see(b"planned")).id, desk.now)
    desk.begin(desk.see(b"uploading"))
    desk.arrive(desk.begin(desk.see(b"processing")), number=2, status="pending")
    desk.sync(b"synced", 3)
    desk.refuse(b"failed")
    desk.see(b"unreadable", seen=Seen.UNREADABLE, reason="no")
    desk.sync(b"changed", 4)
    desk.see(b"changed", mark=2)
    desk.sync(b"ignored", 5)
    desk.see(b"ignored", seen=Seen.INELIGIBLE, reason="excluded: x")
    desk.sync(b"deleting", 6)
    desk.miss(b"deleting")
    desk.delete(b"deleted", desk.sync(b"deleted", 7))
    return desk


@pytest.mark.parametrize("hold", ["", "sending", "deletions"])
@pytest.mark.parametrize("few", [0, 1000], ids=["many", "few"])
def test_the_files_of_a_word_are_the_same_however_they_are_found(motley, monkeypatch, few, hold):
    if hold:
        motley.hold(hold, "*")
    monkeypatch.setattr(manifest, "FEW", few)
    rows = motley.store.read(
        lambda db: db.conn.execute(
            f"SELECT f.path, {manifest.WORD} {manifest.ROWS} ORDER BY f.path"
        ).fetchall()
    )
    found = motley.store.read(
        lambda db: {w: [e["path"] for e in manifest.entries(db, status=w)] for w in Word}
    )
    assert found == {word: [os.fsdecode(r[0]) for r in rows if r[1] == word] for word in Word}
    assert sum(map(bool, found.values())) >= 6


@pytest.mark.parametrize("word", [word for word in Word if word is not Word.SYNCED])
def test_no_word_but_synced_has_the_whole_table_read(desk, word):
    desk.see(b"x")
    plans = []

    def read(db):
        db.conn.set_trace_callback(plans.append)
        manifest.page(db, limit=10, status=word)
        db.conn.set_trace_callback(None)
        told = [db.conn.execute(f"EXPLAIN QUERY PLAN {plan}").fetchall() for plan in plans]
        return [row["detail"] for rows in told for row in rows]

    details = desk.store.read(read)
    # That index holds only what is neither live nor gone.
    scans = [d for d in details if d.startswith("SCAN") and not d.endswith("INDEX copies_open")]
    assert not [scan for scan in scans if scan.split()[1] in ("f", "files", "copies")], details


def test_counting_sorts_no_file_and_reads_no_row(desk):
    said = []

    def read(db):
        db.conn.set_trace_callback(said.append)
        overview.overview(db, desk.now)
        db.conn.set_trace_callback(None)
        counting = next(query for query in said if "count(due_at)" in query)
        return db.conn.execute(f"EXPLAIN QUERY PLAN {counting}").fetchall()

    plan = [row["detail"] for row in desk.store.read(read)]
    assert plan == ["SCAN files USING COVERING INDEX files_due"]
