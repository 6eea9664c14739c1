"""The README's blocks of commands do what it says, as printed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import documents
import pytest


@pytest.mark.long
def test_run_syncs_with_the_emulator_as_the_readme_prints_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Port 8765 may be taken here; all else stands as printed.
    block = documents.marked()["emulator"].replace("8765", str(port))
    (tmp_path / "dropbox").mkdir()
    (tmp_path / "dropbox/a.txt").write_bytes(b"a")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "AYMARA_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = kept | {"HOME": str(tmp_path), "PATH": path}
    shell = subprocess.Popen(
        ["bash", "-c", block],
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    state = {"SYNCD_STATE__DIRECTORY": str(tmp_path / "emulator-state")}
    try:
        deadline = time.monotonic() + 50
        listed = ""
        while '"synced"' not in listed and time.monotonic() < deadline:
            time.sleep(0.5)
            listed = subprocess.run(
                ["syncd", "ls", "--json"],
                env=environment | state,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            ).stdout
        entry = json.loads(listed)
        assert (entry["path"], entry["status"]) == ("a.txt", "synced")
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.wait(30)
