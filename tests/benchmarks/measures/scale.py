"""What grows with the number of files, pending videos and daemons: the figures of OPERATIONS.md."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from tests.benchmarks.files import Files
from tests.benchmarks.measure import Figure, Sides, measure
from tests.benchmarks.measures.large import MP4
from tests.benchmarks.ours import Syncd
from tests.benchmarks.process import status_kb, until
from tests.benchmarks.service import serving
from tests.benchmarks.trees import make_synced, make_tree

#: Seconds over which requests are counted.
MINUTE = 60


@measure(
    "ledger",
    "the state of files that were sent",
    Figure("bytes a file", "bytes"),
)
@contextmanager
def ledger(bench):
    number = bench.size(1000, 20_000, 200_000)
    root = make_tree(bench.place / "tree", number)
    with serving(bench.place) as service:

        def sent(tree):
            syncd = Syncd(tree, bench.place, root, service).anew()
            syncd.run("once")
            return {"bytes": (syncd.state / "state.db").stat().st_size / number}

        yield Sides(sent)


@measure(
    "known",
    "a daemon that knows very many files",
    Figure("seconds to READY", "ready"),
    Figure("resident MB a minute later", "memory"),
)
@contextmanager
def known(bench):
    root = make_tree(bench.place / "tree", bench.size(5000, 200_000, 1_000_000))
    with serving(bench.place) as service:

        def rest(tree):
            syncd = Syncd(tree, bench.place, root, service, settle_seconds=5)
            if not syncd.state.exists():
                make_synced(syncd)
            began = time.perf_counter()
            with syncd.daemon() as process:
                ready = time.perf_counter() - began
                time.sleep(MINUTE)
                memory = status_kb(process.pid, "VmRSS") / 1024
            return {"ready": ready, "memory": memory}

        yield Sides(rest)


@measure(
    "pending",
    "10,000 videos that are not processed yet",
    Figure("requests a minute", "requests"),
)
@contextmanager
def pending(bench):
    number = bench.size(200, 10_000, 10_000)
    files = Files(bench.place, number, len(MP4) + 16, extension="mp4", head=MP4)
    with serving(bench.place) as service:
        service.behave(holds_videos=True)

        def polled(tree):
            settings = {"upload__method": "direct", "upload__workers": 16}
            syncd = Syncd(tree, bench.place, files.folder, service, **settings).anew()
            with syncd.daemon():
                until(lambda: syncd.count("processing") == number, 900, "all are sent")
                time.sleep(5)
                before = service.counts()["calls"]
                time.sleep(MINUTE)
                return {"requests": service.counts()["calls"] - before}

        yield Sides(polled)


@measure(
    "crowd",
    "daemons that start at once, each with 100 files that are synced",
    Figure("requests of each in its first minute", "first"),
    Figure("requests of each in its second minute", "second"),
)
@contextmanager
def crowd(bench):
    number = bench.size(2, 20, 100)
    with serving(bench.place) as service:

        def started(tree):
            crowd = []
            for at in range(number):
                place = bench.place / str(at)
                place.mkdir()
                files = Files(place, 100, 100, prefix=f"{at}-")
                crowd.append(Syncd(tree, place, files.folder, service, settle_seconds=5))
                crowd[-1].run("once")
            before = service.counts()["calls"]
            with ExitStack() as stack, ThreadPoolExecutor(number) as pool:
                list(pool.map(stack.enter_context, [each.daemon() for each in crowd]))
                time.sleep(MINUTE)
                first = service.counts()["calls"]
                time.sleep(MINUTE)
                second = service.counts()["calls"]
            for each in crowd:
                shutil.rmtree(each.place)
            return {"first": (first - before) / number, "second": (second - first) / number}

        yield Sides(started)
