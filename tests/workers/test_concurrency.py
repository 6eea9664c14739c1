import heapq
import os
import threading
import time

import pytest

from syncd import disk
from syncd.files_api import FilesClient
from syncd.one_cpu import OneCpu
from syncd.workers import upload_thread, uploader
from syncd.workers.concurrency import AGAIN_SECONDS, FEWEST, FIRST, MOST, Concurrency
from syncd.workers.preparation import SourceRoot, UploadOptions
from syncd.workers.upload_queue import SMALL_BYTES
from syncd.workers.uploader import Uploader


class Line:
    """A service, and a clock that goes by what it takes to answer."""

    def __init__(self, fixed=None):
        self.now = 0.0
        self.concurrency = Concurrency(fixed, lambda: self.now)

    def send(self, seconds, count=1):
        """Make transfers, as many at a time as may be; each takes `seconds(limit)`."""
        for _ in range(count):
            limit = self.concurrency.limit
            took = seconds(limit)
            self.now += took
            for _ in range(limit):
                self.concurrency.finished(4096, took - 1e-9)
        return self.concurrency.limit


def far(_limit):
    return 0.1


def busy(limit):
    """Serve a fixed number of transfers a second, however many are asked for."""
    return 0.001 * limit


def test_the_limit_doubles_while_the_answers_are_as_quick():
    line = Line()
    assert line.concurrency.limit == FIRST
    assert line.send(far, 8) == MOST
    assert line.now < 1.0, "a few round trips are enough"


def test_each_round_of_answers_doubles_the_limit():
    line = Line()
    # Each answer takes a second, and one transfer follows another a moment later.
    ends = [(1.0 + number / 1000, number) for number in range(line.concurrency.limit)]
    while line.concurrency.limit < MOST:
        line.now, number = heapq.heappop(ends)
        line.concurrency.finished(4096, 1.0)
        heapq.heappush(ends, (line.now + 1.001, number))
        for number in range(len(ends), line.concurrency.limit):
            heapq.heappush(ends, (line.now + 1.0 + number / 1000, number))
    # The first is judged by two rounds, because four transfers say little.
    assert line.now < 6


def test_no_more_go_at_a_time_than_make_the_whole_faster():
    line = Line()
    seen = set()
    for _ in range(200):
        line.now += 1
        seen.add(line.send(busy))
    assert seen == {FIRST, 2 * FIRST}, "more are tried again now and then"


def test_a_busy_moment_costs_a_trial_and_not_the_limit():
    line = Line()
    line.send(far, 3)
    limit = line.concurrency.limit
    line.send(lambda _: 0.19, 2)
    assert line.concurrency.limit >= limit // 2
    line.now += AGAIN_SECONDS
    assert line.send(far, 10) == MOST


def test_the_limit_stays_where_a_line_is_full():
    line = Line()
    assert line.send(lambda limit: max(0.1, 0.1 * limit / 20), 20) == 16


def test_the_limit_halves_when_answers_take_much_longer():
    line = Line()
    line.send(far, 20)
    assert line.concurrency.limit == MOST
    assert line.send(lambda limit: 0.1 * limit / 8, 3) <= MOST // 2


def test_a_burst_of_requests_to_wait_halves_the_limit_once():
    line = Line()
    line.send(far, 8)
    for _ in range(MOST):
        line.concurrency.overloaded()
    assert line.concurrency.limit == MOST // 2
    for _ in range(10):
        line.now += 2
        line.concurrency.overloaded()
    assert line.concurrency.limit == FEWEST
    assert line.send(far, 10) == FEWEST
    line.now += 2 * AGAIN_SECONDS
    assert line.send(far, 100) == MOST


def test_a_number_that_is_configured_stays():
    line = Line(8)
    line.concurrency.overloaded()
    assert line.send(far, 20) == 8


@pytest.fixture
def auto(shop):
    """Return an uploader as it is by default."""
    shop.uploader = Uploader(
        roots={"f": SourceRoot(os.fsencode(shop.root), 5.0, None)},
        make_client=shop.uploader.make_client,
        options=UploadOptions(workers=None, method="direct"),
        store=shop.store,
        ledger=shop.ledger,
        gate=shop.gate,
        clock=shop.clock,
    )
    return shop


def test_threads_are_started_as_they_are_needed(auto):
    auto.uploader.start()
    try:
        assert len(auto.uploader._threads) == 1
        auto.drop("a", b"a")
        auto.uploader.step()
        assert len(auto.uploader._threads) == 1
        for number in range(10):
            auto.drop(f"{number}", b"%d" % number)
        auto.uploader.step()
        assert len(auto.uploader._threads) <= 2 * FIRST, "as many as may work, and as many ready"
    finally:
        auto.uploader.stop(30)
    assert len(auto.live()) == 11


def test_a_thread_counts_all_the_time_that_its_files_take(auto, monkeypatch):
    def slowed(real, seconds):
        def call(*args, **kwargs):
            auto.now += seconds
            return real(*args, **kwargs)

        return call

    judged = []
    concurrency = auto.uploader._concurrency
    monkeypatch.setattr(concurrency, "finished", lambda *transfer: judged.append(transfer))
    monkeypatch.setattr(concurrency, "limit", 1)
    monkeypatch.setattr(disk, "open_beneath", slowed(disk.open_beneath, 3.0))
    monkeypatch.setattr(FilesClient, "upload", slowed(FilesClient.upload, 1.0))
    auto.drop("a", b"a")
    auto.upload()
    assert judged == [(1, 4.0)], "threads that wait for each other are no faster"


@pytest.mark.row(78)
def test_a_disk_that_hangs_keeps_no_more_than_its_own_transfers(auto, monkeypatch):
    go, real, hung = threading.Event(), disk.open_beneath, []

    def open_beneath(root, path):
        if path.startswith(b"hung"):
            hung.append(path)
            go.wait(30)
        return real(root, path)

    monkeypatch.setattr(disk, "open_beneath", open_beneath)
    for number in range(FIRST):
        auto.drop(f"hung{number}", b"x" * (1 << 20))
    auto.uploader.start()
    try:
        auto.uploader.step()
        deadline = time.monotonic() + 20
        while len(hung) < FIRST and time.monotonic() < deadline:
            time.sleep(0.01)
        auto.drop("well", b"well")
        auto.now += 11
        auto.uploader.step()
        while not auto.live() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(auto.live()) == 1
        assert len(auto.uploader.transfers.all()) == FIRST, "they are shown meanwhile"
    finally:
        go.set()
        auto.uploader.stop(30)
    assert len(auto.live()) == FIRST + 1


def test_a_thread_that_has_to_rest_first_records_what_it_sent(auto):
    for number in range(40):
        auto.drop(f"{number}", b"%d" % number)
    auto.uploader.start()
    try:
        auto.uploader.step()
        deadline = time.monotonic() + 20
        while not auto.live() and time.monotonic() < deadline:
            time.sleep(0.001)
        auto.uploader._queue.allow(1)
        while auto.uploader.busy and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not auto.uploader.busy
    finally:
        auto.uploader.stop(30)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_threads_share_a_cpu_but_for_what_is_long(auto, monkeypatch):
    real, cpus = disk.open_beneath, {}

    def open_beneath(root, path):
        cpus[path] = os.sched_getaffinity(0)
        return real(root, path)

    monkeypatch.setattr(disk, "open_beneath", open_beneath)
    monkeypatch.setattr(uploader, "ONE_CPU", together := OneCpu())
    monkeypatch.setattr(upload_thread, "ONE_CPU", together)
    auto.drop("short", b"short")
    auto.drop("long", b"x" * (SMALL_BYTES + 1))
    auto.upload()
    assert len(cpus[b"short"]) == 1
    assert cpus[b"long"] == os.sched_getaffinity(0)
