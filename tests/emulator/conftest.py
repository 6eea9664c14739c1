import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from emulator_wire import KEY

from syncd.emulator import Emulator

SERVE = """
import json, sys
from pathlib import Path
from syncd.emulator import serve
serve(data=Path(sys.argv[1]), host="127.0.0.1", port=0, **json.loads(sys.argv[2]))
"""


class Caller(httpx.Client):
    """A client of one emulator, with a key."""

    def __init__(self, url, key=KEY):
        headers = {"x-api-key": key} if key else {}
        super().__init__(base_url=url, headers=headers, timeout=20, verify=False, trust_env=False)

    def upload(self, name="a.txt", content=b"content", kind="text/plain", **more):
        files = {"file": (name, content, kind)}
        return self.post("/v2/files/-/uploads", files=files, **more)

    def create(self, *files, workspace_uuid=None):
        return self.post("/v2/files", json={"workspace_uuid": workspace_uuid, "files": files})

    def lines(self, what):
        text = self.get(f"/_emulator/{what}").raise_for_status().text
        return [json.loads(line) for line in text.splitlines()]

    def faults(self, *rules):
        return self.put("/_emulator/faults", json=rules)

    def processed(self, file_uuid):
        """Wait until a file is completed or failed; return its status."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            status = self.get(f"/v2/files/{file_uuid}/status").raise_for_status().json()
            if status["processing_status"] in ("completed", "failed"):
                return status
            time.sleep(0.01)
        return pytest.fail(f"{file_uuid} is still {status['processing_status']}")


@pytest.fixture
def run(tmp_path):
    """Run emulators, and callers of them, until the test ends."""
    before = set(threading.enumerate())
    running = []

    @contextmanager
    def started(**chosen):
        chosen = {"data": tmp_path / "data", "api_key": KEY} | chosen
        chosen = {"private_uris": True, "s3": os.environ.get("SYNCD_TEST_S3"), **chosen}
        with Emulator(**chosen) as emulator, Caller(emulator.url) as caller:
            caller.emulator = emulator
            yield caller

    def begin(**chosen):
        context = started(**chosen)
        running.append(context)
        return context.__enter__()

    begin.here = started
    yield begin
    for context in reversed(running):
        context.__exit__(None, None, None)
    deadline = time.monotonic() + 2
    # The idle threads of a pool end a moment after the event loop.
    while not set(threading.enumerate()) <= before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert set(threading.enumerate()) <= before


@pytest.fixture
def caller(run):
    return run()


@pytest.fixture
def process(tmp_path):
    """Start `serve` as a process of its own; return it and its URL."""
    begun = []

    def start(**chosen):
        words = [sys.executable, "-c", SERVE, str(tmp_path / "data"), json.dumps(chosen)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        begun.append(child)
        line = child.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        return child, line.split()[-1]

    yield start
    for child in begun:
        child.kill()
        child.wait()
        child.stdout.close()


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A real MP4 of 24 frames, 2 seconds, as bytes."""
    from syncd.emulator.video import make_video

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_video(path, seconds=2, fps=12, size=(64, 48))
    return path.read_bytes()
