"""Commands load only what they use: that is what their start takes."""

import json
import os
import subprocess
import sys
import time

import pytest

from syncd.state.binding import BASE_URL
from syncd.state.database.store import Store
from syncd.state.facts import LAST_ONCE

#: Run in a process of its own: prints what each command has loaded by its end.
SCRIPT = """
import json, sys
from contextlib import suppress
from syncd import cli
loaded = {}
for words in (
    ["status", "--alive"], ["--help"], ["ls"], ["status", "--json"], ["status"], ["once"]
):
    sys.argv[1:] = words
    with suppress(SystemExit):
        cli.main()
    loaded[" ".join(words)] = sorted(sys.modules)
import syncd.cli.run
loaded["run"] = sorted(sys.modules)
sys.stderr.write(json.dumps(loaded))
"""
#: Packages that only the daemon, or only what sends, needs.
DAEMON = {"apscheduler", "prometheus_client", "starlette", "uvicorn", "syncd.server"}
DAEMON |= {"syncd.daemon", "syncd.report.doctor", "syncd.scheduler"}
NETWORK = {"asyncio", "h11", "httpcore", "httpx", "ssl", "syncd.files_api", "syncd.workers"}
#: Packages that only those behind a proxy need.
PROXY = {"anyio", "h11", "httpcore", "syncd.files_api.proxied"}
#: Packages that even the terminal needs only for a part of its commands.
TERMINAL = {"click", "difflib", "logging", "rich", "traceback"}
WATCHING = {"watchdog", "syncd.watch.observer"}
CONFIGURATION = {"pydantic", "sqlite_utils", "syncd.config.loading"}
#: Modules that each may have, with some room: versions differ.
MOST = {"status --alive": 120, "--help": 170, "ls": 230, "status --json": 240}
MOST |= {"status": 290, "once": 670, "run": 800}


def test_commands_load_only_what_they_use(tmp_path):
    (tmp_path / "in").mkdir()
    make_state(tmp_path / "state")
    settings = {
        "SYNCD_WATCH": str(tmp_path / "in"),
        "SYNCD_STATE__DIRECTORY": str(tmp_path / "state"),
        "SYNCD_API__BASE_URL": "http://127.0.0.1:9",
        "AYMARA_AI_API_KEY": "sk-test-0123",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    loaded = json.loads(done.stderr.splitlines()[-1])
    light = DAEMON | NETWORK | WATCHING | CONFIGURATION
    assert not unwanted(loaded["status --alive"], light | TERMINAL | {"dataclasses", "socket"})
    assert not unwanted(loaded["--help"], light | TERMINAL - {"click"})
    assert not unwanted(loaded["ls"], light | {"rich"})
    assert not unwanted(loaded["status --json"], light | {"rich"})
    assert not unwanted(loaded["status"], light | {"syncd.state.ledger"})
    assert not unwanted(loaded["once"], DAEMON | PROXY | {"multiprocessing", "pygments"})
    assert not unwanted(loaded["run"], {"prometheus_client", "syncd.server.listener"})
    assert {
        name: len(modules) for name, modules in loaded.items() if len(modules) > MOST[name]
    } == {}


def make_state(directory):
    """Leave the state of a pass that ended well: anything else `status` explains at length."""
    store = Store(directory)
    store.open(time.time())
    store.set_fact(BASE_URL, "http://127.0.0.1:9")
    passed = {"ended_at": time.time(), "every": None, "left": ""}
    store.set_fact(LAST_ONCE, json.dumps(passed))
    store.close()


def unwanted(modules, packages):
    """Return what of these packages was loaded."""
    return {name for name in packages if name in modules}


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_than_on_linux_it_says_so_and_ends(platform):
    script = f"import sys; sys.platform = {platform!r}; from syncd.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, text=True
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("syncd: it runs on Linux only; on macOS and Windows, run its")
