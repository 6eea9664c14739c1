"""Measures: their shape, their rounds side by side, and how their figures are judged."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

#: The sides that run syncd: the tree this package is in, and another one to compare with.
OURS, BEFORE = "syncd", "before"


class SkippedError(Exception):
    """A side, or a whole measure, cannot run here; says why."""


class BrokenError(Exception):
    """A promise was broken while it was measured: a file is lost, changed or doubled."""


class Target(NamedTuple):
    """A bound and its stretch; a figure that is shown beside the targets has no bound."""

    bound: float | None
    stretch: float
    at_least: bool = False

    def met(self, value):
        """Return which of the two `value` meets."""
        for name, bound in (("stretch", self.stretch), ("yes", self.bound)):
            if bound is not None and (value >= bound if self.at_least else value <= bound):
                return name
        return "" if self.bound is None else "no"

    def shown(self, bound):
        return "" if bound is None else f"{'>=' if self.at_least else '<='} {bound:g}"


def at_least(bound, stretch):
    return Target(bound, stretch, at_least=True)


def at_most(bound, stretch):
    return Target(bound, stretch)


@dataclass(frozen=True)
class Figure:
    """One line of the table: a number that each run of a side returns by its `key`.

    With a `peer`, the ratio to the peer's number of the same round is judged, else the number.
    """

    what: str
    key: str
    peer: str | None = None
    target: Target | None = None
    peer_key: str = ""


Run = Callable[[], Mapping[str, float]]


@dataclass
class Sides:
    """A prepared measure: `ours` runs a tree of syncd, `peers` the others."""

    ours: Callable[..., Mapping[str, float]]
    peers: Mapping[str, Run] = field(default_factory=dict)
    #: is called with the tree once the rounds are over; raises BrokenError
    check: Callable[..., object] = lambda _tree: None


@dataclass(frozen=True)
class Measure:
    """A scenario with its figures; `prepare` yields the sides that are run in each round."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    prepare: Callable[..., AbstractContextManager[Sides]]


MEASURES: dict[str, Measure] = {}


def measure(name, title, *figures):
    """Register a context manager that takes a bench and yields Sides."""

    def register(prepare):
        MEASURES[name] = Measure(name, title, figures, prepare)
        return prepare

    return register


@dataclass(frozen=True)
class Row:
    """A figure as it was measured: medians, and the median of the ratios of the rounds."""

    measure: str
    what: str
    ours: float | None
    before: float | None
    peer_name: str
    peer: float | None
    ratio: float | None
    ratio_before: float | None
    target: str
    stretch: str
    met: str
    note: str = ""


def run(chosen, bench) -> Iterator[Row]:
    """Run a measure's sides in turn, round by round; yield its rows."""
    rounds: dict[str, list[Mapping[str, float]]] = defaultdict(list)
    notes: dict[str, str] = {}
    broken = ""
    try:
        with chosen.prepare(bench) as sides:
            runs = {name: lambda tree=tree: sides.ours(tree) for name, tree in bench.trees.items()}
            runs |= sides.peers
            for figure in chosen.figures:
                assert figure.peer is None or figure.peer in runs, figure
            for number in range(bench.rounds):
                for name in [name for name in runs if name not in notes]:
                    bench.says(f"{chosen.name}: round {number + 1} of {bench.rounds}: {name}")
                    try:
                        rounds[name].append(runs[name]())
                    except SkippedError as error:
                        notes[name] = f"{name}: {error}"
                    except BrokenError as error:
                        if name == OURS:
                            raise
                        notes[name] = f"{name}: {error}"
            bench.says(f"{chosen.name}: audit")
            if OURS not in notes:
                sides.check(bench.trees[OURS])
    except SkippedError as error:
        notes[OURS] = str(error)
    except BrokenError as error:
        broken = str(error)
    except Exception as error:
        # The other measures are still made.
        broken = repr(error)
    for figure in chosen.figures:
        yield row(chosen, figure, rounds, notes, broken)


def row(chosen, figure, rounds, notes, broken="") -> Row:
    """Judge one figure by what the rounds returned."""
    ours, before = (values(rounds[side], figure.key) for side in (OURS, BEFORE))
    peer = values(rounds[figure.peer], figure.peer_key or figure.key) if figure.peer else []
    ratio, ratio_before = ratio_of(ours, peer), ratio_of(before, peer)
    value = ratio if figure.peer else median(ours)
    judged = "" if figure.target is None else "not measured"
    if figure.target and value is not None:
        judged = figure.target.met(value)
    said = [found["said"] for found in rounds[figure.peer or OURS] if "said" in found]
    sides = (OURS, BEFORE, figure.peer or "")
    note = "; ".join([notes[side] for side in sides if side in notes] or said[-1:])
    return Row(
        measure=chosen.name,
        what=figure.what,
        ours=median(ours),
        before=median(before),
        peer_name=figure.peer or "",
        peer=median(peer),
        ratio=ratio,
        ratio_before=ratio_before,
        target=figure.target.shown(figure.target.bound) if figure.target else "",
        stretch=figure.target.shown(figure.target.stretch) if figure.target else "",
        met="BROKEN" if broken else judged,
        note=broken or note,
    )


def values(rounds, key):
    return [found[key] for found in rounds if found.get(key) is not None]


def median(numbers):
    return statistics.median(numbers) if numbers else None


def ratio_of(ours, peer):
    """Return the median of the rounds' ratios: what slows the machine slows both of a round."""
    pairs = zip(ours, peer, strict=False)
    return median([mine / theirs for mine, theirs in pairs if theirs])
