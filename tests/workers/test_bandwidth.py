"""The limit in force: a person's, the timetable's or the setting's; and what it does to uploads."""

import os
import time
from functools import partial

import pytest

from syncd.files_api import Bandwidth, FilesClient
from syncd.state import limits
from syncd.state.holds import pauses
from syncd.state.limits import Limit
from syncd.timetable import Timetable
from syncd.workers import upload_thread
from syncd.workers.bandwidth import BandwidthControl
from syncd.workers.preparation import SourceRoot, UploadOptions
from syncd.workers.uploader import Uploader

MIB, HOUR = 1 << 20, 3600.0


class Control:
    """A control whose clock is ours."""

    def __init__(self, store, text="off", now=1_800_000_000.0):
        self.store, self.now, self.bucket = store, now, Bandwidth()
        self.control = BandwidthControl(
            store=store,
            bucket=self.bucket,
            timetable=Timetable.parse(text),
            clock=lambda: self.now,
        )

    def step(self):
        wait = self.control.step()
        assert self.bucket.rate == self.control.in_force.rate
        return wait

    @property
    def in_force(self):
        return (self.control.in_force.rate, self.control.in_force.source)

    def set(self, rate, seconds=None):
        until = None if seconds is None else self.now + seconds
        self.store.write(limits.set_limit, Limit(rate, self.now, until))


def test_a_person_outweighs_the_configuration_for_as_long_as_told(store):
    site = Control(store, "4MiB/s")
    assert site.step() is None
    assert site.in_force == (4 * MIB, "configuration")
    site.set(MIB, HOUR)
    assert site.step() == HOUR
    assert site.in_force == (MIB, "command")
    site.now += HOUR
    assert site.step() is None
    assert site.in_force == (4 * MIB, "configuration")
    site.set(None)
    site.step()
    assert site.in_force == (None, "command")
    store.write(limits.forget)
    site.step()
    assert site.in_force == (4 * MIB, "configuration")


def test_a_limit_outlives_a_restart_while_its_time_lasts(store):
    site = Control(store)
    site.set(MIB, HOUR)
    later = Control(store, now=site.now + HOUR / 2)
    assert later.step() == HOUR / 2
    assert later.in_force == (MIB, "command")
    over = Control(store, now=site.now + HOUR)
    assert over.step() is None
    assert over.in_force == (None, "configuration")


def test_a_timetable_is_followed_also_when_the_clock_is_set(store, set_zone):
    set_zone("UTC")
    site = Control(store, "08:00 1MiB/s, 19:00 off", now=1_800_000_000.0 // 86_400 * 86_400)
    assert site.step() == 8 * HOUR
    assert site.in_force == (None, "timetable")
    site.now += 8 * HOUR
    assert site.step() == 11 * HOUR
    assert site.in_force == (MIB, "timetable")
    site.now -= HOUR
    assert site.step() == HOUR
    assert site.in_force == (None, "timetable")


@pytest.fixture
def limited(shop):
    """An uploader whose clients share a bucket."""
    bucket = Bandwidth()
    make = partial(FilesClient, base_url=shop.emulator.url, api_key="worker-key")
    shop.uploader = Uploader(
        store=shop.store,
        ledger=shop.ledger,
        gate=shop.gate,
        clock=time.time,
        roots={"f": SourceRoot(os.fsencode(shop.root), 5.0, None)},
        make_client=lambda stop: make(stop=stop, bandwidth=bucket),
        options=UploadOptions(workers=2, method="direct"),
    )
    return bucket


def test_a_pause_drops_a_transfer_that_waits_for_its_bandwidth(shop, limited):
    limited.limit(2048)
    shop.drop("a", os.urandom(100_000))
    shop.uploader.start()
    shop.uploader.step()
    deadline = time.monotonic() + 10
    while not any(t.rested for t in shop.uploader.transfers.all()) and time.monotonic() < deadline:
        time.sleep(0.01)
    shop.store.write(pauses.pause, "f", None, shop.now)
    shop.gate.see_standstills()
    while shop.uploader.busy and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not shop.uploader.busy
    assert shop.copy("a").status == "planned"
    assert not shop.live()
    shop.uploader.stop(0.0)


def test_the_wait_for_the_bandwidth_is_not_taken_for_a_slow_service(shop, limited, monkeypatch):
    counted = []
    monkeypatch.setattr(
        shop.uploader._concurrency, "finished", lambda size, _: counted.append(size)
    )
    monkeypatch.setattr(upload_thread.UploadQueue, "at_work", property(lambda _: 64))
    for rate, size in ((400_000, 100_000), (None, 100_001)):
        limited.limit(rate)
        shop.drop(f"f{size}", b"x" * size)
        shop.uploader.start()
        shop.uploader.step()
        deadline = time.monotonic() + 10
        while shop.uploader.busy and time.monotonic() < deadline:
            time.sleep(0.01)
        shop.uploader.stop(0.0)
        shop.uploader._stop.clear()
    assert counted == [100_001]
