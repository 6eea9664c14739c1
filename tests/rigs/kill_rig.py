#!/usr/bin/env python3
"""Kills syncd at every send, receive, write, sync and rename of what it does, and audits the rest.

Real processes: `syncd once` on a folder, `syncd emulator` as the service. Each crash point is one
system call of one scenario; SIGKILL comes before it is done. Then syncd runs again, and disk,
ledger and service are compared path by path. At last bugs are planted, and must be caught.

    python tests/rigs/kill_rig.py                       300 crash points, spread over all
    python tests/rigs/kill_rig.py --long                every crash point
    python tests/rigs/kill_rig.py --long --resume FILE  goes on where FILE says it was ended
    python tests/rigs/kill_rig.py --personality NAME    a few, on such a service; no planted bugs
"""

# row: 24, 33, 47

import argparse
import json
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import plants
from world import (
    CALLS,
    KINDS,
    LATE,
    Launcher,
    Problem,
    Progress,
    Promised,
    Report,
    Service,
    World,
    audit,
    gaps,
    scratch,
)

from syncd.emulator import personality

SHORT_POINTS, PERSONALITY_POINTS = 320, 60
#: Lanes side by side: much of a point is waiting.
LANES = 4
#: Crash points of one world: after them it is made anew, so that none grows without bound, and no
#: more files are deleted in it than a folder may lose without a hold.
OF_ONE_WORLD = 18


class Scenario:
    """Something that happens to a folder. `n` tells its repetitions in one world apart."""

    name = ""
    #: files that are there all the time
    steady: Sequence[str] = ("kept.txt",)
    #: whether it is to need no request at all
    quiet = False
    #: whether each crash point gets a world of its own
    fresh = False
    methods: Sequence[str] = ("direct", "presigned")

    def begin(self, world: World) -> None:
        """Make what is there before."""
        world.write("kept.txt", b"kept")

    def change(self, world: World, n: int) -> Promised:
        """Let it happen; return which files must have a live copy at every moment from now on."""
        raise NotImplementedError


class First(Scenario):
    name = "first start"
    steady = ()
    fresh = True
    # Before the echo is proven, a direct upload in doubt is held, and "auto" sends the first small
    # file that way: that is another promise.
    methods = ("presigned",)

    def begin(self, world: World) -> None:
        pass

    def change(self, world: World, n: int) -> Promised:
        world.write("first.txt", b"first")
        return []


class New(Scenario):
    name = "new file"

    def change(self, world: World, n: int) -> Promised:
        # As long as an object of somebody else's.
        world.write(f"new-{n}.txt", b"%04d" % n)
        return [(["kept.txt"], [b"kept"])]


class Changed(Scenario):
    name = "changed file"
    steady = ("kept.txt", "a.txt")

    def begin(self, world: World) -> None:
        super().begin(world)
        world.write("a.txt", b"content 0")

    def change(self, world: World, n: int) -> Promised:
        world.write("a.txt", b"content %d" % n)
        return [(["a.txt"], [b"content %d" % (n - 1), b"content %d" % n])]


class Renamed(Scenario):
    name = "renamed file"
    quiet = True

    def begin(self, world: World) -> None:
        super().begin(world)
        world.write("moved-0/a.txt", b"it moves")

    def change(self, world: World, n: int) -> Promised:
        old, new = f"moved-{n - 1}/a.txt", f"moved-{n}/a.txt"
        (world.drop / new).parent.mkdir()
        (world.drop / old).rename(world.drop / new)
        return [([old, new], [b"it moves"])]


class Deleted(Scenario):
    name = "deleted file"

    def begin(self, world: World) -> None:
        super().begin(world)
        for n in range(OF_ONE_WORLD + 1):
            world.write(f"goes-{n}.txt", b"goes %d" % n)

    def change(self, world: World, n: int) -> Promised:
        (world.drop / f"goes-{n}.txt").unlink()
        return [(["kept.txt"], [b"kept"])]


class Video(Scenario):
    name = "video"

    def __init__(self, clip: bytes) -> None:
        self._clip = clip

    def change(self, world: World, n: int) -> Promised:
        # A box of its own at the end makes it another file.
        world.write(f"clip-{n}.mp4", self._clip + b"\0\0\0\x0cfree%04d" % n)
        return [(["kept.txt"], [b"kept"])]


class Swapped(Scenario):
    name = "content that moves on to a new file"
    steady = ("kept.txt", "a.txt")

    def begin(self, world: World) -> None:
        super().begin(world)
        world.write("a.txt", self._content(0))

    @staticmethod
    def _content(n: int) -> bytes:
        # In several chunks: there is time to be killed in.
        return b"content %d" % n * (1 << 17)

    def change(self, world: World, n: int) -> Promised:
        old, new = self._content(n - 1), self._content(n)
        world.write(f"b-{n}.txt", old)
        world.write("a.txt", new)
        return [(["a.txt"], [old, new])]


@dataclass(frozen=True)
class Point:
    """One crash point: the `at`-th call of a scenario that is sent by `method`."""

    scenario: Scenario
    method: str
    at: int
    calls: tuple[str, ...] = CALLS
    #: what the call fails with, instead of being the last; and whether all later ones do, too
    error: int | None = None
    every: bool = False

    @property
    def key(self) -> str:
        return f"{self.scenario.name}, {self.method}"

    @property
    def trap(self) -> dict[str, object]:
        return {"calls": self.calls, "at": self.at, "error": self.error, "every": self.every}


class Lane:
    """A service and a launcher, and one world after another."""

    def __init__(self, place: Path, stack: ExitStack, *options: str) -> None:
        self._place = place
        place.mkdir()
        self._service = stack.enter_context(Service(place / "service", *options))
        self._launcher = stack.enter_context(Launcher())
        self._worlds = 0
        self._world: World | None = None
        self._of: tuple[str, tuple[str, ...]] = ("", ())
        self._n = 0

    def begun(self, point: Point, planted: tuple[str, ...], resend: str = "0.6") -> World:
        """Return a world in which a point's scenario has begun."""
        of = (point.key, planted)
        fresh = self._world is None or of != self._of or self._n >= OF_ONE_WORLD
        if self._world is None or fresh or point.scenario.fresh:
            self._worlds += 1
            place = self._place / f"{self._worlds}"
            self._world = World(
                place,
                self._service,
                self._launcher,
                method=point.method,
                SYNCD_UPLOAD__RESEND_AFTER_SECONDS=resend,
            )
            self._of, self._n = of, 0
            point.scenario.begin(self._world)
            if not point.scenario.fresh and self._world.once().code != 0:
                raise RuntimeError(f"no beginning for {point.key}:\n{self._world.tell()}")
        return self._world

    def count(self, point: Point) -> int:
        """Return how many calls a scenario has that runs through."""
        world = self.begun(point, ())
        self._n += 1
        point.scenario.change(world, self._n)
        return world.once(trap=point.trap).calls

    def crash(self, point: Point, *planted: str) -> tuple[bool, list[Problem]]:
        """Spring the trap at a point, run syncd again; return whether it came so far, and what is
        wrong then.
        """
        # Late enough for what a planted bug does too early to be seen, on a busy machine as well.
        world = self.begun(point, planted, "2" if planted else "0.6")
        scenario = point.scenario
        self._n += 1
        sent = len(self._service.mutations())
        promised = scenario.change(world, self._n)
        # A disk that stays broken is waited for: then it is killed while it waits.
        ended = world.once(*planted, trap=point.trap, seconds=2 if point.every else 60)
        problems = list(gaps(world, promised))
        sprung = bool(ended.last)
        if sprung:
            again = world.once(*planted)
            if again.code != 0:
                problems.append(Problem("stuck", f"the next pass ended with {again}"))
        if ended.code != 0 and (not sprung or (ended.last == LATE and not point.every)):
            problems.append(Problem("stuck", f"it ended with {ended}"))
        problems += audit(world, steady=scenario.steady)
        done = len(self._service.mutations())
        if scenario.quiet and done > sent:
            problems.append(Problem("traffic", "it needs no request"))
        world.once(*planted)
        if len(self._service.mutations()) > done:
            problems.append(Problem("traffic", "a second pass found more to do"))
        if problems:
            where = f"{point.key}, call {point.at} ({ended.last})"
            problems = [Problem(p.kind, f"{where}: {p.detail}") for p in problems]
            print(world.tell(), file=sys.stderr) if not planted else None
            self._world = None
        return sprung, problems


def late(lane: Lane, *planted: str) -> list[Problem]:
    """Have an upload arrive after it was given up and sent again; return what is wrong then."""
    world = lane.begun(Point(New(), "direct", 0), planted)
    rule = {"match": "POST /v2/files/-/uploads", "times": 1, "action": {"commit_late": 1.2}}
    world.service.faults(rule)
    world.write("late.txt", b"late")
    world.once(*planted)
    world.service.faults()
    # Sent at once, given up after 0.6 s; now it comes, and is looked for 1.5 s after it was sent.
    time.sleep(1.5)
    world.once(*planted)
    return audit(world, steady=["kept.txt"])


class Tally:
    """The points that are done, kept in a file if one is named, so that a long run can go on."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.points = 0
        self.problems: list[Problem] = []
        self._done: set[str] = set()
        if path and path.exists():
            known = json.loads(path.read_text())
            self.points, self._done = known["points"], set(known["done"])
            self.problems = [Problem(*p) for p in known["problems"]]

    def has(self, point: Point) -> bool:
        return f"{point.key} {point.at}" in self._done

    def add(self, point: Point, killed: bool, problems: list[Problem]) -> None:
        with self._lock:
            self.points += killed
            self.problems += problems
            self._done.add(f"{point.key} {point.at}")
            if self._path:
                known = {"points": self.points, "problems": self.problems}
                new = self._path.with_suffix(".new")
                new.write_text(json.dumps(known | {"done": sorted(self._done)}))
                new.replace(self._path)

    def line(self) -> str:
        counts = Counter(p.kind for p in self.problems)
        told = [k for k in KINDS if k in ("lost", "duplicate", "orphan") or counts[k]]
        return ", ".join([f"{self.points} crash points", *(f"{counts[k]} {k}" for k in told)])


def in_lanes(lanes: Sequence[Lane], work: Iterable[Sequence[Point]],
             do: Callable[[Lane, Point], None]) -> None:  # fmt: skip
    """Share `work` out; what belongs together stays in one lane. The first error ends all."""
    todo: queue.SimpleQueue[Sequence[Point]] = queue.SimpleQueue()
    for points in work:
        todo.put(points)
    errors: list[BaseException] = []

    def run(lane: Lane) -> None:
        try:
            while not errors:
                for point in todo.get_nowait():
                    do(lane, point)
        except queue.Empty:
            pass
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(lane,)) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def chunks(points: list[Point]) -> Iterator[list[Point]]:
    """Cut a list into parts of one scenario and one world each."""
    part: list[Point] = []
    for point in points:
        if part and (part[0].key != point.key or len(part) == OF_ONE_WORLD):
            yield part
            part = []
        part.append(point)
    if part:
        yield part


def scenarios() -> list[Scenario]:
    from syncd.emulator.video import make_video

    with scratch("clip") as place:
        make_video(place / "clip.mp4", seconds=1, fps=4, size=(32, 32))
        clip = (place / "clip.mp4").read_bytes()
    return [First(), New(), Changed(), Renamed(), Deleted(), Video(clip), Swapped()]


def every_point(lanes: Sequence[Lane], *, more: int, echoes: bool) -> list[Point]:
    """Return every crash point, in order, and so many `more` of each scenario.

    How many calls there are depends a little on how the threads come along. Where no name is
    echoed, a direct upload without an answer is held: that is another promise.
    """
    firsts = [Point(s, method, 0) for s in scenarios() for method in s.methods]
    firsts = [first for first in firsts if echoes or first.method == "presigned"]
    counts: dict[str, int] = {}
    in_lanes(
        lanes,
        [[p] for p in firsts],
        lambda lane, p: counts.update({p.key: lane.count(p)}),
    )
    return [
        Point(first.scenario, first.method, at)
        for first in firsts
        for at in range(1, counts[first.key] + more + 1)
    ]


def controls() -> list[tuple[Callable[[], None], Scenario, str, set[str]]]:
    """Return each planted bug, where it shows, and as what."""
    return [
        (plants.intent_after_the_call, New(), "direct", {"intent", "duplicate"}),
        (plants.intent_after_the_call, New(), "presigned", {"intent", "placeholder"}),
        (plants.resent_without_a_look, New(), "direct", {"duplicate"}),
        (plants.old_copy_first, Changed(), "direct", {"gap"}),
        (plants.old_copy_first, Changed(), "presigned", {"gap"}),
        (plants.delete_without_intent, Deleted(), "direct", {"intent"}),
        (plants.takes_over_what_changed, Swapped(), "direct", {"gap"}),
        (plants.foreign_adopted, New(), "direct", {"lost", "foreign"}),
    ]


def find(lane: Lane, plant: Callable[[], None], scenario: Scenario, method: str,
         kinds: set[str]) -> str | None:  # fmt: skip
    """Kill a planted syncd at one send or receive after the other; return what the audit saw."""
    # Which of two requests goes first is chance.
    for at in (*range(1, 15),) * 4:
        point = Point(scenario, method, at, ("sendto", "recvfrom"))
        _, problems = lane.crash(point, plant.__name__)
        for problem in problems:
            if problem.kind in kinds:
                return problem.detail
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="every crash point")
    parser.add_argument("--resume", type=Path, help="a file that keeps what is done")
    parser.add_argument("--personality", metavar="NAME", help="how the service differs")
    chosen = parser.parse_args()
    names = [chosen.personality] if chosen.personality else []
    echoes = personality(*names).echo != "none"
    report, tally = Report(), Tally(chosen.resume)
    with scratch("kill") as place, ExitStack() as stack:
        options = [word for name in names for word in ("--personality", name)]
        lanes = [Lane(place / f"lane-{n}", stack, *options) for n in range(LANES)]
        points = every_point(lanes, more=5 if chosen.long else 0, echoes=echoes)
        if not chosen.long:
            count = PERSONALITY_POINTS if names else SHORT_POINTS
            points = [points[n * len(points) // count] for n in range(count)]
        todo = [point for point in points if not tally.has(point)]
        progress = Progress("crash points", len(todo))

        def crash(lane: Lane, point: Point) -> None:
            tally.add(point, *lane.crash(point))
            progress.step()

        in_lanes(lanes, chunks(todo), crash)
        print(tally.line())
        # Without an echo, nothing leads back to a record whose create got no answer.
        wrong = [p for p in tally.problems if echoes or p.kind != "placeholder"]
        report.check(f"killed at {tally.points} system calls, all is as it should be", wrong)
        if names:
            return report.end()
        report.check("what arrives after it was sent again retires", late(lanes[0]))
        left = [p for p in late(lanes[0], "no_late_look") if p.kind == "duplicate"]
        report.check(f"caught: {plants.no_late_look.__doc__}", well=bool(left))
        found: dict[int, str | None] = {}
        planted = controls()

        def plant(lane: Lane, point: Point) -> None:
            found[point.at] = find(lane, *planted[point.at])

        in_lanes(lanes, [[Point(Scenario(), "", n)] for n in range(len(planted))], plant)
        for n, (bug, scenario, method, _) in enumerate(planted):
            seen = found[n]
            report.check(
                f"caught: {bug.__doc__} ({scenario.name}, {method})",
                [] if seen else ["the audit saw nothing"],
            )
            if seen:
                print(f"      {seen}")
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
