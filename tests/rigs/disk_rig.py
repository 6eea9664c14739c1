#!/usr/bin/env python3
"""Lets the state's disk fill up, fail to sync, and be cut off at every write of the database.

Real processes: `syncd` on a folder, `syncd emulator` as the service. A full disk is an ext4 of 8
MB that is filled under a running daemon; what fails at one system call alone is told to fail by
the launcher. At last bugs are planted, and must be caught. As root; needs e2fsprogs.

    python tests/rigs/disk_rig.py          every third write, every sync
    python tests/rigs/disk_rig.py --long   every write, every sync, of more that happens
"""

# row: 1, 23, 24

import argparse
import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import plants
from kill_rig import Changed, Deleted, Lane, New, Point, Renamed, Scenario, in_lanes
from power_rig import mounted, run
from world import Launcher, Problem, Report, Service, World, audit, scratch, when

LANES = 4
DISK_BYTES = 8 << 20
ALERT = "nothing is sent or deleted: cannot write"
SYNCS, WRITES = ("fsync", "fdatasync"), ("pwrite64",)

#: The effects of a planted bug, and how often it is tried.
KINDS, TRIES = ("intent", "lost", "duplicate", "orphan", "gap"), 4


def wait(world: World, condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def fill(place: Path) -> None:
    """Leave no byte on a file system."""
    for size in (1 << 20, 4096, 1):
        with (place / f"ballast-{size}").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def full_disk(place: Path, service: Service, launcher: Launcher, *planted: str) -> list[Problem]:
    """Fill the state's disk under a daemon, see it rest; free it, see it go on by itself."""
    place.mkdir()
    image = place / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mkfs.ext4", "-q", "-F", image)
    problems: list[Problem] = []
    with mounted(image, place / "mounted") as disk:
        world = World(place / "world", service, launcher, method="direct", state=disk / "state",
                      SYNCD_UPLOAD__WORKERS="1")  # fmt: skip
        for n in range(6):
            world.write(f"old-{n}.txt", b"old %d" % n)
        if world.once().code != 0:
            raise RuntimeError(f"no beginning:\n{world.tell()}")
        pid = world.start("run", plants=planted, seconds=120)
        if not wait(world, lambda: "watching" in world.tell()):
            raise RuntimeError(f"no daemon:\n{world.tell()}")
        # A backlog: what waits for its turn is known already, when the disk fills up.
        service.faults({"match": "POST /*", "action": {"delay": 0.05}})
        for n in range(150):
            world.write(f"new-{n}.txt", b"new %d" % n)
        wait(world, lambda: any(c["path"].startswith("new-") for c in world.ledger()))
        fill(disk)
        noticed = wait(world, lambda: ALERT in world.log.read_text(), 0.5 if planted else 20)
        if not (noticed or planted):
            problems.append(Problem("stuck", "the full disk was not noticed"))
        filled = time.time()
        (world.drop / "old-0.txt").unlink()
        world.write("old-1.txt", b"changed")
        time.sleep(2.0)
        freed = time.time()
        meanwhile = [r for r in service.mutations() if filled + 0.5 < when(r) < freed]
        if meanwhile:
            problems.append(Problem("intent", f"{len(meanwhile)} requests on a full disk"))
        service.faults()
        for ballast in disk.glob("ballast-*"):
            ballast.unlink()
        wait(world, lambda: is_synced(world), 3 if planted else 30)
        os.kill(pid, signal.SIGKILL)
        if launcher.ended().signal != signal.SIGKILL:
            problems.append(Problem("stuck", f"the daemon had ended:\n{world.tell()}"))
        problems += audit(world, steady=[f"old-{n}.txt" for n in range(1, 6)])
        alerts = world.log.read_text().count(ALERT)
        if alerts != 1 and not planted:
            problems.append(Problem("stuck", f"{alerts} alerts, not one"))
    if problems and not planted:
        print(world.tell(), file=sys.stderr)
    return problems


def is_synced(world: World) -> bool:
    copies = [c for c in world.ledger() if c["status"] not in ("gone", "released")]
    return {
        c["path"]: c["sha256"] for c in copies if c["status"] == "live"
    } == world.on_disk() and (all(c["status"] == "live" for c in copies))


def points(lanes: Sequence[Lane], calls: tuple[str, ...], step: int,
           happens: Sequence[Scenario], **more: object) -> list[list[Point]]:  # fmt: skip
    """Return every `step`-th of these calls of each scenario, by scenario."""
    found = []
    for scenario in happens:
        count = lanes[0].count(Point(scenario, "direct", 0, calls))
        ats = range(1, count + 1, step)
        found.append([Point(scenario, "direct", at, calls, **more) for at in ats])
    return found


def sprung(lanes: Sequence[Lane], work: Sequence[Sequence[Point]], *planted: str
           ) -> tuple[int, list[Problem]]:  # fmt: skip
    """Spring every trap; return how many did, and what is wrong. A planted bug is seen once."""
    hits: list[bool] = []
    problems: list[Problem] = []

    def do(lane: Lane, point: Point) -> None:
        if planted and problems:
            return
        hit, wrong = lane.crash(point, *planted)
        hits.append(hit)
        problems.extend(wrong)

    in_lanes(lanes, [part[n::LANES] for part in work for n in range(LANES)], do)
    return sum(hits), problems


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="every write, and of more scenarios")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it mounts disks: run it as root")
    report = Report()
    happens = [Changed(), New(), Deleted(), Renamed()] if chosen.long else [Changed()]
    step = 1 if chosen.long else 3
    swallowed = plants.failed_commit_swallowed
    with scratch("disk") as place, ExitStack() as stack:
        lanes = [Lane(place / f"lane-{n}", stack) for n in range(LANES)]
        service = stack.enter_context(Service(place / "service"))
        launcher = stack.enter_context(Launcher())
        report.check(
            "a full disk: nothing is sent or deleted, one alert, goes on by itself",
            full_disk(place / "full", service, launcher),
        )
        seen = full_disk(place / "planted", service, launcher, swallowed.__name__)
        report.check(f"caught: {swallowed.__doc__}, on a full disk", well=bool(seen))
        for what, calls, sparse, more in (
            (
                "no space from one write on",
                WRITES,
                step,
                {"error": errno.ENOSPC, "every": True},
            ),
            ("a sync that fails", SYNCS, 1, {"error": errno.EIO}),
            ("every sync fails from one on", SYNCS, 1, {"error": errno.EIO, "every": True}),
            ("killed at a write of the database", WRITES, step, {}),
        ):
            work = points(lanes, calls, sparse, happens, **more)
            count, problems = sprung(lanes, work)
            report.check(f"{what}: {count} times, all is as it should be", problems)
            bug = swallowed if more else plants.intent_after_the_call
            # Which of two quick requests goes first is chance.
            for _ in range(TRIES):
                _, seen = sprung(lanes, work, bug.__name__)
                seen = [p for p in seen if p.kind in KINDS]
                if seen:
                    break
            report.check(f"caught: {bug.__doc__}", well=bool(seen))
            print(f"      {seen[0].kind}: {seen[0].detail}" if seen else "      nothing was seen")
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
