import base64
import csv
import io
import json
import subprocess
import sys
from datetime import datetime
from functools import partial

import pytest

from syncd.state import chosen, views


def test_each_file_is_a_line_with_its_path_last(desk, syncd):
    desk.sync(b"a b.txt")
    desk.see(b"new\t\x1b[2J")
    code, out, err = syncd("ls")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.split() == [
        "synced",
        "7",
        "B",
        "00000000-0000-4000-8000-000000000001",
        "f/a",
        "b.txt",
    ]
    assert second.startswith("queued             -  -   ")
    assert second.endswith("  f/new\\t\\x1b[2J")
    assert first.index("f/") == second.index("f/")


def test_json_is_one_object_a_line(desk, syncd):
    desk.sync("ü\n".encode())
    desk.see(b"\xff")
    lines = syncd("ls", "--json")[1].splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["path"] for entry in entries] == ["ü\n", "\\xff"]
    assert ["path_b64" in entry for entry in entries] == [False, True]


def test_csv_follows_rfc_4180(desk, syncd):
    desk.see(b'with,comma "and" quotes')
    out = syncd("ls", "--csv")[1]
    assert out.count("\r\n") == 2
    (row,) = csv.DictReader(io.StringIO(out, newline=""))
    assert (row["path"], row["status"], row["file_uuid"]) == (
        'with,comma "and" quotes',
        "queued",
        "",
    )


@pytest.mark.long
@pytest.mark.row(60)
@pytest.mark.parametrize("name", [b"=1+1", b"+x", b"-x", b"@SUM(A1)", b"\tx", b"\r=x"])
def test_no_name_is_a_formula_in_a_spreadsheet_and_each_is_told_exactly(desk, syncd, name):
    desk.see(name)
    (row,) = csv.DictReader(io.StringIO(syncd("ls", "--csv")[1], newline=""))
    assert row["path"] == "'" + name.decode()
    assert base64.b64decode(row["path_b64"]) == name


@pytest.mark.row(60)
def test_json_holds_no_character_that_a_terminal_obeys(desk, syncd):
    name = "a\x1b[2J\x7f\x9b31m\u202eb\u2028c\u200d"
    desk.see(name.encode())
    out = syncd("ls", "--json")[1]
    assert out.rstrip("\n").isprintable()
    assert json.loads(out)["path"] == name


def test_a_folder_is_meant_by_its_name_or_its_path(desk, syncd):
    desk.see(b"x")
    desk.see(b"y", folder="g")
    assert syncd("ls", "g")[1] == syncd("ls", desk.home / "g")[1]
    assert "g/y" in syncd("ls", "g")[1]


def test_an_unknown_folder_names_the_known_ones(desk, syncd):
    code, _, err = syncd("ls", "nope")
    assert code == 2
    assert "no file or folder 'nope'; known folders are: f, g" in err


def test_deleted_files_are_listed_when_asked_for(desk, syncd):
    desk.delete(b"x", desk.sync(b"x"))
    assert syncd("ls")[1] == ""
    assert "f/x" in syncd("ls", "--status", "deleted")[1]


def test_an_unknown_status_names_the_words(desk, syncd):
    code, _, err = syncd("ls", "--status", "lost")
    assert code == 2
    assert "'settling'" in err


def test_no_state_is_one_clear_line(tmp_path, monkeypatch, syncd):
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(tmp_path))
    code, out, err = syncd("ls")
    assert (code, out) == (1, "")
    assert err.startswith(f"syncd: there is no state in {tmp_path}")
    assert err.count("\n") == 1


def test_a_foreign_database_is_left_alone(tmp_path, monkeypatch, syncd):
    (tmp_path / "state.db").write_bytes(b"SQLite format 3\0" + bytes(4080))
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(tmp_path))
    code, _, err = syncd("ls")
    assert code == 78
    assert "is not a state database of syncd" in err


def test_it_works_while_a_daemon_runs_and_when_none_does(desk, syncd):
    desk.sync(b"x")
    running = syncd("ls")
    desk.store.close()
    assert syncd("ls") == running


@pytest.mark.long
def test_a_reader_that_has_seen_enough_is_no_error(desk):
    # More than a pipe holds.
    for number in range(600):
        desk.see(b"some/long/path/%d" % number)
    shell = f"{sys.executable} -c 'from syncd.cli import main; main()' ls --json | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["path"] == "some/long/path/0"


@pytest.mark.long
def test_a_full_disk_under_the_output_is_one_clear_line(desk):
    desk.sync(b"x")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        ended = subprocess.run(
            [sys.executable, "-m", "syncd", "ls"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr == b"syncd: a disk is full: cannot write the output\n"


@pytest.mark.row(87)
def test_while_a_pager_waits_for_its_reader_no_transaction_is_open(desk, monkeypatch):
    monkeypatch.setattr(chosen, "PAGE_FILES", 2)
    for number in range(5):
        desk.see(b"%d" % number)
    listed = chosen.listing(partial(views.read, desk.directory), chosen.Wanted(), desk.now)
    assert next(listed)["path"] == "0"

    def checkpoint(db):
        db.conn.execute("COMMIT")
        busy = db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        db.conn.execute("BEGIN")
        return busy

    assert desk.store.write(checkpoint) == 0
    assert (desk.directory / "state.db-wal").stat().st_size == 0
    desk.sync(b"4")
    rest = [(entry["path"], entry["status"]) for entry in listed]
    assert rest == [("1", "queued"), ("2", "queued"), ("3", "queued"), ("4", "synced")]


DAY = 86_400


@pytest.fixture
def week(desk):
    """Files that were synced, refused, changed or deleted on different days."""
    today = desk.now
    days = {b"old": 6, b"deleted": 5, b"sub/mid": 3, b"sub/new": 0.05}
    for number, (path, ago) in enumerate(days.items(), start=1):
        desk.now = today - ago * DAY
        copy = desk.sync(path, number, size=10 - number)
        if path == b"deleted":
            desk.now = today - 4 * DAY
            desk.delete(path, copy)
    desk.now = today - 2 * DAY
    desk.refuse(b"failed")
    desk.now = today - DAY
    desk.see(b"old", mark=2, age=0.0)
    desk.now = today
    return desk


@pytest.fixture
def listed(week, syncd):
    def paths(*arguments):
        code, out, err = syncd("ls", "--json", *arguments)
        assert (code, err) == (0, "")
        return [json.loads(line)["path"] for line in out.splitlines()]

    return paths


def test_files_are_chosen_and_sorted_by_time_size_and_status(week, listed):
    day = datetime.fromtimestamp(week.now - 2.5 * DAY).astimezone()
    newest = ["sub/new", "old", "failed", "sub/mid"]
    meant = {
        "": ["failed", "old", "sub/mid", "sub/new"],
        "--reverse": ["sub/new", "sub/mid", "old", "failed"],
        "--since 2h": ["sub/new"],
        "--since 1.5d": ["old", "sub/new"],
        f"--since {day.isoformat()}": ["failed", "old", "sub/new"],
        "--since 30d --status deleted": ["deleted"],
        "--since 3d --status deleted": [],
        "--since 200d --status synced": ["sub/mid", "sub/new"],
        "--status synced,failed --status deleted": ["deleted", "failed", "sub/mid", "sub/new"],
        "--status failed,settling f/sub": [],
        "--sort time": newest,
        "--sort time -r": newest[::-1],
        "--sort size": ["old", "sub/mid", "sub/new", "failed"],
        "--sort status": ["old", "sub/mid", "sub/new", "failed"],
        "--recent 1": newest[:1],
        "--recent 3": newest[:3],
        "--recent 9": newest,
        "--recent 2 --since 1h": [],
        "--recent 2 --sort path": ["old", "sub/new"],
        "--recent 1 --status failed,deleted": ["failed"],
        "--recent 1 f/sub/m* f/old": ["old"],
        "--sort size f/sub": ["sub/mid", "sub/new"],
        "--since 2d f/sub f/failed": ["sub/new"],
        # A deleted file is listed where it is named itself.
        "f/deleted f/sub/mid": ["deleted", "sub/mid"],
        "--sort time f/deleted f/sub/mid": ["sub/mid", "deleted"],
        "f/d*": [],
    }
    assert {said: listed(*said.split()) for said in meant} == meant


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["--since", "soon"], "'soon' is neither a duration"),
        (["--since", "12"], "'12' is neither a duration"),
        (["--since", "20260101"], "'20260101' is neither a duration"),
        (["--since", "2999-01-01"], "lies in the future"),
        (["--recent", "0"], "0 is not in the range"),
        (["--status", "synced,lost"], "'lost' is not one of"),
        (["--responses"], "--responses needs --prompt-uuid"),
        (["--csv", "--json"], "use only one of"),
    ],
)
def test_a_wrong_option_says_how_it_is_right(syncd, said, words):
    code, out, err = syncd("ls", *said)
    assert (code, out) == (2, "")
    assert words in err


def test_an_argument_without_a_known_file_is_named_and_the_others_are_listed(desk, syncd):
    desk.see(b"x")
    (desk.home / "f/unnoticed").touch()
    (desk.home / "f/empty").mkdir()
    code, out, err = syncd("ls", "f/x", "f/unnoticed", "f/empty", "*.nope")
    assert code == 1
    assert out.endswith("f/x\n")
    assert [line.partition(":")[2] for line in err.splitlines()] == [
        " f/unnoticed: no known file (syncd why tells more)",
        " *.nope: no known file (syncd why tells more)",
    ]


def test_a_time_before_all_history_is_compared_file_by_file(desk, syncd):
    desk.now -= 250 * DAY
    desk.sync(b"ancient", 1)
    desk.now += 250 * DAY
    desk.sync(b"new", 2)
    assert [line.split()[-1] for line in syncd("ls", "--since", "200d")[1].splitlines()] == [
        "f/new"
    ]
