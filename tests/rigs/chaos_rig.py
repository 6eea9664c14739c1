#!/usr/bin/env python3
"""Kills the daemon at random moments, while files change and a tenth of all requests go wrong.

Real processes: `syncd run` on a folder, `syncd emulator` as the service. In rounds: a new folder,
25 kills a fraction of a second apart; then the service heals, one pass is made, and disk, ledger
and service are compared path by path. Some rounds are with a service that echoes no names: there,
what the README words for it is what must hold.

    python tests/rigs/chaos_rig.py                       200 kills
    python tests/rigs/chaos_rig.py --long                10,000 kills
    python tests/rigs/chaos_rig.py --long --resume FILE  goes on where FILE says it was ended
"""

# row: 33, 37, 47

import argparse
import json
import os
import queue
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from world import (
    KINDS,
    JsonObject,
    Launcher,
    Problem,
    Progress,
    Report,
    Service,
    World,
    audit,
    scratch,
    token_of,
)

SHORT_KILLS, LONG_KILLS, KILLS_A_ROUND = 200, 10_000, 25
LANES = 4
#: Seconds from one start to the kill.
SHORTEST, LONGEST = 0.05, 0.6
#: The kinds of rounds, in turn: how each sends, and to which service.
KINDS_OF_ROUND = (
    ("auto", "name"),
    ("direct", "name"),
    ("presigned", "path"),
    ("auto", "none"),
    ("direct", "name"),
    ("presigned", "name"),
    ("auto", "name"),
    ("direct", "none"),
)
STEADY = ("kept.txt", "steady.txt")
NAMES = ("a.txt", "b.bin", "c", "sub/d.txt", "sub/e.txt", "caf\u00e9.txt")
#: A request is given up after 0.6 s: what is committed late comes after it was sent again.
LATE_SECONDS = 1.0


def faults(seed: int) -> list[JsonObject]:
    """Return rules by which a tenth of the requests go wrong, each in its own way."""
    actions: list[object] = [
        {"status": 503},
        {"status": 429, "retry_after": 1},
        "drop_before",
        "drop_after",
        "garbage",
        "truncate",
        {"delay": 0.3},
        {"commit_late": LATE_SECONDS},
    ]
    share = 0.1 / len(actions)
    return [
        {"match": "* /*", "probability": share, "seed": seed + n, "action": action}
        for n, action in enumerate(actions)
    ]


class Workload(threading.Thread):
    """Creates, changes, renames and deletes files until it is stopped."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__()
        self._world, self._chance = world, random.Random(seed)
        self._end = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while not self._end.wait(self._chance.uniform(0.02, 0.15)):
                self._change()
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self._end.set()
        self.join()
        if self.error:
            raise self.error

    def _change(self) -> None:
        chance, name = self._chance, self._chance.choice(NAMES)
        path = self._world.drop / name
        what = chance.random()
        if what < 0.15:
            self._write("steady.txt")
        elif what < 0.6 or not path.exists():
            self._write(name)
        elif what < 0.8:
            path.unlink()
        else:
            # Over another one, at times.
            path.rename(self._world.drop / chance.choice(NAMES))

    def _write(self, name: str) -> None:
        self._world.write(name, self._chance.randbytes(self._chance.randrange(5000)))


def one_round(number: int, place: Path, launcher: Launcher) -> list[Problem]:
    """Make one round; return what is wrong at its end."""
    method, echo = KINDS_OF_ROUND[number % len(KINDS_OF_ROUND)]
    chance = random.Random(number)
    place.mkdir()
    with Service(place / "service", "--echo", echo) as service:
        world = World(place / "world", service, launcher, method=method)
        (world.drop / "sub").mkdir()
        for name in STEADY:
            world.write(name, name.encode())
        if world.once().code != 0:
            return [Problem("stuck", f"round {number}: it does not begin:\n{world.tell()}")]
        service.faults(*faults(number * 100))
        workload = Workload(world, number)
        workload.start()
        try:
            for _ in range(KILLS_A_ROUND):
                pid = world.start("run")
                time.sleep(chance.uniform(SHORTEST, LONGEST))
                os.kill(pid, signal.SIGKILL)
                ended = world.launcher.ended()
                if ended.signal != signal.SIGKILL:
                    return [Problem("stuck", f"round {number}: {ended}:\n{world.tell()}")]
        finally:
            workload.stop()
            service.faults()
        # Late commits are done by then, and due to be looked for, 1.5 s after they were sent.
        time.sleep(LATE_SECONDS + 1.0)
        ended = world.once(seconds=20)
        problems = audit(world, steady=STEADY)
        if echo == "none":
            problems = weaker(world, method, problems)
        elif ended.code != 0:
            problems.append(Problem("stuck", f"the pass after it ended with {ended}"))
        done = len(service.mutations())
        world.once(seconds=20)
        if len(service.mutations()) > done:
            problems.append(Problem("traffic", "a second pass found more to do"))
        if problems:
            print(world.tell(), file=sys.stderr)
        where = f"round {number} ({method}, echo {echo})"
        return [Problem(p.kind, f"{where}: {p.detail}") for p in problems]


def weaker(world: World, method: str, problems: list[Problem]) -> list[Problem]:
    """Keep, of `problems`, what may not be even where the service echoes no names.

    Presigned: an unanswered request can leave an empty record behind, never a second copy. Direct:
    what is in doubt is held, and not sent again.
    """
    if method != "direct":
        return [p for p in problems if p.kind != "placeholder"]
    copies, rows = world.ledger(), world.manifest()
    doubts = {c["token"]: c["path"] for c in copies if c["status"] == "sending"}
    held = {path for path, row in rows.items() if row["status"] in ("held", "deleting")}
    # Their earlier copies stay until the doubts are settled.
    earlier = {c["file_uuid"] for c in copies if c["path"] in held and c["file_uuid"]}
    kept = [
        Problem("lost", f"{path} is in doubt, and not held: {rows.get(path)}")
        for path in doubts.values()
        if path not in held
    ]
    kept += [
        p for p in problems if not any(known in p.detail for known in (*held, *doubts, *earlier))
    ]
    sent = Counter(
        token
        for o in world.service.objects()
        if o["workspace_uuid"] == world.workspace and (token := token_of(o))
    )
    return kept + [Problem("duplicate", f"{t}: {n} objects") for t, n in sent.items() if n > 1]


class Tally:
    """The rounds that are done; kept in a file, where one is named."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._lock = path, threading.Lock()
        self.done: set[int] = set()
        self.problems: list[Problem] = []
        if path and path.exists():
            known = json.loads(path.read_text())
            self.done = set(known["done"])
            self.problems = [Problem(*p) for p in known["problems"]]

    def add(self, number: int, problems: list[Problem]) -> None:
        with self._lock:
            self.done.add(number)
            self.problems += problems
            if self._path:
                new = self._path.with_suffix(".new")
                known = {"done": sorted(self.done), "problems": self.problems}
                new.write_text(json.dumps(known))
                new.replace(self._path)

    def line(self) -> str:
        counts = Counter(p.kind for p in self.problems)
        told = [k for k in KINDS if k in ("lost", "duplicate", "orphan") or counts[k]]
        kills = len(self.done) * KILLS_A_ROUND
        return ", ".join([f"{kills} kills", *(f"{counts[k]} {k}" for k in told)])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="10,000 kills")
    parser.add_argument("--resume", type=Path, help="a file that keeps what is done")
    parser.add_argument("--round", type=int, help="only this one")
    chosen = parser.parse_args()
    report, tally = Report(), Tally(chosen.resume)
    rounds = (LONG_KILLS if chosen.long else SHORT_KILLS) // KILLS_A_ROUND
    numbers = range(rounds) if chosen.round is None else [chosen.round]
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        if number not in tally.done:
            todo.put(number)
    progress = Progress("rounds", todo.qsize())
    errors: list[Exception] = []

    def work(place: Path, launcher: Launcher) -> None:
        try:
            while not errors:
                number = todo.get_nowait()
                tally.add(number, one_round(number, place / f"{number}", launcher))
                progress.step()
        except queue.Empty:
            pass
        except Exception as error:
            errors.append(error)

    with scratch("chaos") as place, ExitStack() as stack:
        threads = [
            threading.Thread(target=work, args=(place, stack.enter_context(Launcher())))
            for _ in range(LANES)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    print(tally.line())
    report.check("killed at random under faults, all is as it should be", tally.problems)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
