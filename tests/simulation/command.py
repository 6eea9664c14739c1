"""Run many schedules on every core, then show that each planted bug is caught.

    python -m tests.simulation --runs 100000
    python -m tests.simulation --first 100000 --runs 100000 --processes 1
    python -m tests.simulation --seed 42        what happened in one schedule
    python -m tests.simulation --soak 30        a file a second for 30 days
    python -m tests.simulation --soak 30 --round 10    the same with a round every ten seconds
    python -m tests.simulation --personality no-sizes    on such a service, without planted bugs

Exit code 1 where an invariant was broken or a planted bug went unnoticed.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from . import soak
from .history import run
from .objects import Violation
from .plan import Plan, plan_on
from .planted import BUGS, caught

#: Schedules that a process runs between two words of progress.
PART = 50


@contextmanager
def place():
    """Yield a directory of this process's own, in memory where there is some."""
    shared = Path("/dev/shm")
    home = shared if shared.is_dir() and os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="syncd-simulation-", dir=home) as directory:
        yield Path(directory)


def _part(first: int, names: Sequence[str]) -> list[tuple[int, str]]:
    broken = []
    with place() as base:
        for seed in range(first, first + PART):
            try:
                run(plan_on(seed, *names), base)
            except Violation as violation:
                broken.append((seed, str(violation)))
    return broken


def _bug(name: str) -> tuple[str, int | None, str]:
    with place() as base:
        try:
            found = caught(BUGS[name], base)
        except Violation as violation:
            return name, None, f"noticed only as: {violation}"
    return (name, None, "not noticed") if found is None else (name, found[0], str(found[1]))


def told(plan: Plan) -> int:
    """Run one schedule and print its history; return the exit code."""
    with place() as base:
        try:
            schedule, said = run(plan, base), "every invariant holds"
        except Violation as violation:
            schedule, said = violation.schedule, f"violation: {violation}"
    print(*schedule.trace, plan, said, sep="\n")
    return said.startswith("violation")


def soaked(days: float, round_seconds: int) -> int:
    """Put a file a second there for so many days, and see that none costs more than the first."""
    samples = []
    # On a disk: the state of a month is too large for the memory.
    with tempfile.TemporaryDirectory(prefix="syncd-soak-") as base:
        for sample in soak.Soak(Path(base)).run(days, samples=20, round_seconds=round_seconds):
            samples.append(sample)
            print(sample, flush=True)
    left, growth = soak.slopes(samples)
    print(f"a file leaves {left:.0f} bytes of memory, and costs {growth:.2f} times what it did")
    return bool(soak.verdict(samples))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first schedule")
    parser.add_argument("--processes", type=int, help="how many at once (default: one a core)")
    parser.add_argument("--seed", type=int, help="run one schedule and tell what happened")
    parser.add_argument("--soak", type=float, metavar="DAYS", help="a file a second for so long")
    parser.add_argument(
        "--round", type=int, default=1, metavar="SECONDS", help="from round to round of the soak"
    )
    parser.add_argument("--personality", metavar="NAME", help="how the service differs")
    arguments = parser.parse_args()
    names = [arguments.personality] if arguments.personality else []
    if arguments.soak is not None:
        return soaked(arguments.soak, arguments.round)
    if arguments.seed is not None:
        return told(plan_on(arguments.seed, *names))
    broken: list[tuple[int, str]] = []
    failed = False
    with ProcessPoolExecutor(arguments.processes) as pool:
        first = arguments.first
        starts = range(first, first + arguments.runs, PART)
        for number, part in enumerate(pool.map(partial(_part, names=names), starts), 1):
            broken += part
            if sys.stderr.isatty():
                print(f"\r{number * PART} schedules", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        for seed, what in sorted(broken):
            print(f"schedule {seed}: {what}; repeat it with --seed {seed}")
        kinds = {"foreign": 0, "lost": 0, "duplicate": 0, "orphan": 0, "other": 0}
        for _, what in broken:
            kinds[_kind(what)] += 1
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"{len(starts) * PART} schedules, {counts}")
        for name, count, what in pool.map(_bug, () if names else BUGS):
            failed |= count is None
            took = "NOT CAUGHT" if count is None else f"caught after {count} schedules"
            print(f"planted: {name}: {took} ({what})")
    return int(failed or bool(broken))


def _kind(what: str) -> str:
    """Return what a violation is: the first of these whose words it has."""
    words = {
        "foreign": ("not ours", "somebody else"),
        "duplicate": ("twice", "two "),
        "orphan": ("orphan",),
        "lost": ("lost", "no live copy", "I5", "I6", "I7", "liveness"),
    }
    return next((kind for kind, said in words.items() if any(w in what for w in said)), "other")
