"""Run by root, `doctor` examines as the user that the service runs as."""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from syncd import cli
from syncd.cli import service_user
from syncd.state.database import owner
from syncd.state.database.store import Store

THEIRS = 65_534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def home(monkeypatch):
    """A place that others may enter, as root's own places are."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    monkeypatch.setattr(owner, "_is_put_by_root", lambda _: True)
    store = Store(made / "state")
    store.open(0.0)
    store.close()
    for path in (made / "state", *(made / "state").iterdir()):
        os.chown(path, THEIRS, THEIRS)
    for name, mode in (("open", 0o755), ("closed", 0o700)):
        (made / name).mkdir()
        (made / name).chmod(mode)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def examine(home, monkeypatch, capsys):
    """Examine in a child, which gives root's rights up for good; return the checks by name."""
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(home / "state"))
    monkeypatch.setenv("SYNCD_API__BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AYMARA_AI_API_KEY", "a-key-of-the-doctor")
    monkeypatch.chdir(home)

    with monkeypatch.context() as patched:
        # The other user may not be able to read this Python: load all that it takes before.
        patched.setattr("syncd.cli.doctor.become", lambda *_: None)
        cli.call(["doctor", "--json", "open"])
        assert b"a".decode("ascii") == "a"
        capsys.readouterr()

    def run(folder, *words):
        reads, writes = os.pipe()
        if (child := os.fork()) == 0:
            sys.stdout = os.fdopen(writes, "w")
            cli.call(["doctor", "--json", *words, folder])
            sys.stdout.flush()
            os._exit(0)
        os.close(writes)
        with os.fdopen(reads) as said:
            checks = json.load(said)["checks"]
        os.waitpid(child, 0)
        return {check["name"]: check for check in checks}

    return run


@pytest.fixture
def may_read_syncd(monkeypatch):
    monkeypatch.setattr(service_user, "_may_read_syncd", lambda _: True)


@pytest.mark.usefixtures("may_read_syncd")
def test_what_the_owner_of_the_state_may_not_read_is_bad_though_root_may(examine):
    checks = examine("closed")
    assert f"checked as user nobody ({THEIRS})" in checks["user"]["text"]
    assert checks["folder closed"]["good"] is False
    assert checks["folder closed"]["fix"].startswith(f"let user {THEIRS} read it")
    assert checks["state"]["good"] is True
    assert examine("open")["folder open"]["good"] is True


@pytest.mark.long
@pytest.mark.usefixtures("may_read_syncd")
def test_root_may_name_the_user_where_there_is_no_state_yet(examine, home):
    shutil.rmtree(home / "state")
    assert "root asks" in examine("closed")["user"]["text"]
    assert examine("closed", "--user", "nobody")["folder closed"]["good"] is False


def test_the_key_may_be_root_s_to_read(examine, home, monkeypatch):
    (home / "key").write_text("a-key-of-the-doctor")
    (home / "key").chmod(0o600)
    monkeypatch.delenv("AYMARA_AI_API_KEY")
    monkeypatch.setenv("AYMARA_AI_API_KEY_FILE", str(home / "key"))
    monkeypatch.setattr(service_user, "_may_read_syncd", lambda _: True)
    checks = examine("open")
    assert "checked as user nobody" in checks["user"]["text"]
    assert checks["configuration"]["good"] is True


def test_a_user_whose_state_only_its_unit_reaches_is_told(examine, home, monkeypatch):
    monkeypatch.setattr(service_user, "_may_read_syncd", lambda _: True)
    (home / "private").mkdir(mode=0o700)
    (home / "state").rename(home / "private/state")
    (home / "state").symlink_to(home / "private/state")
    checks = examine("closed")
    assert "only within its unit does it reach its state" in checks["user"]["text"]
    assert checks["folder closed"]["good"] is True


def test_a_user_that_cannot_run_syncd_is_told(examine, monkeypatch):
    monkeypatch.setattr(service_user, "__file__", "/root/nowhere/syncd.py")
    checks = examine("closed")
    assert "may not read syncd or its Python" in checks["user"]["text"]
    assert checks["folder closed"]["good"] is True
