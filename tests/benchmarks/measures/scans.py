"""Reconciling a folder in which nothing changed, beside programs that do the same."""

from contextlib import contextmanager

from tests.benchmarks.measure import BrokenError, Figure, Sides, at_most, measure
from tests.benchmarks.ours import Syncd
from tests.benchmarks.peers import needed
from tests.benchmarks.process import run
from tests.benchmarks.service import serving
from tests.benchmarks.trees import make_tree

#: The facts that `find` prints of each file: it has to stat them, as syncd has.
TOLD = "%p %s %T@ %C@ %i\n"


def scanned(syncd, files):
    """Make one pass in which nothing is sent; return the usage, and the seconds of the scan."""
    usage = syncd.run("once")
    ((seconds, known),) = syncd.asks(
        "SELECT last_scan_seconds, (SELECT count(*) FROM files) FROM folders"
    )
    if known != files or syncd.service.objects():
        raise BrokenError(f"{known} of {files} files known, {len(syncd.service.objects())} sent")
    return {"whole": usage.wall, "scan": seconds, "peak": usage.peak_mb, "cpu": usage.cpu}


def local(place, *words):
    """Return a run of another program."""

    def other():
        needed(words[0])
        return {"whole": (usage := run(words, cwd=place)).wall, "scan": usage.wall}

    return other


def skipping(tree, bench, root, service):
    """Return a syncd that sends nothing of what is there at its first scan."""
    return Syncd(tree, bench.place, root, service, existing="skip")


@measure(
    "reconcile",
    "a pass over 200,000 files, nothing changed",
    Figure("seconds of the scan", "scan", "find -printf", at_most(1.6, 1.3)),
    Figure("seconds of the scan", "scan", "rsync -a", at_most(0.9, 0.7)),
    Figure("seconds of the scan", "scan", "rclone copy", at_most(0.6, 0.45)),
    Figure("seconds of the whole `once`", "whole", "rsync -a"),
    Figure("peak MB of the first scan", "first", None, at_most(100, 80)),
)
@contextmanager
def reconcile(bench):
    files = bench.size(5000, 200_000, 200_000)
    root, copy = make_tree(bench.place / "tree", files), bench.place / "copy"
    run(["cp", "-a", root, copy], cwd=bench.place)
    first = {}
    with serving(bench.place) as service:

        def warm(tree):
            syncd = skipping(tree, bench, root, service)
            if tree not in first:
                first[tree] = scanned(syncd.anew(), files)["peak"]
            return scanned(syncd, files) | {"first": first[tree]}

        rclone = ("rclone", "copy", root, copy, "--config", "/dev/null")
        yield Sides(
            warm,
            {
                "find -printf": local(bench.place, "find", root, "-type", "f", "-printf", TOLD),
                "rsync -a": local(bench.place, "rsync", "-a", f"{root}/", copy),
                "rclone copy": local(bench.place, *rclone),
            },
        )


@measure(
    "million",
    "a million files (with --full)",
    Figure("seconds of the first scan", "cold", None, at_most(60, 40)),
    Figure("seconds of the next", "scan", None, at_most(12, 6)),
    Figure("peak MB", "peak", None, at_most(150, 100)),
)
@contextmanager
def million(bench):
    files = bench.only_full(1_000_000, "a million files take minutes: with --full")
    root = make_tree(bench.place / "tree", files)
    with serving(bench.place) as service:

        def passes(tree):
            syncd = skipping(tree, bench, root, service)
            cold, warm = scanned(syncd.anew(), files), scanned(syncd, files)
            return warm | {"cold": cold["scan"], "peak": max(cold["peak"], warm["peak"])}

        yield Sides(passes)
