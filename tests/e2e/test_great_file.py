"""A file of many gigabytes, sent by a process of its own to a service that keeps nothing."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

SINK = Path(__file__).parent.parent / "benchmarks" / "sink.py"
GIB = int(os.environ.get("SYNCD_GREAT_GIB", "6"))
MOST_KIB = 150 * 1024


@pytest.fixture
def sink():
    """The port of a service that reads each upload to its end."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, SINK, "0"], **pipes) as process:
        yield int(process.stdout.readline())
        process.stdin.close()


def high_water(pid):
    """Return the most memory that a process has used, in KiB: its own, not its parent's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(match[1]) if (match := re.search(r"VmHWM:\s+(\d+)", status)) else 0


@pytest.mark.row(14)
@pytest.mark.long
@pytest.mark.timeout(900)
def test_six_gigabytes_are_sent_in_little_memory(tmp_path, sink):
    (tmp_path / "in").mkdir()
    with (tmp_path / "in/great.bin").open("wb") as file:
        os.truncate(file.fileno(), GIB << 30)
    settings = {
        "AYMARA_AI_API_KEY": "key-of-the-test",
        "SYNCD_API__BASE_URL": f"http://127.0.0.1:{sink}",
        "SYNCD_STATE__DIRECTORY": str(tmp_path / "state"),
        "SYNCD_UPLOAD__METHOD": "direct",
        "SYNCD_FOLDERS": f'[{{"path": "{tmp_path / "in"}", "settle_seconds": 0}}]',
    }
    with subprocess.Popen(
        [sys.executable, "-m", "syncd", "once"],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            time.sleep(0.05)
        out, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0, err.decode()
    assert out.startswith(b"1 synced, 0 waiting, 0 failed\nsent 1 file (")
    assert 0 < peak < MOST_KIB, f"{peak} KiB"
