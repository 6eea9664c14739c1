"""A first start that dies on a full disk: the next one finishes it, and readers say so."""

import os
import subprocess
import sys

import pytest

from syncd import cli
from syncd.exceptions import NoStateError, StateError
from syncd.state import views
from syncd.state.database import schema
from syncd.state.database.store import Store


def cut_short(directory, limit):
    """Have a start fail after `limit` bytes of any file; return what it said."""
    code = (
        "import resource, signal, sys, pathlib\n"
        "from syncd.state.database.store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"Store(pathlib.Path({os.fspath(directory)!r})).open(1.0)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.parametrize(
    "limit",
    [5000, *(pytest.param(limit, marks=pytest.mark.long) for limit in (10, 40_000, 100_000))],
)
def test_a_start_that_was_cut_short_is_finished_by_the_next(tmp_path, monkeypatch, capsys, limit):
    directory = tmp_path / "state"
    assert cut_short(directory, limit).returncode == 1
    if (directory / schema.FILE_NAME).exists():
        with pytest.raises(NoStateError, match=r"a start was cut short .*`syncd once` finishes it"):
            views.read(directory, lambda _: None)
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(directory))
    monkeypatch.chdir(tmp_path)
    assert cli.call(["status"]) == 1
    assert "has not run with this state directory yet" in capsys.readouterr().out
    cli.call(["doctor"])
    said = capsys.readouterr().out
    assert "good  database: none yet; the first run makes it" in said
    assert "backup" not in said
    store = Store(directory)
    store.open(2.0)
    store.close()
    assert cli.call(["ls"]) == 0


@pytest.mark.long
def test_a_disk_without_a_byte_left_is_named(tmp_path):
    said = cut_short(tmp_path / "state", 0)
    assert said.returncode == 1
    assert StateError.__name__ in said.stderr
