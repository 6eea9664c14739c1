import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import tzlocal
from hypothesis import settings

from syncd import offers
from syncd.state.database.store import Store

# syncd is started many times over: it is compiled once, whatever the environment says of that.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Properties are tried with the same cases each time, so that a red run can be repeated.
settings.register_profile("short", max_examples=60, derandomize=True, deadline=None, database=None)
# `--hypothesis-profile long --timeout 0`: other cases each time, and very many.
settings.register_profile("long", max_examples=100_000, deadline=None)
settings.load_profile("short")

_MEMORY = Path("/dev/shm")
_ENOUGH_BYTES = 1 << 30


def pytest_configure(config):
    # A real disk makes each commit wait: in memory the suite takes half as long.
    if "PYTEST_DEBUG_TEMPROOT" in os.environ or config.option.basetemp or not _MEMORY.is_dir():
        return
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(_MEMORY)


@pytest.fixture(autouse=True)
def _one_command(monkeypatch):
    """Forget what an earlier command line said of its configuration: a process is one command."""
    for name in ("_option", "_directories", "_variable"):
        monkeypatch.setattr(offers, name, "")


@pytest.fixture(scope="session")
def new_state(tmp_path_factory):
    """A state directory as its first start leaves it, to be copied: making one takes a while."""
    made = Store(tmp_path_factory.mktemp("new") / "state")
    made.open(0.0)
    made.close()
    return made.directory


@pytest.fixture
def store(tmp_path, new_state):
    """An open state directory of its own."""
    shutil.copytree(new_state, tmp_path / "state")
    opened = Store(tmp_path / "state")
    opened.open(0.0)
    yield opened
    opened.close()


@pytest.fixture
def set_zone(monkeypatch):
    """Yield the function that sets the local time zone for the rest of the test."""

    def read_anew():
        time.tzset()
        tzlocal.reload_localzone()

    def set_zone(name):
        monkeypatch.setenv("TZ", name)
        read_anew()

    yield set_zone
    monkeypatch.undo()
    read_anew()
