"""The bandwidth that uploads share, at the bucket and at a real receiver."""

import json
import os
import selectors
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from syncd.files_api import AbortedUnsent, Bandwidth, FilesClient, StopFlag, UploadSource
from syncd.files_api.bandwidth import BURST_SECONDS

KIB, MIB = 1 << 10, 1 << 20
ANSWER = {"file_uuid": "00000000-0000-4000-8000-000000000001", "remote_file_path": "x"}


class Receiver:
    """Takes what is sent to it as service, storage or proxy, and notes when each byte came."""

    def __enter__(self):
        self.seen = []
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join(10)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def bytes_between(self, start, end):
        return sum(size for at, size in self.seen if start <= at < end)

    def _run(self):
        while not self._ended.is_set():
            for key, _ in self._selector.select(0.05):
                if key.data is None:
                    peer, _ = self._listener.accept()
                    peer.setblocking(False)
                    state = {"head": b"", "left": None}
                    self._selector.register(peer, selectors.EVENT_READ, state)
                else:
                    self._take(key.fileobj, key.data)

    def _take(self, peer, state):
        data = peer.recv(1 << 18)
        if not data:
            self._selector.unregister(peer)
            peer.close()
            return
        if state["left"] is None:
            state["head"] += data
            head, end, data = state["head"].partition(b"\r\n\r\n")
            if not end:
                return
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            state["left"] = int(fields.get(b"content-length", 0))
        self.seen.append((time.monotonic(), len(data)))
        state["left"] -= len(data)
        if state["left"] == 0:
            body = json.dumps(ANSWER).encode()
            peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            state |= {"head": b"", "left": None}


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


class Time:
    now = 0.0

    def __call__(self):
        return self.now


def test_the_time_pays_for_what_was_booked_in_its_order():
    clock = Time()
    bandwidth = Bandwidth(clock)
    assert bandwidth.seconds_until(bandwidth.book(10**9)) == 0
    bandwidth.limit(1000)
    first, second = bandwidth.book(500), bandwidth.book(500)
    assert (bandwidth.seconds_until(first), bandwidth.seconds_until(second)) == (0.5, 1.0)
    clock.now = 0.75
    assert bandwidth.seconds_until(first) == 0
    assert bandwidth.seconds_until(second) == pytest.approx(0.25)


def test_a_new_rate_holds_at_once_also_for_what_waits():
    clock = Time()
    bandwidth = Bandwidth(clock)
    bandwidth.limit(1024)
    place = bandwidth.book(10 * 1024)
    clock.now = 5.0
    bandwidth.limit(5 * 1024)
    assert bandwidth.seconds_until(place) == pytest.approx(1.0)
    bandwidth.limit(None)
    assert bandwidth.seconds_until(place) == 0


def test_an_idle_time_is_saved_up_for_a_moment_only():
    clock = Time()
    bandwidth = Bandwidth(clock)
    bandwidth.limit(1000)
    clock.now = 3600.0
    place = bandwidth.book(1000)
    assert bandwidth.seconds_until(place) == pytest.approx(1.0 - BURST_SECONDS)


def client_of(receiver, way, bandwidth, stop=None, **more):
    proxy = receiver.url if "proxied" in way else None
    url = "http://files.invalid" if proxy else receiver.url
    settings = {"timeout_seconds": 5, "storage_hosts": ["files.invalid"]} | more
    return FilesClient(
        base_url=url,
        api_key="key",
        allow_cleartext=True,
        proxy=proxy,
        bandwidth=bandwidth,
        stop=stop,
        **settings,
    )


def send(client, source, way, **more):
    if "presigned" in way:
        url = f"{client.base_url}/object?signature=s"
        client.put(url, source, content_type="text/plain", **more)
    else:
        client.upload(source, name="a.txt", content_type="text/plain", **more)


WAYS = ["direct", "presigned", "direct proxied", "presigned proxied"]


def file_of(tmp_path, size):
    path = tmp_path / "source"
    path.touch()
    os.truncate(path, size)
    return path.open("rb")


@pytest.mark.parametrize("way", WAYS)
def test_a_transfer_takes_its_time_and_no_time_limit_counts_it(receiver, tmp_path, way):
    bandwidth = Bandwidth()
    told, rested = [], []
    with file_of(tmp_path, 400 * KIB) as file, client_of(receiver, way, bandwidth) as client:
        source = UploadSource(
            fd=file.fileno(), size=400 * KIB, progress=told.append, on_rest=rested.append
        )
        began = time.monotonic()
        bandwidth.limit(800 * KIB)
        send(client, source, way, timeout_seconds=0.3, deadline_seconds=0.3)
        took = time.monotonic() - began
    assert took >= 0.48
    assert sum(rested) > 0.3
    assert told == sorted(told)
    assert told[-1] == 400 * KIB
    assert len(told) >= 8
    assert receiver.bytes_between(0, time.monotonic()) >= 400 * KIB


@pytest.mark.parametrize("way", WAYS[1:3])
def test_the_stop_ends_a_wait_at_once_and_nothing_was_sent(receiver, tmp_path, way):
    bandwidth, stop = Bandwidth(), StopFlag()
    bandwidth.limit(KIB)
    # Others go first, for minutes.
    bandwidth.book(500 * KIB)
    with (
        file_of(tmp_path, 100 * KIB) as file,
        client_of(receiver, way, bandwidth, stop) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        source = UploadSource(fd=file.fileno(), size=100 * KIB)
        call = threads.submit(send, client, source, way)
        time.sleep(0.1)
        began = time.monotonic()
        stop.set()
        with pytest.raises(AbortedUnsent):
            call.result(10)
        assert time.monotonic() - began < 3


def test_a_limit_that_is_lifted_frees_what_waits(receiver, tmp_path):
    bandwidth = Bandwidth()
    bandwidth.limit(KIB)
    # Others go first, for minutes.
    bandwidth.book(500 * KIB)
    with (
        file_of(tmp_path, MIB) as file,
        client_of(receiver, "direct", bandwidth) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        source = UploadSource(fd=file.fileno(), size=MIB)
        call = threads.submit(send, client, source, "direct")
        time.sleep(0.1)
        bandwidth.limit(None)
        call.result(10)


def share_received(receiver, tmp_path, way, transfers, rate):
    """Return what part of the limit arrives over ten seconds, with so many transfers at a time."""
    bandwidth, stop = Bandwidth(), StopFlag()
    bandwidth.limit(rate)

    def work():
        with client_of(receiver, way, bandwidth, stop) as client:
            while not stop.is_set():
                send(client, UploadSource(fd=file.fileno(), size=3 * MIB), way)

    with file_of(tmp_path, 3 * MIB) as file, ThreadPoolExecutor(transfers) as threads:
        calls = [threads.submit(work) for _ in range(transfers)]
        began = time.monotonic() + 1.0
        time.sleep(11.5)
        stop.set()
        for call in calls:
            assert isinstance(call.exception(20), AbortedUnsent | None)
    share = receiver.bytes_between(began, began + 10) / 10 / rate
    print(f"{way}, {transfers}: {share:.4f} of the limit")
    return share


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("transfers", [1, 64])
@pytest.mark.parametrize("way", WAYS)
def test_the_receiver_gets_the_limit_within_five_percent(receiver, tmp_path, way, transfers):
    for _ in range(3):
        share = share_received(receiver, tmp_path, way, transfers, 4 * MIB)
        assert share < 1.05
        # A machine that has no time for the sender shows nothing of the limit.
        if share > 0.95:
            return
    pytest.fail(f"only {share:.2f} of the limit arrives")
