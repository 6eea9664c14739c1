"""The daemon's own manners; what it does to files is in the end-to-end tests."""

import contextlib
import socket
import sqlite3
import threading
import time

import pytest

from syncd import daemon as daemon_module, heartbeat, liveness, pulse
from syncd.components import opened
from syncd.config import loading as configuration
from syncd.daemon import Daemon
from syncd.exceptions import DamagedStateError, StateWriteError
from syncd.state import files, overview
from syncd.state.facts import fact
from syncd.state.lifecycle import FileStatus
from syncd.workers.clock_seen import boottime


@pytest.fixture
def config(tmp_path):
    (tmp_path / "drop").mkdir()
    environ = {
        "AYMARA_AI_API_KEY": "k",
        "SYNCD_API__BASE_URL": "http://127.0.0.1:9",
        "SYNCD_STATE__DIRECTORY": str(tmp_path / "state"),
        "SYNCD_WATCH": str(tmp_path / "drop"),
    }
    return configuration.load(config=None, environ=environ, working_directory=tmp_path)


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@pytest.fixture
def running(config):
    """A daemon on a thread, its parts, and the way to end it."""
    stop, hurry, codes = threading.Event(), threading.Event(), []
    with opened(config) as parts:
        daemon = Daemon(config=config, components=parts, stop=stop)
        thread = threading.Thread(target=lambda: codes.append(daemon.run(hurry)))
        thread.start()
        until(lambda: heartbeat.is_alive(config.state.directory, time.time()))
        yield daemon, parts, codes
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.row(26)
def test_a_daemon_that_meets_damage_ends_so_that_nothing_starts_it_again(config):
    stop, hurry, ends = threading.Event(), threading.Event(), []

    def run(daemon):
        try:
            daemon.run(hurry)
        except DamagedStateError as error:
            ends.append(error)

    with opened(config) as parts:
        daemon = Daemon(config=config, components=parts, stop=stop)
        thread = threading.Thread(target=run, args=(daemon,))
        thread.start()
        try:
            until(lambda: heartbeat.is_alive(config.state.directory, time.time()))
            parts.store.writer.refuse_damaged(DamagedStateError("damaged: restore it"))
            until(lambda: ends)
        finally:
            stop.set()
            thread.join(20)
    assert str(ends[0]) == "damaged: restore it"


@pytest.mark.long
def test_a_running_daemon_leaves_beats_and_takes_them_away_at_its_end(config):
    stop, hurry = threading.Event(), threading.Event()
    directory = config.state.directory
    with opened(config) as parts:
        daemon = Daemon(config=config, components=parts, stop=stop)
        thread = threading.Thread(target=daemon.run, args=(hurry,))
        thread.start()
        until(lambda: heartbeat.is_alive(directory, time.time()))
        assert heartbeat.read(directory).folders["drop"].watch == "native"
        stop.set()
        thread.join(20)
    assert not (directory / heartbeat.FILE_NAME).exists()
    assert not heartbeat.is_alive(directory, time.time())


def test_a_beat_makes_what_a_configuration_says_once_for_each(running, config, monkeypatch):
    daemon, _, _ = running
    monkeypatch.setattr(daemon._pulse, "beat", lambda *_, **__: None)

    def pace():
        return daemon._pulse._facts_of(daemon._config)[1]

    before = pace()
    assert before["stalled_after"] == config.processing.stalled_after
    assert pace() is before
    slower = config.processing.model_copy(update={"stalled_after": 1.0})
    monkeypatch.setattr(daemon, "_config", config.model_copy(update={"processing": slower}))
    assert pace()["stalled_after"] == 1.0


@pytest.mark.long
def test_a_daemon_at_rest_writes_no_beat_and_tells_of_it_when_it_is_asked(running, monkeypatch):
    daemon, parts, _ = running
    directory = parts.store.directory
    monkeypatch.setattr(liveness, "FRESH_SECONDS", 0.2)

    def written():
        return (directory / heartbeat.FILE_NAME).stat().st_mtime_ns

    def rests():
        before = written()
        time.sleep(1.3)
        return written() == before

    until(rests)
    monkeypatch.setattr(liveness, "STALE_SECONDS", 1.25)
    assert time.time() - written() / 1e9 > 1.25
    assert heartbeat.is_alive(directory, time.time())
    # The socket goes on while the main thread hangs.
    monkeypatch.setattr(daemon, "_beat", lambda: None)
    until(lambda: not heartbeat.is_alive(directory, time.time()))


@pytest.mark.long
def test_every_thread_ends_with_the_daemon(config):
    before = set(threading.enumerate())
    stop = threading.Event()
    with opened(config) as parts:
        daemon = Daemon(config=config, components=parts, stop=stop)
        thread = threading.Thread(target=daemon.run, args=(threading.Event(),))
        thread.start()
        until(lambda: heartbeat.is_alive(config.state.directory, time.time()))
        stop.set()
        thread.join(20)
    assert set(threading.enumerate()) <= before


def test_a_clock_that_jumps_lets_every_grace_begin_anew(running, monkeypatch):
    _, parts, _ = running
    long_ago = time.time() - 50
    file_id = parts.store.write(
        lambda db: files.insert(
            db,
            folder="drop",
            path=b"gone",
            status=FileStatus.MISSING,
            fingerprint=None,
            changed_at=long_ago,
            due_at=long_ago + 60,
        )
    )
    monkeypatch.setattr(parts.clocks, "steady", lambda: boottime() - 3600)
    until(lambda: parts.store.read(lambda db: files.get(db, file_id)).due_at > time.time() + 50)


@pytest.mark.long
def test_a_state_that_fails_twice_ends_the_daemon_with_a_code(running):
    _, parts, codes = running
    parts.store.writer.failed = True
    until(lambda: codes)
    assert codes == [1]


@pytest.mark.long
@pytest.mark.row(1)
def test_after_a_full_disk_every_folder_is_scanned(running, monkeypatch):
    _, parts, _ = running
    asked = []
    monkeypatch.setattr(parts.watch, "ask_scans", asked.append)

    def fills_the_disk(_):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with pytest.raises(StateWriteError):
        parts.store.write(fills_the_disk)
    parts.store.set_fact("again", "1")
    until(lambda: asked == ["the state database takes commits again"])


@pytest.mark.long
def test_a_beat_that_cannot_be_written_ends_nothing(running, monkeypatch):
    daemon, _, codes = running

    failed = threading.Event()

    def fails(_directory, _heartbeat):
        failed.set()
        raise OSError("no")

    monkeypatch.setattr(heartbeat, "write", fails)
    monkeypatch.setattr(daemon_module, "TICK_SECONDS", 0.02)
    daemon._pulse._written_at = 0.0
    assert failed.wait(10)
    time.sleep(0.5)
    assert codes == []


@pytest.mark.long
def test_the_status_line_is_made_only_where_somebody_listens_and_seldom_where_it_takes_long(
    running, monkeypatch, tmp_path
):
    _, parts, _ = running
    made = []

    def slow(_db):
        made.append(time.monotonic())
        time.sleep(0.02)
        return f"{len(made)} synced"

    monkeypatch.setattr(overview, "summary", slow)
    monkeypatch.setattr(daemon_module, "TICK_SECONDS", 0.02)
    time.sleep(1.2)
    assert made == []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        until(lambda: b"STATUS=1 synced" in received(manager))
        parts.store.set_fact("number", "2")
        until(lambda: b"STATUS=2 synced" in received(manager))
    assert made[1] - made[0] >= 0.02 * pulse.SUMMARY_SHARE


@pytest.mark.long
@pytest.mark.row(52)
def test_what_hangs_for_good_starves_the_watchdog_and_is_told(config, monkeypatch, tmp_path):
    monkeypatch.setattr(pulse, "HUNG_SECONDS", 0.3)
    monkeypatch.setattr(daemon_module, "TICK_SECONDS", 0.05)
    free, stop = threading.Event(), threading.Event()
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        opened(config) as parts,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon = Daemon(config=config, components=parts, stop=stop)
        thread = threading.Thread(target=daemon.run, args=(threading.Event(),))
        thread.start()
        directory = config.state.directory
        try:
            until(lambda: heartbeat.is_alive(directory, time.time()))
            until(lambda: b"WATCHDOG=1" in received(manager))
            monkeypatch.setattr(type(parts.uploader), "step", lambda _: free.wait() and None)
            daemon._scheduler._steps["upload"].run = parts.uploader.step
            daemon._scheduler.wake("upload")
            until(
                lambda: any(
                    "upload has been running" in trouble
                    for trouble in heartbeat.read(directory).troubles
                )
            )
            assert not heartbeat.is_alive(directory, time.time())
            received(manager)
            time.sleep(0.3)
            assert b"WATCHDOG=1" not in received(manager)
            free.set()
            until(lambda: b"WATCHDOG=1" in received(manager))
            until(lambda: heartbeat.is_alive(directory, time.time()))
        finally:
            free.set()
            stop.set()
            thread.join(20)


@pytest.mark.long
def test_the_status_line_follows_the_table_at_rest_and_though_nobody_reads_it_for_a_while(
    running, monkeypatch, tmp_path
):
    daemon, parts, _ = running
    told = daemon._pulse.told
    monkeypatch.setattr(daemon._pulse, "_heartbeat", lambda *_: told)
    monkeypatch.setattr(daemon_module, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(overview, "summary", lambda db: f"{fact(db, 'number')} synced")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for number in range(3):
            # Its queue is full of what feeds the watchdog.
            time.sleep(0.5)
            parts.store.set_fact("number", f"{number}")
            time.sleep(0.2)
            until(lambda number=number: b"STATUS=%d synced" % number in received(manager))


def received(manager):
    """Return what has come from the daemon since it was last asked for."""
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(manager.recv(1000))
    return told


@pytest.mark.long
@pytest.mark.row(1)
def test_once_the_state_can_be_written_again_every_folder_is_scanned_and_told_of_until_then(
    running, monkeypatch
):
    daemon, parts, _ = running
    (watched,) = parts.watch.folders.values()
    until(lambda: watched.last_scan is not None)
    before = watched.last_scan
    let_scan, scan = threading.Event(), watched._scanner.scan
    monkeypatch.setattr(watched._scanner, "scan", lambda *a: let_scan.wait(20) and scan(*a))
    parts.store.writer.in_trouble = True
    until(lambda: "cannot be written" in daemon._catch_up.trouble(parts))
    parts.store.write(
        lambda db: db.conn.execute("INSERT INTO service (key, value) VALUES ('x', 'y')")
    )
    until(lambda: "makes up for it" in daemon._catch_up.trouble(parts))
    let_scan.set()
    until(lambda: daemon._pulse.told.troubles == [])
    assert watched.last_scan is not before


@pytest.mark.long
def test_a_drain_that_is_too_short_for_what_settles_is_warned_of(config, caplog):
    short = config.model_copy(
        update={"upload": config.upload.model_copy(update={"drain_seconds": 5})}
    )
    stop = threading.Event()
    stop.set()
    with opened(short) as parts:
        Daemon(config=short, components=parts, stop=stop).run(threading.Event())
    assert "set it to settle_seconds + 3 = 8 or more" in caplog.text
