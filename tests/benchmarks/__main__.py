"""Measures syncd beside its peers, as whole processes and as it is shipped, against the targets.

    python -m tests.benchmarks [NAME...] [--rounds N] [--quick | --full] [--list]

Each round runs every side in turn, so that ratios are of one time. A lost, changed or doubled file
fails its measure. Peers that are missing are installed by the package manager where root runs this.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.benchmarks import measures, table
from tests.benchmarks.measure import BEFORE, MEASURES, OURS, SkippedError, run
from tests.benchmarks.process import Machine

ROOT = Path(__file__).parent.parent.parent
#: Cores in use by others from which on the machine counts as busy.
BUSY_CORES = 0.2
SIZES = ("quick", "normal", "full")


class Bench:
    """The surroundings of a measure: trees of syncd, a place of its own, and the scale."""

    def __init__(self, place, trees, *, rounds, size):
        self.place, self.trees, self.rounds = place, trees, rounds
        self._size = SIZES.index(size)
        self._places = 0

    @property
    def tree(self):
        """The tree that is measured."""
        return self.trees[OURS]

    def size(self, *sizes):
        """Return which of three sizes is meant."""
        return sizes[self._size]

    def only_full(self, size, why):
        """Return the size; raise SkippedError unless everything is asked for."""
        if self._size != SIZES.index("full"):
            raise SkippedError(why)
        return size

    def fresh(self):
        """Return a new directory; the one before it is gone."""
        shutil.rmtree(self.place / str(self._places), ignore_errors=True)
        self._places += 1
        place = self.place / str(self._places)
        place.mkdir()
        return place

    def says(self, text):
        """Tell a terminal how far it is."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()


def options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="measures; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", dest="size", action="store_const", const="quick", default="normal"
    )
    parser.add_argument("--full", dest="size", action="store_const", const="full")
    parser.add_argument(
        "--against", type=Path, metavar="DIR", help="another tree of syncd, run too"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--list", action="store_true", help="show the measures and their targets")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in MEASURES]:
        parser.error(f"no measure {unknown[0]!r}; there are {', '.join(MEASURES)}")
    return chosen


def listed():
    """Yield a line for each measure and each of its targets."""
    for measure in MEASURES.values():
        yield f"{measure.name:14} {measure.title}"
        for figure in measure.figures:
            if target := figure.target:
                bound = target.shown(target.bound) or "side figure"
                peer = f" (peer: {figure.peer})" if figure.peer else ""
                yield f"{'':16} {figure.what}{peer}: {bound}, stretch {target.stretch:g}"


def main(arguments=None):
    chosen = options(arguments)
    if chosen.list:
        print("\n".join(listed()))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    trees = {OURS: ROOT} | ({BEFORE: chosen.against.resolve()} if chosen.against else {})
    rows, machine = [], Machine()
    # The measured part is shown, even if the rest is not waited for.
    with suppress(KeyboardInterrupt):
        for name in chosen.names or MEASURES:
            with tempfile.TemporaryDirectory(prefix="syncd-benchmark-") as place:
                bench = Bench(Path(place), trees, rounds=chosen.rounds, size=chosen.size)
                rows += run(MEASURES[name], bench)
                bench.says("")
    if chosen.json:
        print(table.as_json(rows))
    else:
        table.show(rows, sys.stdout, before=BEFORE in trees)
        if (others := machine.others()) > BUSY_CORES:
            print(f"others used {others:.1f} cores meanwhile: of these figures only ratios count")
    return int(any(row.met in ("no", "BROKEN") for row in rows))


if __name__ == "__main__":
    assert measures
    sys.exit(main())
