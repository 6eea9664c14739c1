import contextlib
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from emulator_wire import KEY, ask, dial, multipart_head, read_answer

from syncd.emulator import ORGANIZATION, Emulator, journal
from syncd.emulator.store import ObjectIndex, StoredObject


def rss_kib(pid, name="VmHWM"):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def test_everything_survives_a_restart(run, tmp_path):
    with run.here() as caller:
        port = httpx.URL(caller.emulator.url).port
        direct = caller.upload("a.txt", b"kept").json()
        gone = caller.upload("b.txt").json()["file_uuid"]
        caller.delete(f"/v2/files/{gone}")
        reserved = caller.create({"local_file_path": "c.txt"}).json()["files"][0]
        before = caller.get("/v2/files").json(), caller.lines("objects")
    caller = run(port=port)
    assert (caller.get("/v2/files").json(), caller.lines("objects")) == before
    assert ask("GET", direct["file_url"]).content == b"kept"
    assert ask("PUT", reserved["file_url"], content=b"late").status_code == 200
    assert len(caller.lines("requests")) > 4


def test_an_emulator_restarts_on_the_same_port(tmp_path):
    emulator = Emulator(data=tmp_path)
    first = emulator.start()
    emulator.stop()
    emulator.stop()
    with emulator:
        assert emulator.url == first
        assert ask("GET", f"{first}/_emulator/health").status_code == 200


def test_a_folder_serves_one_emulator_at_a_time(caller, tmp_path):
    before = threading.active_count()
    with pytest.raises(OSError, match="another emulator uses this folder"):
        Emulator(data=tmp_path / "data").start()
    assert threading.active_count() == before


def test_a_port_in_use_raises_an_error_and_leaves_no_thread(caller, tmp_path):
    port = httpx.URL(caller.emulator.url).port
    before = threading.active_count()
    with pytest.raises(OSError, match="in use"):
        Emulator(data=tmp_path / "other", port=port).start()
    assert threading.active_count() == before


def test_a_stop_is_prompt_with_requests_in_flight(run, caplog):
    with contextlib.ExitStack() as under_way:
        with run.here() as caller:
            caller.faults({"match": "GET /v2/files", "action": {"delay": 60}})
            waiting = under_way.enter_context(dial(caller.emulator.url))
            waiting.sendall(b"GET /v2/files HTTP/1.1\r\nHost: x\r\n\r\n")
            sending = under_way.enter_context(dial(caller.emulator.url))
            sending.sendall(multipart_head(10_000) + b"x")
            time.sleep(0.05)
            began = time.monotonic()
        assert time.monotonic() - began < 1
        assert read_quietly(waiting) == read_quietly(sending) == b""
    assert caplog.records == []


def read_quietly(connection):
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(100)
    return b""


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_cleanly_with_connections_open(process, number):
    child, url = process(api_key=KEY)
    with dial(url) as idle, dial(url) as sending:
        sending.sendall(multipart_head(10_000) + b"x")
        idle.sendall(b"GET /v2/files HTTP/1.1\r\nHost: x\r\n\r\n")
        read_answer(idle)
        began = time.monotonic()
        child.send_signal(number)
        assert child.wait(5) == 0
        assert time.monotonic() - began < 2
    assert child.stdout.read() == ""


@pytest.mark.long
def test_a_kill_during_an_upload_keeps_exactly_the_answered_uploads(process, run, tmp_path):
    child, url = process(api_key=KEY)
    answered = ask(
        "POST", f"{url}/v2/files/-/uploads", files={"file": b"whole"}, headers={"x-api-key": KEY}
    ).json()
    contents = tmp_path / "data" / "contents"
    with dial(url) as connection:
        connection.sendall(multipart_head(10_000_000) + b"x" * 3_000_000)
        while max(path.stat().st_size for path in contents.iterdir()) < 1_000_000:
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert len(list(contents.iterdir())) == 2
    caller = run()
    assert len(list(contents.iterdir())) == 1
    (line,) = caller.lines("objects")
    assert (line["file_uuid"], line["state"]) == (answered["file_uuid"], "live")


@pytest.mark.long
def test_memory_stays_flat_during_a_large_upload(process):
    child, url = process(api_key=KEY)
    ask("GET", f"{url}/_emulator/health")
    before, mib = rss_kib(child.pid), b"x" * (1 << 20)
    end = b"\r\n--b--\r\n"
    with dial(url) as connection:
        connection.sendall(multipart_head((200 << 20) + len(end)))
        for _ in range(200):
            connection.sendall(mib)
        connection.sendall(end)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
    assert rss_kib(child.pid) - before < 16 << 10


def test_the_list_of_requests_is_bounded_and_keeps_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "FILE_BYTES", 1000)
    noted = journal.Journal(tmp_path)
    for number in range(1000):
        noted.note({"number": number})
    noted.close()
    lines = b"".join(noted.read()).splitlines()
    assert lines[-1] == b'{"number": 999}'
    assert 50 < len(lines) < 200


@pytest.mark.long
def test_many_objects_are_listed_without_delay(run, tmp_path):
    with contextlib.closing(ObjectIndex(tmp_path / "data")) as store:
        one = StoredObject(
            file_uuid="",
            organization_uuid=ORGANIZATION,
            workspace_uuid=None,
            state="live",
            content_type="text/plain",
            file_type="text",
            created_at=0.0,
            updated_at=0.0,
        )
        store.add(*(replace(one, file_uuid=str(number)) for number in range(20_000)))
    caller = run()
    began = time.monotonic()
    assert [line["file_uuid"] for line in caller.lines("objects")] == [*map(str, range(20_000))]
    # Switching threads for each line took 25 s on an idle machine.
    assert time.monotonic() - began < 20


def test_an_answer_does_not_wait_for_a_delayed_acknowledgement(caller):
    def is_prompt():
        began = time.monotonic()
        caller.upload()
        return time.monotonic() - began < 0.03

    # The kernel delays each acknowledgement by 40 ms.
    assert any(is_prompt() for _ in range(100))


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_it_listens_on_ipv6(tmp_path):
    try:
        emulator = Emulator(data=tmp_path, host="::1")
        with emulator:
            assert emulator.url.startswith("http://[::1]:")
            assert ask("GET", f"{emulator.url}/_emulator/health").status_code == 200
    except OSError:
        pytest.skip("IPv6 is off")


def test_only_the_owner_can_read_the_signing_key(caller, tmp_path):
    assert (tmp_path / "data" / "signing-key").stat().st_mode & 0o077 == 0
