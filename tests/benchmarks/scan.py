"""How long a scan takes, cold and with nothing changed, and how much memory, beside `find`.

    python tests/benchmarks/scan.py [FILES ...]      (default: 50000 200000)

Each number is run in a process of its own: files of one byte, 100 a directory. The slope between
the first and the last number says what a million takes.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from syncd.state.planner import Policy
from syncd.state.store import Store
from syncd.watch.folder import WatchFolder
from syncd.watch.watched import Watched

IN_DIRECTORY = 100
MILLION = 1_000_000


def make(root: Path, files: int) -> None:
    for number in range(files):
        directory = root / f"{number // IN_DIRECTORY // 100}" / f"{number // IN_DIRECTORY}"
        if number % IN_DIRECTORY == 0:
            directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / str(number), os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(descriptor, b"x")
        os.close(descriptor)


def timed(act) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(files: int, directory: Path) -> None:
    """Print seconds of `find`, of the first scan and of the next, and megabytes at most."""
    root = directory / "files"
    root.mkdir()
    subprocess.run([sys.executable, __file__, "--make", str(files), str(root)], check=True)
    find = timed(lambda: subprocess.run(["find", root, "-printf", ""], check=True))
    store = Store(directory / "state")
    store.open(time.time())
    try:
        watched = Watched(
            store=store,
            folder=WatchFolder("f", os.fsencode(root)),
            policies={"f": Policy()},
            wake=lambda: None,
            clock=lambda: time.time() + 60,
            monotonic=time.monotonic,
            stopped=lambda: False,
        )
        cold = timed(watched.scan)
        before = time.process_time()
        warm = timed(watched.scan)
        print(files, find, cold, warm, time.process_time() - before, memory_mb())
    finally:
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=int, default=[50_000, 200_000])
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(Path(options.make[1]), int(options.make[0]))
        return
    if options.measure:
        directory = Path(tempfile.mkdtemp(prefix="syncd-scan-"))
        try:
            measure(options.measure, directory)
        finally:
            shutil.rmtree(directory)
        return
    print(f"{'files':>9} {'find':>8} {'cold':>8} {'warm':>8} {'its CPU':>8} {'memory':>8}")
    rows = []
    for files in options.files:
        words = [sys.executable, __file__, "--measure", str(files)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        rows.append([float(word) for word in done.stdout.split()])
        show(rows[-1])
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        part = (MILLION - last[0]) / (last[0] - first[0])
        show([MILLION, *(b + (b - a) * part for a, b in zip(first[1:], last[1:], strict=True))])
        print("the last line by the slope")


def show(row) -> None:
    files, *seconds, memory = row
    print(f"{files:>9.0f}", *(f"{value:>6.1f} s" for value in seconds), f"{memory:>5.0f} MB")


if __name__ == "__main__":
    main()
