"""The demo as its user runs it: a process of its own, without a terminal."""

import os
import signal
import subprocess
import sys
from urllib.request import urlopen

import pytest


def demo(*words, **more):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "AYMARA_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "syncd", "demo", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        **more,
    )


def test_the_demo_shows_each_file_arrive_change_and_disappear_and_ends_by_itself():
    process = demo()
    out, _ = process.communicate(timeout=50)
    assert process.returncode == 0, out
    for words in ("clip.mp4: synced", "notes.txt changes", "table.csv: deleted", "Done in"):
        assert words in out


@pytest.mark.long
def test_the_demo_of_a_folder_of_yours_changes_nothing_there(tmp_path):
    (tmp_path / "a.txt").write_text("mine")
    process = demo(tmp_path)
    out, _ = process.communicate(timeout=50)
    assert process.returncode == 0, out
    assert "a.txt: synced" in out
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "mine")]


@pytest.mark.long
def test_the_demo_says_so_and_fails_when_a_file_does_not_arrive(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x10ftypisom cut off")
    process = demo(tmp_path)
    out, _ = process.communicate(timeout=50)
    assert process.returncode == 1, out
    assert "broken.mp4: failed" in out
    assert "broken.mp4 failed: " in out


@pytest.mark.long
def test_the_demo_of_an_empty_folder_has_nothing_to_send_and_says_so(tmp_path):
    process = demo(tmp_path)
    out, _ = process.communicate(timeout=25)
    assert process.returncode == 0, out
    assert "0 files were synced" in out


@pytest.mark.long
def test_the_demo_of_a_folder_that_is_not_there_is_a_usage_error(tmp_path):
    process = demo(tmp_path / "none")
    out, _ = process.communicate(timeout=50)
    assert process.returncode == 2
    assert "there is no folder" in out


@pytest.mark.long
def test_a_demo_that_stays_ends_cleanly_on_ctrl_c():
    lines = []
    with demo("--stay") as process:
        for line in process.stdout:
            lines.append(line)
            if "The status page" in line:
                with urlopen(line.split()[-1], timeout=10) as answer:
                    assert b"<title>syncd</title>" in answer.read()
            if "From another terminal" in line:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 0, "".join(lines)
    assert "The status page" in "".join(lines)
    assert "Traceback" not in "".join(lines)
