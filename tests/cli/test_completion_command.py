"""`completion`: in a real bash, from the state, silently."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def completed(line, home):
    """Return what bash offers at the end of `line`."""
    script = (
        "source <(syncd completion bash); COMP_WORDS=($1); [[ $1 == *' ' ]] && COMP_WORDS+=('')\n"
        "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _syncd_completion syncd 2>&1\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", script, "bash", line],
        env=os.environ | {"PATH": path},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.long
def test_bash_completes_commands_folders_and_holds(desk):
    assert completed("syncd co", desk.home) == ["config", "completion"]
    assert completed("syncd config s", desk.home) == ["show"]
    assert completed("syncd ls g", desk.home) == ["g"]
    assert completed("syncd once --dr", desk.home) == ["--dry-run"]


@pytest.mark.parametrize(("shell", "separator"), [("zsh", "\n"), ("fish", ",")])
def test_zsh_and_fish_are_told_the_same_as_bash(
    desk, syncd, capsysbinary, monkeypatch, shell, separator
):
    monkeypatch.setenv("_SYNCD_COMPLETE", f"{shell}_complete")
    for words, last, offered in (
        ("syncd ls --status ", "sy", b"synced"),
        ("syncd schema ", "de", b"deletes"),
        ("syncd limit ", "co", b"configured"),
        ("syncd pause ", "g", b"g"),
    ):
        monkeypatch.setenv("COMP_WORDS", words + last)
        monkeypatch.setenv("COMP_CWORD", last if shell == "fish" else str(len(words.split())))
        with pytest.raises(SystemExit):
            syncd()
        assert b"plain" + separator.encode() + offered in capsysbinary.readouterr()[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_it_prints_a_script_for_each_shell(syncd, shell):
    code, out, _ = syncd("completion", shell)
    assert code == 0
    assert "_SYNCD_COMPLETE" in out


def test_holds_complete_by_number_and_folder(desk, syncd, capsysbinary, monkeypatch):
    desk.do(
        lambda db: db.conn.execute(
            "INSERT INTO holds (id, stops, scope, reason, message, since) "
            "VALUES (17, 'deletions', 'f', 'many_missing', '', 1)"
        )
    )
    monkeypatch.setenv("_SYNCD_COMPLETE", "bash_complete")
    for words, offered in (
        ("syncd deletes approve 1", b"plain,17\n"),
        ("syncd deletes reject ", b"plain,17\nplain,f\n"),
        ("syncd ls g", b"plain,g\n"),
        ("syncd ls elsewh", b"file,elsewh\n"),
        ("syncd deletes list ", b"plain,17\n"),
        ("syncd ls --status sy", b"plain,synced\n"),
        ("syncd ls --status synced,he", b"plain,synced,held\n"),
        ("syncd schema de", b"plain,deletes\n"),
        ("syncd schema deletes l", b"plain,list\n"),
        ("syncd limit ", b"plain,off\nplain,configured\n"),
        ("syncd pause g", b"plain,g\n"),
        ("syncd resume elsewh", b"dir,elsewh\n"),
        ("syncd retry g", b"plain,g\n"),
        ("syncd wait g", b"plain,g\n"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        with pytest.raises(SystemExit):
            syncd()
        assert capsysbinary.readouterr() == (offered, b"")


def test_nothing_is_said_where_the_state_cannot_be_read(desk, syncd, capsysbinary, monkeypatch):
    desk.store.close()
    (desk.directory / "state.db").write_bytes(b"no database")
    monkeypatch.setenv("_SYNCD_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "syncd deletes approve ")
    monkeypatch.setenv("COMP_CWORD", "3")
    with pytest.raises(SystemExit):
        syncd()
    assert capsysbinary.readouterr() == (b"\n", b"")


def test_nothing_is_said_after_a_word_that_is_no_command(desk, syncd, monkeypatch):
    monkeypatch.setenv("_SYNCD_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "syncd frobnicate ")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert syncd() == (0, "", "")
