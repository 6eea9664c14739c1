"""Commands load only what they use: that is what their start takes."""

import json
import os
import subprocess
import sys

#: Run in a process of its own: prints what each command has loaded by its end.
SCRIPT = """
import json, sys
from syncd import cli
loaded = {}
for words in (["--help"], ["status", "--alive"], ["ls"], ["status"], ["once"]):
    cli.call(words)
    loaded[" ".join(words)] = sorted(sys.modules)
sys.stderr.write(json.dumps(loaded))
"""
#: Packages that only the daemon, or only what sends, needs.
DAEMON = {"apscheduler", "prometheus_client", "starlette", "uvicorn", "syncd.server"}
DAEMON |= {"syncd.daemon", "syncd.doctor", "syncd.scheduler"}
NETWORK = {"asyncio", "h11", "httpcore", "httpx", "ssl", "syncd.files_api", "syncd.workers"}
WATCHING = {"watchdog", "syncd.watch.observer"}
#: Modules that pydantic-settings imports for its own command line.
SETTINGS = {"asyncio", "ssl"}
CONFIGURATION = {"pydantic", "sqlite_utils", "syncd.config"}
#: Modules that each may have, with some room: versions differ.
MOST = {"--help": 170, "status --alive": 190, "ls": 460, "status": 520, "once": 720}


def test_commands_load_only_what_they_use(tmp_path):
    (tmp_path / "in").mkdir()
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
    assert not unwanted(loaded["--help"], DAEMON | NETWORK | WATCHING | CONFIGURATION | {"rich"})
    assert not unwanted(loaded["status --alive"], DAEMON | NETWORK | CONFIGURATION | {"rich"})
    assert not unwanted(loaded["ls"], DAEMON | (NETWORK - SETTINGS) | WATCHING | {"rich"})
    assert not unwanted(loaded["status"], DAEMON | (NETWORK - SETTINGS) | WATCHING)
    assert not unwanted(loaded["once"], DAEMON | {"multiprocessing"})
    assert {
        name: len(modules) for name, modules in loaded.items() if len(modules) > MOST[name]
    } == {}


def unwanted(modules, packages):
    """Return what of these packages was loaded."""
    return {name for name in packages if name in modules}
