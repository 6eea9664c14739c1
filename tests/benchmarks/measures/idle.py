"""A daemon at rest with very many watched files."""

import re
import subprocess
import time
from contextlib import contextmanager

from tests.benchmarks.measure import Figure, Sides, SkippedError, at_most, measure
from tests.benchmarks.ours import Syncd
from tests.benchmarks.peers import found
from tests.benchmarks.process import Standing, status_kb, until
from tests.benchmarks.service import serving
from tests.benchmarks.trees import make_synced, make_tree

#: Seconds after READY until the first scan and its echoes are over, at most.
QUIET_SECONDS = 300
TRACE_SECONDS = 10


@measure(
    "idle",
    "at rest, 100,000 files watched",
    Figure("CPU, % of a core", "cpu", None, at_most(0.1, 0.05)),
    Figure("resident MB", "memory", None, at_most(70, 50)),
    Figure("wake-ups a second", "wakeups", None, at_most(6, 2)),
    Figure("bytes written an hour", "written", None, at_most(0, 0)),
    Figure("calls on watched files an hour", "touched", None, at_most(0, 0)),
)
@contextmanager
def idle(bench):
    root = make_tree(bench.place / "tree", bench.size(5000, 100_000, 100_000))
    calm, seconds = bench.size((0, 15), (150, 60), (600, 240))
    made = set()
    with serving(bench.place) as service:

        def rest(tree):
            syncd = Syncd(tree, bench.place, root, service, settle_seconds=5)
            if tree not in made:
                make_synced(syncd)
                made.add(tree)
            with syncd.daemon() as process:
                wait_for_quiet(process.pid)
                # Roots are checked less and less often until a daemon is truly at rest.
                time.sleep(calm)
                before = Standing.of(process.pid)
                time.sleep(seconds)
                after = Standing.of(process.pid)
                return {
                    "cpu": 100 * (after.cpu - before.cpu) / (after.at - before.at),
                    "memory": status_kb(process.pid, "VmRSS") / 1024,
                    "wakeups": (after.wakeups - before.wakeups) / (after.at - before.at),
                    "written": 3600 * (after.written - before.written) / (after.at - before.at),
                    "touched": 3600 * touched(process.pid, root, bench.place) / TRACE_SECONDS,
                }

        yield Sides(rest)


def wait_for_quiet(pid):
    """Wait until the first scan is through: three seconds with hardly any CPU."""

    def is_quiet():
        before = Standing.of(pid).cpu
        time.sleep(3)
        return Standing.of(pid).cpu - before < 0.1

    until(is_quiet, QUIET_SECONDS, "the daemon comes to rest")


def touched(pid, root, place):
    """Return how many calls name what is watched, within a few seconds."""
    if not found("strace"):
        raise SkippedError("strace is missing")
    path = place / "trace"
    command = ["strace", "-f", "-y", "-e", "trace=%file,%desc", "-o", path, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        time.sleep(TRACE_SECONDS)
        tracer.terminate()
    return len(re.findall(re.escape(str(root)), path.read_text(errors="replace")))
