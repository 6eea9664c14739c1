"""The table of `ls`, fitted to a terminal."""

import sys
import time

import pytest
from rich.cells import cell_len

from syncd.cli import file_table

UUID = "00000000-0000-4000-8000-000000000001"


def file(path, status="synced", error=None):
    return {
        "folder": "drop",
        "path": path,
        "status": status,
        "size": 7,
        "file_uuid": UUID if status == "synced" else None,
        "error": error,
        "changed_at": "2026-11-29T12:00:00.000Z",
    }


NAMES = [
    "clip.mp4",
    "2026-11-29/session_03/camera-left.mp4",
    "映像/日本語の長い名前/ファイル.mp4",
    "e\u0301\U0001f600.png",
    "esc\x1b[2J\ta\n\u202e.txt",
    "words and more words " * 4 + ".txt",
    "one-name-" * 12 + ".txt",
]
REASON = "the service refused the file: it is larger than what this workspace may hold (status 413)"


@pytest.fixture
def table(monkeypatch):
    """Return the lines of the table on a terminal of so many columns."""

    def lines(columns, *files):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        head, *rest = file_table.lines(files)
        return [head, *rest]

    return lines


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("name", NAMES)
def test_a_path_and_a_uuid_stand_whole_on_a_line_and_all_else_fits(table, columns, name):
    shown = "drop/" + file_table.printable(name)
    lines = table(columns, file(name))
    assert sum(line.endswith(shown) for line in lines) == 1
    assert sum(UUID in line for line in lines) == 1
    for line in lines:
        assert line.isprintable()
        # The terminal breaks a path that is longer than it, so that it is copied whole.
        assert cell_len(line) < columns or cell_len(shown) >= columns - 12


def test_the_time_goes_first_and_the_size_next_where_a_terminal_is_too_narrow(table, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    row = f"{UUID}  drop/2026-11-29/session_03/left.mp4"
    assert table(140, file("2026-11-29/session_03/left.mp4"))[1] == (
        f"synced            7 B  2026-11-29 12:00  {row}"
    )
    assert table(110, file("2026-11-29/session_03/left.mp4"))[1] == f"synced            7 B  {row}"
    assert table(95, file("2026-11-29/session_03/left.mp4"))[1] == f"synced      {row}"
    head, below, first, second = table(80, file("2026-11-29/session_03/left.mp4"))
    assert (head.split(), below.split()) == (["STATUS", "PATH"], ["UUID", "SIZE", "CHANGED"])
    assert first == "synced      drop/2026-11-29/session_03/left.mp4"
    assert second == f"            {UUID}        7 B  2026-11-29 12:00"


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_one_long_path_takes_two_lines_and_all_others_one(table, columns):
    short, long_ = [file(f"{number}.txt") for number in range(3)], file("long/" * 30 + "name")
    head, *rest = table(columns, *short, long_)
    assert [head, *rest[:3]] == table(columns, *short), "as if it were not there"
    first, second = rest[3:]
    assert first == f"synced      drop/{long_['path']}"
    assert second.split()[0] == UUID


def test_a_column_goes_before_many_files_take_two_lines(table):
    short, longer = file("a.txt"), file("2026-11-29/session_03/left.mp4")
    assert len(table(110, short, short, longer, longer)) == 5
    assert len(table(80, short, longer, longer)) == 8, "most do not fit"


def test_the_reason_of_a_failure_stands_below_and_in_a_pipe_behind(table, monkeypatch):
    refused = file("a.bin", "failed", REASON)
    _, first, *reason = table(80, refused)
    assert first.endswith("  drop/a.bin")
    assert all(line.startswith("    ") and len(line) < 80 for line in reason)
    assert " ".join(line.strip() for line in reason) == REASON
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    (line,) = file_table.lines([refused])
    assert line.endswith(f"  drop/a.bin  {REASON}")


def test_the_last_error_of_a_synced_file_is_no_reason(table):
    assert len(table(80, file("a.bin", "synced", REASON))) == 2
