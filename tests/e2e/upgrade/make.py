"""Make the fixture of `test_upgrade.py` with syncd 0.1.0 itself.

    git archive 620c682 | tar -x -C OLD
    cd OLD && PYTHONPATH=OLD python .../tests/e2e/upgrade/make.py

It writes, beside itself, the state that 0.1.0 leaves when it is killed (`state.sql`,
`instance.json`), what its emulator then holds (`objects.jsonl`) and the video (`clip.mp4`).
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import Request, urlopen

from syncd.emulator import Emulator
from syncd.emulator.video import make_video

sys.path.insert(0, str(Path(__file__).parent))
from contents import KEPT, KEY, MANY, TAKEN_AWAY, content

HERE = Path(__file__).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        _make(Path(base))


def _make(base: Path) -> None:
    one, many, state = base / "one", base / "many", base / "state"
    for folder, names in ((one, KEPT), (many, MANY)):
        for name in names:
            _write(folder / name, content(name))
    make_video(HERE / "clip.mp4", seconds=1, fps=2, size=(32, 32))
    with Emulator(data=base / "emulator", api_key=KEY, processing_seconds=3600) as emulator:
        daemon = _start(base, emulator.url)
        try:
            _until(state, "SELECT count(*) = 28 FROM copies WHERE status = 'live'")
            _write(one / "clip.mp4", (HERE / "clip.mp4").read_bytes())
            _until(state, "SELECT 1 FROM copies WHERE status = 'processing'")
            for name in TAKEN_AWAY:
                (many / name).unlink()
            _until(state, "SELECT affects = 22 FROM holds WHERE released_at IS NULL")
            _faults(
                emulator.url,
                {"match": "POST /v2/files/-/uploads", "times": 1, "action": "drop_after"},
                {"match": "GET /v2/files", "probability": 1.0, "action": {"status": 503}},
            )
            _write(one / "doubt.txt", content("doubt.txt"))
            _until(state, "SELECT 1 FROM copies WHERE status = 'sending' AND in_flight = 0")
        finally:
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
    _dump(state, base / "emulator")


def _start(base: Path, url: str) -> subprocess.Popen[bytes]:
    settings = {"settle_seconds": 0.3, "grace_seconds": 0.6, "rescan_seconds": 5}
    folders = [{"path": f"{base}/{name}", "name": name, **settings} for name in ("one", "many")]
    environment = {
        "SYNCD_STATE__DIRECTORY": str(base / "state"),
        "SYNCD_API__BASE_URL": url,
        "SYNCD_FOLDERS": json.dumps(folders),
        "AYMARA_AI_API_KEY": KEY,
    }
    return subprocess.Popen([sys.executable, "-m", "syncd", "run"], env=os.environ | environment)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _until(state: Path, query: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.2)
        try:
            with sqlite3.connect(f"file:{state}/state.db?mode=ro", uri=True) as db:
                if (row := db.execute(query).fetchone()) and row[0]:
                    return
        except sqlite3.Error:
            continue
    raise SystemExit(f"it did not come about: {query}")


def _faults(url: str, *rules: dict[str, object]) -> None:
    headers = {"content-type": "application/json"}
    body = json.dumps(rules).encode()
    urlopen(Request(f"{url}/_emulator/faults", body, headers, method="PUT"), timeout=10).close()


def _dump(state: Path, data: Path) -> None:
    with sqlite3.connect(state / "state.db") as db:
        numbers = [
            db.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version")
        ]
        lines = [*db.iterdump(), f"PRAGMA application_id = {numbers[0]};",
                 f"PRAGMA user_version = {numbers[1]};"]  # fmt: skip
    (HERE / "state.sql").write_text("\n".join(lines) + "\n")
    (HERE / "instance.json").write_bytes((state / "instance.json").read_bytes())
    with sqlite3.connect(data / "objects.db") as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM objects ORDER BY sequence")]
    (HERE / "objects.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


main()
