"""The cost of a commit, and that none is weaker than `synchronous=FULL`."""

import ast
import re
from contextlib import contextmanager

from tests.benchmarks.files import Files
from tests.benchmarks.measure import BrokenError, Figure, Sides, SkippedError, at_least, measure
from tests.benchmarks.ours import Syncd
from tests.benchmarks.peers import needed
from tests.benchmarks.service import serving

FILES = 300
_CALL = re.compile(r'^\d+ +(?:<\.\.\. )?(\w+)\((\d+)<([^>]*)>(?:, "((?:[^"\\]|\\.)*)"\S*, (\d+))?')


def read_trace(text):
    """Return how many commits a trace shows, and how many of them were synced before the next.

    Each frame of SQLite's log begins with 24 bytes; in the last frame of a commit, the second
    four of them are not zero.
    """
    commits = synced = 0
    is_open = False
    for line in text.splitlines():
        match = _CALL.match(line)
        if match is None or not match[3].endswith("-wal"):
            continue
        if match[1] in ("fdatasync", "fsync"):
            synced += is_open
            is_open = False
        elif match[5] == "24" and any(ast.literal_eval(f'b"{match[4]}"')[4:8]):
            commits += 1
            is_open = True
    return commits, synced


def traced(syncd):
    """Return how many commits a pass makes, and how many it syncs; raise where a sync lacks."""
    strace = needed("strace")
    path = syncd.place / "trace"
    calls = "trace=pwrite64,fdatasync,fsync"
    syncd.anew().run("once", under=(strace, "-f", "-y", "-s", "8", "-e", calls, "-o", path))
    commits, synced = read_trace(path.read_text())
    if not commits:
        raise SkippedError("the trace shows no commit")
    if synced < commits:
        raise BrokenError(f"{commits - synced} of {commits} commits are not synced: not FULL")
    return {"commits": commits, "synced": synced / commits, "syncs/1000": 1000 * synced / FILES}


@measure(
    "commits",
    "each commit is synced before the next (synchronous=FULL)",
    Figure("commits synced, of all", "synced", None, at_least(1, 1)),
    Figure("syncs per 1,000 files", "syncs/1000"),
)
@contextmanager
def commits(bench):
    files = Files(bench.place, FILES, 512)
    with serving(bench.place) as service:
        yield Sides(lambda tree: traced(Syncd(tree, bench.place, files.folder, service)))


@measure(
    "slow-sync",
    "50 ms a sync, as on an SD card: small files",
    Figure("files/s", "files/s", None, at_least(150, 400)),
)
@contextmanager
def slow_sync(bench):
    files = Files(bench.place, bench.size(200, 2000, 2000), 4096)
    with serving(bench.place) as service:

        def once(tree):
            delay = "inject=fdatasync,fsync:delay_enter=50000"
            under = (needed("strace"), "-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", delay)
            under += ("-o", "/dev/null", "--seccomp-bpf")
            syncd = Syncd(tree, bench.place, files.folder, service, upload__method="direct").anew()
            usage = syncd.run("once", under=under)
            syncd.audit(files.digests)
            return files.figures(usage)

        def check(tree):
            syncd = Syncd(tree, bench.place, files.folder, service, upload__method="direct")
            syncd.anew().survives_a_kill(files.digests)

        yield Sides(once, check=check)
