"""SIGHUP, and a key that was rotated: what is taken up, and what is left alone."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.request import urlopen

import pytest

from syncd import heartbeat
from syncd.cli.control import perform
from syncd.commands import COMMANDS
from syncd.components import opened
from syncd.config import loading as configuration
from syncd.daemon import Daemon
from syncd.emulator import Emulator
from syncd.metrics import RELOADS
from syncd.state import holds, manifest, views

GOOD, BAD = "a-good-key-0123", "a-refused-key-4"


class Running:
    """A daemon on a thread, with a configuration file that can be changed."""

    def __init__(self, home, url):
        self.home = home
        self.drop, self.other = home / "drop", home / "other"
        for folder in (self.drop, self.other):
            folder.mkdir()
        self.key_file = home / "key"
        self.key(GOOD)
        self.url = url
        self.configure()
        self.stop, self.reload = threading.Event(), threading.Event()
        self.loads = 0

    def key(self, key):
        self.key_file.write_text(key)
        self.key_file.chmod(0o600)

    def configure(self, *folders, extra=""):
        tables = "".join(
            f"[[folders]]\npath = '{folder}'\nsettle_seconds = 0\n"
            for folder in folders or [self.drop]
        )
        (self.home / "syncd.toml").write_text(
            f"[state]\ndirectory = 'state'\n[api]\nbase_url = '{self.url}'\n{extra}\n{tables}"
        )

    def load(self):
        self.loads += 1
        environ = {"AYMARA_AI_API_KEY_FILE": str(self.key_file)}
        return configuration.load(config=None, environ=environ, working_directory=self.home)

    def run(self):
        with opened(self.load()) as parts:
            self.daemon = Daemon(
                config=self.load(),
                components=parts,
                stop=self.stop,
                reload=self.reload,
                load=self.load,
            )
            self.daemon.run(threading.Event())

    def hup(self):
        """Have it reload, and wait until it has."""
        before = sum(RELOADS.values().values())
        self.reload.set()
        self.until(lambda: sum(RELOADS.values().values()) > before)

    def until(self, condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            time.sleep(0.02)

    def synced(self):
        entries = views.read(self.home / "state", lambda db: list(manifest.entries(db)))
        return {entry["path"] for entry in entries if entry["status"] == "synced"}

    def beat(self):
        return heartbeat.read(self.home / "state")


@pytest.fixture
def emulator(tmp_path):
    with Emulator(data=tmp_path / "emulator", api_key=GOOD) as running:
        yield running


def _ours():
    """The threads that are syncd's own: the emulator's come and go."""
    return {t for t in threading.enumerate() if not t.name.startswith("AnyIO")}


@pytest.fixture
def running(tmp_path, emulator, monkeypatch):
    monkeypatch.setattr("syncd.daemon.TICK_SECONDS", 0.1)
    before = _ours()
    running = Running(tmp_path, emulator.url)
    thread = threading.Thread(target=running.run)
    thread.start()
    running.until(lambda: running.beat() is not None)
    yield running
    running.stop.set()
    thread.join(20)
    assert _ours() == before


@pytest.mark.long
def test_a_reload_takes_up_a_folder_and_leaves_the_unchanged_one_as_it_is(running):
    (running.drop / "one").write_text("1")
    running.until(lambda: running.synced() == {"one"})
    kept = running.daemon._components.watch.folders["drop"]
    scans, thread = kept.last_scan, kept.observer
    (running.other / "two").write_text("2")
    running.configure(running.drop, running.other)
    running.hup()
    running.until(lambda: running.synced() == {"one", "two"})
    assert running.daemon._components.watch.folders["drop"] is kept
    assert kept.observer is thread
    assert kept.last_scan is scans
    (running.drop / "three").write_text("3")
    running.until(lambda: running.synced() == {"one", "two", "three"})


@pytest.mark.long
@pytest.mark.row(48)
def test_what_a_failed_commit_left_under_way_is_settled_after_a_reload(running):
    """The parts that knew of it are gone, and nobody would ever end the path's waiting."""
    (running.drop / "one").write_text("1")
    running.until(lambda: running.synced() == {"one"})
    running.daemon._components.store.write(
        lambda db: db.conn.execute(
            "UPDATE copies SET status = 'retiring', in_flight = 1, delete_sent_at = 1"
        )
    )
    assert running.synced() == set()
    running.configure(running.drop, running.other)
    running.hup()
    running.until(lambda: running.synced() == {"one"})


@pytest.mark.long
def test_a_folder_that_is_taken_out_is_watched_no_more_and_nothing_is_deleted(running, emulator):
    running.configure(running.drop, running.other)
    running.hup()
    (running.other / "two").write_text("2")
    running.until(lambda: "two" in running.synced())
    gone = running.daemon._components.watch.folders["other"]
    running.configure(running.drop)
    running.hup()
    running.until(lambda: "other" not in running.beat().folders)
    assert gone.observer.live_watches == 0
    (running.drop / "one").write_text("1")
    running.until(lambda: "one" in running.synced())
    assert "two" not in running.synced(), "its copy is released: kept, and mirrored no more"
    with urlopen(f"{emulator.url}/_emulator/objects", timeout=5) as answer:
        assert [json.loads(line)["state"] for line in answer] == ["live", "live"]


@pytest.mark.long
@pytest.mark.row(48)
@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("[upload]\nworkers = 0", "workers"),
        ("not toml", "not valid TOML"),
        ("[upload]\nwokers = 2", "did you mean workers"),
        ("[log]\n[api.x]", "api"),
    ],
)
def test_a_bad_configuration_changes_nothing_and_is_told_of(running, caplog, extra, said):
    running.configure(extra=extra)
    running.hup()
    assert "not reloaded, the old configuration holds" in caplog.text
    assert said in caplog.text
    running.until(lambda: any("cannot be used" in t for t in running.beat().troubles))
    (running.drop / "one").write_text("1")
    running.until(lambda: running.synced() == {"one"})
    running.configure()
    running.hup()
    running.until(lambda: running.beat().troubles == [])


@pytest.mark.row(48)
def test_what_only_a_restart_can_do_is_refused_by_a_reload(running, caplog):
    running.url = "http://127.0.0.1:9"
    running.configure()
    running.hup()
    assert "[api] base_url is now http://127.0.0.1:9" in caplog.text
    assert "restart syncd" in caplog.text
    assert running.daemon._config.api.base_url != running.url


def test_a_reload_does_not_change_to_the_sandbox(running, caplog):
    running.configure(extra="sandbox = true")
    running.hup()
    assert "[api] sandbox is now True" in caplog.text
    assert not running.daemon._config.api.sandbox


def test_a_reload_that_changes_nothing_restarts_nothing(running, caplog):
    caplog.set_level(logging.INFO)
    parts = running.daemon._components
    running.hup()
    assert running.daemon._components is parts
    assert "nothing changed" in caplog.text


def test_the_listener_is_taken_up_by_a_reload_alone(running):
    parts = running.daemon._components
    running.configure(extra="[server]\nlisten = '127.0.0.1:0'")
    running.hup()
    running.until(lambda: running.daemon._listener.address)
    assert running.daemon._components is parts
    host, _, port = running.daemon._listener.address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=5).close()


def test_systemd_is_told_that_a_reload_begins_and_ends(running, monkeypatch, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        running.configure(extra="[upload]\nworkers = 2")
        running.reload.set()
        told = []
        while "READY=1" not in told:
            told.append(manager.recv(1000).decode())
        monkeypatch.delenv("NOTIFY_SOCKET")
    begun = next(n for n, message in enumerate(told) if message.startswith("RELOADING=1\n"))
    assert "MONOTONIC_USEC=" in told[begun]
    assert told[-1] == "READY=1"
    assert running.daemon._config.upload.workers == 2


@pytest.mark.long
@pytest.mark.row(38)
def test_a_key_that_was_rotated_is_taken_up_by_itself_after_a_401(running, emulator, monkeypatch):
    monkeypatch.setattr("syncd.reloading.KEY_SECONDS", 0.2)
    running.key(BAD)
    running.hup()
    (running.drop / "one").write_text("1")
    held = lambda: {h.reason for h in views.read(running.home / "state", holds.open_holds)}  # noqa: E731
    running.until(lambda: "key_refused" in held())
    loads = running.loads
    running.until(lambda: running.loads > loads + 1)
    assert running.daemon._config.credentials.api_key.get_secret_value() == BAD
    running.key(GOOD)
    running.until(lambda: running.synced() == {"one"})
    assert "key_refused" not in held()


@pytest.mark.long
def test_a_reload_waits_for_a_command_under_way(running, monkeypatch):
    over = threading.Event()

    def wait(_parts, _arguments):
        assert over.wait(20)
        yield {"ended": True}

    monkeypatch.setitem(COMMANDS, "wait", wait)
    caller = SimpleNamespace(look=running.load, words=["wait"])
    with ThreadPoolExecutor(1) as pool:
        command = pool.submit(perform, caller, "wait", {})
        try:
            running.until(lambda: running.daemon._control.busy)
            running.configure(extra="[upload]\nworkers = 2")
            running.reload.set()
            time.sleep(0.5)
            assert running.daemon._config.upload.workers is None
        finally:
            over.set()
        assert command.result(20) == {"ended": True}
    running.until(lambda: running.daemon._config.upload.workers == 2)


def test_sighup_ends_only_what_has_no_reload():
    from syncd.signals import Signals

    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        daemon, once = Signals(), Signals()
        daemon.listen(reloads=True)
        os.kill(os.getpid(), signal.SIGHUP)
        assert (daemon.reload.wait(5), daemon.stop.is_set()) == (True, False)
        once.listen()
        os.kill(os.getpid(), signal.SIGHUP)
        assert (once.stop.wait(5), once.reload.is_set()) == (True, False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_that_comes_while_a_flag_is_being_looked_at_ends_all_the_same():
    """The main thread holds the lock of a flag for a moment whenever it begins to wait for it."""
    program = (
        "import signal; from syncd.signals import Signals; signals = Signals(); signals.listen()\n"
        "with signals.stop._cond: signal.raise_signal(signal.SIGTERM)\n"
        "assert signals.stop.wait(5)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=10)
