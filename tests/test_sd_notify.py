import os
import socket
import threading
import time

import pytest

from syncd import sd_notify


@pytest.fixture(params=["path", "abstract"])
def received(request, tmp_path, monkeypatch):
    """Return the next message that systemd would have got."""
    name = str(tmp_path / "notify") if request.param == "path" else f"\0syncd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name)
        end.settimeout(1)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        yield lambda: end.recv(4096).decode()


def test_each_message_is_what_systemd_expects(received):
    sd_notify.ready()
    assert received() == "READY=1"
    sd_notify.stopping()
    assert received() == "STOPPING=1"
    sd_notify.watchdog()
    assert received() == "WATCHDOG=1"


def test_a_status_is_one_line_of_utf8(received):
    sd_notify.status("3 synced,\n1 fäiled \udcff")
    assert received() == "STATUS=3 synced, 1 fäiled \\udcff"


def test_reloading_carries_the_monotonic_time(received):
    before = time.monotonic_ns() // 1000
    sd_notify.reloading()
    first, second = received().splitlines()
    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(value) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "/nobody/listens"])
def test_without_a_listener_nothing_happens(monkeypatch, address):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    sd_notify.ready()


@pytest.mark.row(86)
def test_a_manager_that_reads_nothing_costs_no_time_and_is_told_that_we_are_ready_later(
    tmp_path, monkeypatch
):
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        began, worked = time.monotonic(), time.process_time()
        for _ in range(500):
            sd_notify.watchdog()
        sd_notify.ready()
        assert time.monotonic() - began < 2
        assert time.process_time() - worked < 1
        end.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                assert end.recv(4096) == b"WATCHDOG=1"
        sd_notify.watchdog()
        assert end.recv(4096) == b"READY=1\nWATCHDOG=1"
        sd_notify.watchdog()
        assert end.recv(4096) == b"WATCHDOG=1"


def test_a_start_that_takes_long_asks_for_more_time(received, monkeypatch):
    monkeypatch.setattr(sd_notify, "EXTEND_SECONDS", 0.03)
    with sd_notify.starting():
        assert received() == "EXTEND_TIMEOUT_USEC=30000"
        assert received() == "EXTEND_TIMEOUT_USEC=30000"
    assert not [thread for thread in threading.enumerate() if thread.name == "syncd-starting"]
