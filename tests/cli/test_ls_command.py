import base64
import csv
import io
import json
import subprocess
import sys

import pytest

from syncd.cli import ls


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
    assert "no folder 'nope'; known are: f, g" in err


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
    monkeypatch.setattr(ls, "PAGE_FILES", 2)
    for number in range(5):
        desk.see(b"%d" % number)
    listed = ls._entries(desk.directory, None, None)
    assert next(listed)["path"] == "0"

    def checkpoint(db):
        db.conn.execute("COMMIT")
        busy = db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        db.conn.execute("BEGIN")
        return busy

    assert desk.store.write(checkpoint) == 0
    assert (desk.directory / "state.db-wal").stat().st_size == 0
    desk.see(b"9")
    assert [entry["path"] for entry in listed] == ["1", "2", "3", "4", "9"]
