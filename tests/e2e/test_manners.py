"""The daemon as a process: how it ends, whom it lets in, what it says when nothing works."""

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest

from syncd import heartbeat, liveness
from syncd.state import overview, views

pytestmark = pytest.mark.long


FILES = 12


def started(machine, **more):
    """Start the daemon with other streams, or another beginning, than `start` gives it."""
    machine.process = subprocess.Popen(
        [sys.executable, "-m", "syncd", "run"],
        env=machine.environment,
        cwd=machine.tmp_path,
        **more,
    )
    (machine.tmp_path / "daemon.log").touch()
    deadline = time.monotonic() + 20
    while heartbeat.read(machine.state) is None:
        assert machine.process.poll() is None, machine.process.returncode
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.row(46)
def test_a_signal_at_any_moment_is_an_end_with_0_and_nothing_is_lost_or_doubled(machine):
    for index in range(FILES):
        machine.write(f"{index}.txt", f"content {index}".encode())
    machine.faults({"match": "POST /v2/files", "every": 2, "action": {"delay": 0.3}})
    for moment, number in ((0.0, signal.SIGTERM), (0.3, signal.SIGINT), (0.6, signal.SIGTERM)):
        machine.start()
        time.sleep(moment)
        began = time.monotonic()
        assert machine.stop(number) == 0, machine.log[-2000:]
        assert time.monotonic() - began < 10
        assert not (machine.state / heartbeat.FILE_NAME).exists()
    assert "Traceback" not in machine.log
    machine.faults()
    machine.start()
    machine.settles()
    assert len(machine.objects()) == FILES


@pytest.mark.row(46)
def test_a_second_signal_hurries_what_would_still_be_drained(machine):
    machine.settings |= {"SYNCD_UPLOAD__DRAIN_SECONDS": "60", "SYNCD_UPLOAD__METHOD": "direct"}
    machine.faults({"match": "POST /v2/files/-/uploads", "action": {"delay": 30}})
    machine.start()
    machine.write("slow.txt", b"slow")
    machine.until(lambda: heartbeat.read(machine.state).transfers)
    began = time.monotonic()
    machine.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert machine.process.poll() is None
    assert machine.stop(signal.SIGTERM) == 0
    assert time.monotonic() - began < 10
    # The whole request had left, so that it may have arrived: that is known.
    assert views.read(machine.state, overview.doubts) == 1


@pytest.mark.row(46)
def test_a_second_signal_hurries_a_pass_too_and_it_says_that_it_was_interrupted(machine):
    machine.settings |= {"SYNCD_UPLOAD__DRAIN_SECONDS": "60", "SYNCD_UPLOAD__METHOD": "direct"}
    machine.faults({"match": "POST /v2/files/-/uploads", "action": {"delay": 30}})
    machine.write("slow.txt", b"slow")
    with subprocess.Popen(
        [sys.executable, "-m", "syncd", "once"],
        env=machine.environment,
        cwd=machine.tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # Written once the database is whole.
        machine.until((machine.state / "instance.json").exists)
        machine.until(lambda: machine.status_of("slow.txt") == "uploading")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "a second Ctrl-C none" in err
    assert err.splitlines()[-1] == "interrupted; the next pass goes on from here"


@pytest.mark.row(48)
def test_a_log_that_is_full_closed_or_broken_ends_nothing(machine):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        started(machine, stdout=full, stderr=full)
        machine.write("full.txt", b"full")
        machine.settles()
        assert machine.stop() == 0
    reader, writer = os.pipe()
    started(machine, stdout=writer, stderr=writer)
    os.close(writer)
    os.close(reader)
    machine.write("broken.txt", b"broken")
    machine.settles()
    assert machine.stop() == 0
    started(machine, preexec_fn=lambda: [os.close(stream) for stream in (0, 1, 2)])
    machine.write("closed.txt", b"closed")
    machine.settles()
    assert machine.stop() == 0


@pytest.mark.row(48)
def test_sighup_with_a_bad_configuration_changes_nothing_and_is_told(machine):
    config = machine.tmp_path / "syncd.toml"
    machine.start()
    config.write_text("nonsense = 1\n")
    machine.process.send_signal(signal.SIGHUP)
    machine.until(lambda: "not reloaded, the old configuration holds" in machine.log)
    assert "nonsense: unknown setting" in machine.log
    machine.write("one.txt", b"one")
    machine.settles()
    config.write_text("[upload]\nworkers = 2\n")
    machine.process.send_signal(signal.SIGHUP)
    machine.until(lambda: "reloaded; transfers get" in machine.log)
    machine.write("two.txt", b"two")
    machine.settles()
    assert machine.stop() == 0


@pytest.mark.row(54)
def test_whatever_the_umask_all_it_writes_is_its_owners_alone(machine):
    machine.settings["SYNCD_SERVER__LISTEN"] = "127.0.0.1:0"
    started(machine, umask=0, stderr=subprocess.DEVNULL)
    machine.write("one.txt", b"one")
    machine.settles()
    seen = {path.name: path for path in machine.state.rglob("*")}
    assert liveness.SOCKET_NAME in seen
    assert stat.S_IMODE(machine.state.stat().st_mode) == 0o700
    for path in seen.values():
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


@pytest.mark.row(50)
def test_with_few_descriptors_everything_arrives_and_nothing_is_taken_for_missing(machine):
    for index in range(FILES):
        machine.write(f"{index % 4}/{index}.txt", f"content {index}".encode())

    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    with (machine.tmp_path / "daemon.log").open("ab") as log:
        started(machine, preexec_fn=few, stderr=log)
    machine.settles(40)
    assert not [r for r in machine.mutations() if r["method"] == "DELETE"]
    assert machine.command("status", "--alive").returncode == 0
    assert machine.stop() == 0


@pytest.mark.row(31)
@pytest.mark.parametrize("where", ["a port that is closed", "a name that nobody knows"])
def test_a_service_that_cannot_be_reached_is_told_once_and_leaves_no_doubt(
    machine, emulator, where
):
    emulator.stop()
    if where == "a name that nobody knows":
        machine.settings["SYNCD_API__BASE_URL"] = "https://nobody.invalid"
    for index in range(FILES):
        machine.write(f"{index}.txt", f"content {index}".encode())
    machine.start()
    machine.until(lambda: "cannot be reached" in machine.log)
    time.sleep(0.3)
    told = [line for line in machine.log.splitlines() if "not sent" in line]
    # Each cause once, and once that the service is waited for: not a line a file.
    assert len(told) <= 4, machine.log
    assert machine.log.count("cannot be reached; waiting for it") == 1
    assert views.read(machine.state, overview.doubts) == 0
    machine.until(lambda: heartbeat.read(machine.state).api_state == "unreachable")
    if where == "a port that is closed":
        emulator.start()
        machine.settles(40)
    assert machine.stop() == 0


def test_the_daemons_own_port_answers_while_uploads_hang(machine):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    machine.settings["SYNCD_SERVER__LISTEN"] = f"127.0.0.1:{port}"
    machine.faults({"match": "POST /v2/files/-/uploads", "action": {"delay": 20}})
    machine.settings |= {"SYNCD_UPLOAD__DRAIN_SECONDS": "0", "SYNCD_UPLOAD__METHOD": "direct"}
    machine.start()
    machine.write("slow.txt", b"slow")
    machine.until(lambda: heartbeat.read(machine.state).transfers)
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        assert answer.read() == b"ok\n"
    with urlopen(f"http://127.0.0.1:{port}/status.json", timeout=5) as answer:
        assert [t["path"] for t in json.load(answer)["transfers"]] == ["slow.txt"]
    assert machine.stop() == 0
