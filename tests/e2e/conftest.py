import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from syncd import cli, heartbeat
from syncd.components import opened
from syncd.config import loading
from syncd.daemon import Daemon
from syncd.emulator import Emulator
from syncd.signals import Signals
from syncd.state import holds, manifest
from syncd.state.database.schema import FILE_NAME, open_readonly
from tests.schemas import validate

KEY = "e2e-key"


class Machine:
    """A drop folder, a daemon process, and the service it speaks to."""

    def __init__(self, tmp_path, emulator):
        self.tmp_path = tmp_path
        self.emulator = emulator
        self.drop = tmp_path / "drop"
        self.state = tmp_path / "state"
        self.drop.mkdir()
        self.settings = {
            "SYNCD_STATE__DIRECTORY": str(self.state),
            "SYNCD_API__BASE_URL": emulator.url,
            "SYNCD_UPLOAD__RESEND_AFTER_SECONDS": "1",
            "SYNCD_PROCESSING__FIRST_POLL_SECONDS": "0.2",
            "SYNCD_FOLDERS": json.dumps(
                [
                    {
                        "path": str(self.drop),
                        "settle_seconds": 0.3,
                        "grace_seconds": 0.6,
                        "rescan_seconds": 30,
                    }
                ]
            ),
            "AYMARA_AI_API_KEY": KEY,
        }
        self.process = None

    @property
    def environment(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SYNCD_", "AYMARA_"))}
        return kept | self.settings

    def command(self, *words, **more):
        return subprocess.run(
            [sys.executable, "-m", "syncd", *words],
            env=self.environment,
            cwd=self.tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **more,
        )

    def start(self, seconds=20):
        with (self.tmp_path / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "syncd", "run"],
                env=self.environment,
                cwd=self.tmp_path,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + seconds
        while heartbeat.read(self.state) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the daemon did not start:\n{self.log[-3000:]}")
            time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        if self.process is None:
            return None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code

    def peak_memory_mb(self):
        """Return the most memory that the daemon has had resident, in MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0

    @property
    def log(self):
        return (self.tmp_path / "daemon.log").read_text()

    def write(self, name, content):
        path = self.drop / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def manifest(self):
        """Return what `ls --json` tells, by path, read as it reads it."""
        db = open_readonly(self.state / FILE_NAME)
        try:
            return {row["path"]: row for row in manifest.entries(db)}
        finally:
            db.close()

    def holds(self):
        db = open_readonly(self.state / FILE_NAME)
        try:
            return {(hold.stops, hold.reason) for hold in holds.open_holds(db)}
        finally:
            db.close()

    def until(self, condition, seconds=20.0):
        """Wait until `condition()`; show the daemon's log where it does not come about."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process is not None and self.process.poll() is not None:
                pytest.fail(f"the daemon ended with {self.process.returncode}:\n{self.log[-3000:]}")
            if time.monotonic() > deadline:
                pytest.fail(f"it did not come about: {self.manifest()}\n{self.log[-3000:]}")
            time.sleep(0.05)

    def status_of(self, name):
        return self.manifest().get(name, {}).get("status")

    def ask(self, path):
        with urlopen(f"{self.emulator.url}/_emulator/{path}", timeout=10) as answer:
            return [json.loads(line) for line in answer]

    def objects(self, state="live"):
        return {o["file_uuid"]: o for o in self.ask("objects") if o["state"] == state}

    def mutations(self):
        return [r for r in self.ask("requests") if r["method"] in ("POST", "PUT", "DELETE")]

    def faults(self, *rules):
        request = Request(
            f"{self.emulator.url}/_emulator/faults",
            json.dumps(rules).encode(),
            method="PUT",
            headers={"content-type": "application/json"},
        )
        urlopen(request, timeout=10).close()

    def on_disk(self):
        return {
            str(path.relative_to(self.drop)): sha256(path.read_bytes()).hexdigest()
            for path in self.drop.rglob("*")
            if path.is_file()
        }

    def difference(self):
        """Compare path -> uuid -> sha256 one by one: disk, ledger, service. Empty when equal."""
        rows = self.manifest()
        remote = self.objects()
        problems = []
        disk = self.on_disk()
        for name, digest in disk.items():
            row = rows.get(name)
            if row is None or row["status"] != "synced":
                problems.append((name, row and row["status"]))
            elif (row["sha256"], remote.get(row["file_uuid"], {}).get("sha256")) != (digest,) * 2:
                problems.append((name, "other content", row["file_uuid"]))
        mine = {rows[name]["file_uuid"] for name in disk if name in rows}
        problems += [("orphan", uuid) for uuid in remote.keys() - mine]
        problems += [
            ("not on disk", n) for n, r in rows.items() if n not in disk and r["file_uuid"]
        ]
        return problems

    def settles(self, seconds=20.0):
        """Wait until disk, ledger and service are equal; say what is not, if they never are."""
        self.until(lambda: not self.difference(), seconds)


@pytest.fixture
def emulator(request, tmp_path):
    """Run a service; with the personality that is the test's parameter, if any."""
    names = [request.param] if getattr(request, "param", None) else []
    with Emulator(data=tmp_path / "emulator", api_key=KEY, personality=names) as running:
        yield running


@pytest.fixture
def machine(tmp_path, emulator):
    machine = Machine(tmp_path, emulator)
    yield machine
    if machine.process is not None:
        machine.stop(signal.SIGKILL)


class Place:
    """A machine whose daemon runs on a thread, and the command lines of its user."""

    def __init__(self, machine, monkeypatch, capsys):
        self.machine = machine
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.setattr(Signals, "listen", lambda _: None)
        for name in [name for name in os.environ if name.startswith(("SYNCD_", "AYMARA_"))]:
            monkeypatch.delenv(name)
        monkeypatch.chdir(machine.tmp_path)
        self.folder()

    def folder(self, **settings):
        """Configure the folder, and have the environment say so."""
        (folder,) = json.loads(self.machine.settings["SYNCD_FOLDERS"])
        folder |= {"settle_seconds": 0.1, "rescan_seconds": 300} | settings
        self.machine.settings["SYNCD_FOLDERS"] = json.dumps([folder])
        self.configure()

    def configure(self):
        """Have the environment say what the settings say."""
        for name, value in self.machine.settings.items():
            self._monkeypatch.setenv(name, value)

    @contextmanager
    def daemon(self):
        config = loading.load(
            config=None,
            environ=self.machine.environment,
            working_directory=self.machine.tmp_path,
        )
        stop = threading.Event()
        with opened(config) as parts:
            daemon = Daemon(config=config, components=parts, stop=stop)
            hurry = threading.Event()
            hurry.set()
            thread = threading.Thread(target=daemon.run, args=(hurry,))
            thread.start()
            try:
                self.machine.until(lambda: heartbeat.read(self.machine.state) is not None)
                yield parts
            finally:
                stop.set()
                thread.join(20)

    def call(self, *words):
        self._capsys.readouterr()
        code = cli.call([str(word) for word in words])
        said = self._capsys.readouterr()
        validate(words, said.out)
        return code, said.out, said.err

    def listed(self):
        return self.machine.manifest()

    def status_of(self, name):
        return self.listed().get(name, {}).get("status")


@pytest.fixture
def place(machine, monkeypatch, capsys):
    return Place(machine, monkeypatch, capsys)


@pytest.fixture
def syncd(machine, monkeypatch, capsys):
    """Run a command line within this process; return its exit code, and what it said."""
    monkeypatch.setattr(Signals, "listen", lambda _: None)
    for name in [name for name in os.environ if name.startswith(("SYNCD_", "AYMARA_"))]:
        monkeypatch.delenv(name)
    (folder,) = json.loads(machine.settings["SYNCD_FOLDERS"])
    machine.settings["SYNCD_FOLDERS"] = json.dumps([folder | {"settle_seconds": 0}])

    def run(*words, key="e2e-key", **settings):
        keys = {"AYMARA_AI_API_KEY": key} if key else {}
        for name, value in (machine.settings | keys | settings).items():
            monkeypatch.setenv(name, value)
        code = cli.call(words)
        said = capsys.readouterr()
        validate(words, said.out)
        return code, said.out, said.err

    return run


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """A real MP4 of 24 frames, as bytes."""
    from syncd.emulator.video import make_video

    path = Path(tmp_path_factory.mktemp("video")) / "clip.mp4"
    make_video(path, seconds=2, fps=12, size=(160, 120))
    return path.read_bytes()
