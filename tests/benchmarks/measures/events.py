"""A running daemon: bursts, lost events, and how soon a file is live."""

import os
import random
import signal
import time
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.files import Files, write
from tests.benchmarks.measure import Figure, Sides, at_most, measure
from tests.benchmarks.ours import Syncd
from tests.benchmarks.process import until
from tests.benchmarks.service import serving

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
LONG_SECONDS = 600
SETTLE_SECONDS = 0.2
#: The longest pause between two files: who saves one does not know when the last one went live.
PAUSE_SECONDS = 1.0


@measure(
    "burst",
    "20,000 files at full rate, then more events than the kernel keeps",
    Figure("seconds from the last event lost until all are known", "gap", None, at_most(5, 1)),
    Figure("seconds until all of the burst are live", "live"),
)
@contextmanager
def burst(bench):
    number, lost = bench.size((1000, 200), (20_000, 2000), (20_000, 20_000))
    with serving(bench.place) as service:

        def both(tree):
            place = bench.fresh()
            (place / "files").mkdir()
            syncd = Syncd(tree, place, place / "files", service, settle_seconds=SETTLE_SECONDS)
            syncd.anew()
            with syncd.daemon() as process:
                time.sleep(2)
                began = time.monotonic()
                files = Files(place, number, 64)
                until(lambda: syncd.count() == number, LONG_SECONDS, "the burst is live")
                live = time.monotonic() - began
                process.send_signal(signal.SIGSTOP)
                overflow(files.folder)
                more = Files(place, lost, 16, prefix="lost-")
                process.send_signal(signal.SIGCONT)
                began = time.monotonic()
                all_of_them = number + lost
                until(lambda: known(syncd) == all_of_them, LONG_SECONDS, "the gap is closed")
                gap = time.monotonic() - began
                until(lambda: syncd.count() == all_of_them, LONG_SECONDS, "all are live")
                syncd.audit(files.digests | more.digests)
            return {"gap": gap, "live": live}

        yield Sides(both)


def overflow(folder):
    """Make more events than the kernel keeps, by files that are left out by their names."""
    for number in range(int(QUEUE.read_text()) + 1):
        os.close(os.open(folder / f"{number % 100}.tmp", os.O_WRONLY | os.O_CREAT))


def known(syncd):
    query = "SELECT count(*) FROM files WHERE CAST(path AS TEXT) NOT LIKE '%.tmp'"
    return syncd.asks(query)[0][0]


@measure(
    "live",
    "from the close of a small file until it is live",
    Figure("ms over settle_seconds, p95", "p95", None, at_most(50, 20)),
    Figure("ms over settle_seconds, median", "p50"),
    Figure("ms over settle_seconds, p95, each written when the last is live", "back to back"),
)
@contextmanager
def live(bench):
    number = bench.size(20, 60, 200)
    with serving(bench.place) as service:

        def each(tree):
            place, digests = bench.fresh(), {}
            (place / "files").mkdir()
            syncd = Syncd(tree, place, place / "files", service, settle_seconds=SETTLE_SECONDS)
            with syncd.anew().daemon():
                time.sleep(2)
                apart = sorted(delays(syncd, digests, number, PAUSE_SECONDS))
                together = sorted(delays(syncd, digests, number, 0))
                syncd.audit(digests)
            p95 = int(0.95 * (number - 1))
            return {"p95": apart[p95], "p50": apart[number // 2], "back to back": together[p95]}

        yield Sides(each)


def delays(syncd, digests, number, pause):
    """Write so many files, and yield the ms after settle_seconds until each is live."""
    pauses = random.Random(number)
    for _ in range(number):
        name = f"{len(digests):04}.bin"
        digests[name] = write(syncd.folder / name, 2048)
        closed = time.monotonic()
        until_live(syncd, len(digests))
        yield 1000 * (time.monotonic() - closed - SETTLE_SECONDS)
        time.sleep(pauses.uniform(0, pause))


def until_live(syncd, number):
    """Wait until so many copies are live, and look often."""
    with syncd.reads() as db:
        over = time.monotonic() + 30
        while (
            db.execute("SELECT count(*) FROM copies WHERE status = 'live'").fetchone()[0] < number
        ):
            if time.monotonic() > over:
                raise TimeoutError(f"{number} files are not live")
            time.sleep(0.002)
