"""How long starting takes: the daemon that knows very many files, and the commands."""

import subprocess
import time
from contextlib import contextmanager

from tests.benchmarks.measure import Figure, Sides, at_most, measure
from tests.benchmarks.ours import Syncd
from tests.benchmarks.service import serving
from tests.benchmarks.trees import make_synced, make_tree


@measure(
    "start",
    "start with 200,000 known files",
    Figure("seconds to READY", "ready", None, at_most(3, 1)),
)
@contextmanager
def start(bench):
    root = make_tree(bench.place / "tree", bench.size(5000, 200_000, 200_000))
    made = set()
    with serving(bench.place) as service:

        def ready(tree):
            syncd = Syncd(tree, bench.place, root, service, settle_seconds=5)
            if tree not in made:
                make_synced(syncd)
                made.add(tree)
            began = time.perf_counter()
            with syncd.daemon():
                return {"ready": time.perf_counter() - began}

        yield Sides(ready)


@measure(
    "commands",
    "what the commands take",
    Figure("ms of `once` on nothing", "once", None, at_most(300, 200)),
    Figure("ms of `status`", "status", None, at_most(250, 150)),
    Figure("CPU ms of `status --alive`", "alive", None, at_most(50, 35)),
    Figure("ms of a bare interpreter", "bare"),
)
@contextmanager
def commands(bench):
    (bench.place / "empty").mkdir()
    with serving(bench.place) as service:

        def each(tree):
            syncd = Syncd(tree, bench.place, bench.place / "empty", service)
            syncd.run("once")  # makes the state
            once, status = syncd.run("once").wall, syncd.run("status", codes=(0, 1)).wall
            began = time.perf_counter()
            subprocess.run([*syncd.words()[:1], "-c", ""], check=True)
            bare = time.perf_counter() - began
            with syncd.daemon():
                alive = syncd.run("status", "--alive").cpu
            figures = {"once": once, "status": status, "alive": alive, "bare": bare}
            return {name: 1000 * seconds for name, seconds in figures.items()}

        yield Sides(each)
