"""How long a scan takes, cold and with nothing changed, and how much memory, beside `find`.

    python tests/benchmarks/scan.py [FILES ...] [--against TREE]      (default: 50000 200000)

Each number is run in a process of its own: files of one byte, 100 a directory. Cold: nothing is
known; warm: the median of five scans with nothing changed, each beside a `find` that stats every
file. TREE is another checkout of syncd. The slope says what a million takes.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ledger import installed, make_files, watched

from syncd.state.database.store import Store

MILLION = 1_000_000
ROUNDS = 5


def timed(act):
    began = time.monotonic()
    act()
    return time.monotonic() - began


def find(root):
    """Return the seconds in which `find` stats each file."""
    command = ["find", str(root), "-printf", "%s %T@ %i\n"]
    return timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))


def measure(root, state):
    """Print seconds of the first scan, of `find` and of the next scans, their CPU, and the peak."""
    store = Store(state)
    store.open(time.time())
    try:
        folder = watched(store, "f", root)
        cold = timed(folder.scan)
        rounds = []
        for _ in range(ROUNDS):
            beside, before = find(root), time.process_time()
            warm = timed(folder.scan)
            rounds.append((beside, warm, warm / beside, time.process_time() - before))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(cold, *map(statistics.median, zip(*rounds, strict=True)), peak)
    finally:
        store.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=int, default=[50_000, 200_000])
    parser.add_argument("--against", help="another checkout of syncd")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*map(Path, options.measure))
        return
    trees = {"new": None} | ({"old": options.against} if options.against else {})
    print(
        f"{'files':>9} {'':<4} {'cold':>8} {'find':>8} {'warm':>8} {'ratio':>6} {'CPU':>8}   peak"
    )
    rows = {}
    with tempfile.TemporaryDirectory(prefix="syncd-scan-") as scratch:
        place = Path(scratch)
        for files in options.files:
            root = place / str(files)
            make_files(root, files)
            for tree, path in trees.items():
                words = [__file__, "--measure", str(root), str(place / f"{files}-{tree}")]
                env = installed(place / tree, path)
                out = subprocess.run(
                    [sys.executable, *words], env=env, capture_output=True, text=True, check=True
                ).stdout
                rows.setdefault(tree, []).append([files, *map(float, out.split())])
                show(tree, rows[tree][-1])
    for tree, (first, *_, last) in rows.items() if len(options.files) > 1 else ():
        part = (MILLION - last[0]) / (last[0] - first[0])
        show(tree, [b + (b - a) * part for a, b in zip(first, last, strict=True)])
    if len(options.files) > 1:
        print("the last line of each by the slope")


def show(tree, row):
    files, cold, beside, warm, ratio, cpu, peak = row
    print(
        f"{files:>9.0f} {tree:<4} {cold:>6.1f} s {beside:>6.2f} s {warm:>6.2f} s {ratio:>6.2f} "
        f"{cpu:>6.2f} s {peak:>4.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
