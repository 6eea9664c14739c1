"""A state directory or a current directory of another user: nothing in it is believed."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from syncd.exceptions import ConfigError
from syncd.state.database.store import Store

THEIRS = 65_534
pytestmark = [
    pytest.mark.row(83),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away"),
]


def give_away(*paths):
    for path in paths:
        os.chown(path, THEIRS, THEIRS)


@pytest.fixture
def traps(desk):
    """Make the state a stranger's, in which whoever reads anything waits for ever."""
    desk.store.close()
    shutil.rmtree(desk.directory)
    desk.directory.mkdir()
    desk.directory.chmod(0o777)
    names = [desk.directory / name for name in ("state.db", "daemon.json", "lock", "instance.json")]
    for name in names:
        os.mkfifo(name)
    give_away(desk.directory, *names)
    return desk.directory


@pytest.mark.parametrize(
    "words",
    [
        *("status", "retry", "once"),
        *(
            pytest.param(words, marks=pytest.mark.long)
            for words in ["ls", "ls f", "why f/x", "deletes list", "deletes approve f"]
        ),
        *(pytest.param(words, marks=pytest.mark.long) for words in ["verify", "adopt", "run"]),
    ],
)
def test_every_command_refuses_a_strangers_state_unread(syncd, traps, monkeypatch, words):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "a-key-that-is-not-sent")
    code, out, err = syncd(*words.split())
    assert (code, out) == (78, "")
    assert f"state belongs to user {THEIRS}, and syncd runs as user 0: run it as that user" in err
    assert sorted(path.name for path in traps.iterdir()) == [
        *("daemon.json", "instance.json", "lock", "state.db")
    ]


def test_the_doctor_refuses_a_strangers_state_unread_and_says_what_to_do(syncd, traps):
    code, out, _ = syncd("doctor")
    told = " ".join(out.split())
    assert code == 78
    assert f"state belongs to user {THEIRS}, and syncd runs as user 0 -> run it as that" in told
    assert "database" not in told


def test_a_strangers_daemon_counts_as_none(syncd, traps):
    assert syncd("status", "--alive")[0] == 1


def test_root_reads_the_state_of_a_service_where_it_alone_can_have_put_it(syncd, monkeypatch):
    """systemd gives the state of a dynamic user to that user, in a directory of root's."""
    with tempfile.TemporaryDirectory(dir="/run") as home:
        state = Path(home) / "state"
        store = Store(state)
        store.open(1.0)
        store.close()
        give_away(state, *state.iterdir())
        monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(state))
        code, out, err = syncd("ls")
        assert (code, out, err) == (0, "", "")
        Path(home).chmod(0o777)
        assert syncd("ls")[0] == 78


@pytest.mark.parametrize("trap", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
def test_a_database_that_is_no_file_is_refused(syncd, desk, trap):
    desk.store.close()
    database = desk.directory / "state.db"
    database.unlink()
    trap(database)
    code, _, err = syncd("status")
    assert code == 78
    assert "state.db is not a file" in err


@pytest.mark.parametrize(
    "words",
    ["doctor", "once", *(pytest.param(w, marks=pytest.mark.long) for w in ("run", "verify"))],
)
def test_a_strangers_configuration_that_is_found_in_passing_is_refused_clearly(
    syncd, desk, monkeypatch, words
):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "a-key-that-is-not-sent")
    monkeypatch.setattr("syncd.config.locations.SYSTEM_FILE", desk.home / "none")
    give_away(desk.home / "syncd.toml")
    code, out, err = syncd(words)
    told = " ".join((out + err).split())
    assert code == ConfigError.exit_code
    assert "no folder to watch" in told
    assert f"syncd.toml is not used: it belongs to user {THEIRS}" in told
    assert "--config uses it all the same" in told


def test_a_command_that_only_looks_says_which_file_it_does_not_use(syncd, desk, monkeypatch):
    monkeypatch.setattr("syncd.config.locations.SYSTEM_FILE", desk.home / "none")
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(desk.directory))
    give_away(desk.home / "syncd.toml")
    code, _, err = syncd("ls")
    assert code == 0
    assert err.startswith("syncd: ")
    assert err.count(f"syncd.toml is not used: it belongs to user {THEIRS}") == 1
