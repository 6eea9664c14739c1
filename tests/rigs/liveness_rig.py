#!/usr/bin/env python3
"""Lets one thing at a time go wrong, in every way it knows, and sees that nothing gets stuck.

Each kind of fault has a service, a daemon with production settings and two folders of its own. It
strikes, and leaves a sign that it did. Meanwhile everything else goes on, and `status` names what
stands still. When the fault ends, all is synced and well within the pause that `status` named and
30 s more. Then mends are taken out of the product, and the kind that they are for must fail. As
root; needs bindfs, nbdkit, nbdfuse and util-linux.

    python tests/rigs/liveness_rig.py              each fault for about a minute
    python tests/rigs/liveness_rig.py --long       each for 15 minutes, by the limits of production
    python tests/rigs/liveness_rig.py KIND...      these alone
    python tests/rigs/liveness_rig.py --plant NAME the kind that a planted bug is for, with the bug
    python tests/rigs/liveness_rig.py --list       the kinds, and the bugs
"""

# row: 71, 72, 73, 75, 78, 79, 86, 89

import argparse
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, time as clock_time
from hashlib import sha256
from pathlib import Path

import liveness_plants
from gateway import Gateway
from world import JsonObject, Report, Service, scratch

from syncd.report import status
from syncd.state import manifest, views

#: Kinds at the same time: they mostly wait.
LANES = 20
#: Seconds for which a fault lasts at least; and within which it strikes, what is spared is done
#: beside it, it is told, and all is done after its pause.
SHORT_FAULT, LONG_FAULT = 40.0, 900.0
STRIKE, BESIDE, TOLD, AFTER = 60.0, 60.0, 90.0, 30.0
#: Seconds in which `status` names what was under way when the fault ended, and is well at last.
NOTED, WELL = 75.0, 100.0
TOLD_LONG = 900.0
NAMED = re.compile(r"tried again (?:at|by) (\d\d:\d\d:\d\d)")
#: Nothing stands still: the file that is odd arrives, and all is well; or it waits for its writer.
NOTHING, ITS_WRITER = "", "its writer"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    `strikes` makes it on a site, yields what shows that it struck, and ends it. `told` is what
    `status` says (a pattern), `beside` what goes on: another folder, or that files are noticed.
    """

    name: str
    strikes: "Callable[[Site], Iterator[Callable[[], object]]]"
    told: str
    beside: str = "other folder"
    #: when the daemon starts: before it strikes, after it, or when `strikes` starts it
    starts: str = "before"
    #: whether SIGTERM comes while it lasts: it ends the daemon in time, and another takes over
    ends: bool = False
    #: whether the gateway stands between
    by_gateway: bool = False
    #: what is dropped once it has struck
    drops: int = 1
    env: dict[str, str] = field(default_factory=dict)
    folder: JsonObject = field(default_factory=dict)
    #: what the daemon runs under
    wrapped: Sequence[str] = ()


KINDS: dict[str, Kind] = {}


def kind(name: str, told: str, **more: object) -> Callable[[Callable], Callable]:
    """Have a function be a kind of fault."""

    def known(strikes: Callable) -> Callable:
        KINDS[name] = Kind(name, strikes, told, **more)
        return strikes

    return known


class Site:
    """A service, a gateway before it, a daemon and its folders."""

    def __init__(self, place: Path, fault: Kind, plants: Sequence[str], stack: ExitStack) -> None:
        self.place, self.kind, self.plants, self.stack = place, fault, plants, stack
        self.drop, self.other, self.state = place / "drop", place / "other", place / "state"
        self.drop.mkdir(parents=True)
        self.other.mkdir()
        self.service = stack.enter_context(Service(place / "service"))
        # Answers that it was told to delay would keep it for an hour.
        stack.callback(self.service.kill)
        self.gateway = stack.enter_context(Gateway(self.service.url))
        self.notify: str | None = None
        #: what the daemon's messages go to
        self.output: object = (place / "log").open("ab")
        self.daemon: subprocess.Popen[bytes] | None = None
        self.wrapped: Sequence[str] = fault.wrapped
        #: where else what was sent is
        self.taken: list[Path] = []
        self._dropped = 0

    def command(self, *argv: str) -> list[str]:
        plants = ",".join(self.plants)
        return [sys.executable, __file__, "--as-syncd", plants, *argv]

    @property
    def base_url(self) -> str:
        return self.gateway.url if self.kind.by_gateway else self.service.url

    @property
    def env(self) -> dict[str, str]:
        more = {
            name: value.format(place=self.place) if isinstance(value, str) else value
            for name, value in self.kind.folder.items()
        }
        folders = [
            {"path": str(self.drop), "name": "drop", **more},
            {"path": str(self.other), "name": "other"},
        ]
        told = {"NOTIFY_SOCKET": self.notify} if self.notify else {}
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.place),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "AYMARA_AI_API_KEY": "ours",
            "SYNCD_API__BASE_URL": self.base_url,
            "SYNCD_STATE__DIRECTORY": str(self.state),
            "SYNCD_FOLDERS": json.dumps(folders),
            **told,
            **self.kind.env,
        }

    def start(self) -> None:
        """Start the daemon, and have a file in each folder be synced."""
        for folder in (self.drop, self.other):
            write(folder / "first", folder.name.encode())
        self.launch()
        self.stack.callback(self._end)
        wait(self.is_synced, 120, "the first files are synced")

    def launch(self) -> None:
        """Start the daemon's process."""
        self.daemon = subprocess.Popen(
            [*self.wrapped, *self.command("run")],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            cwd=self.place,
        )

    @property
    def pid(self) -> int:
        assert self.daemon
        return self.daemon.pid

    def _end(self) -> None:
        assert self.daemon
        self.daemon.kill()
        self.daemon.wait(20)

    def drop_file(self, name: str = "", content: bytes = b"") -> Path:
        """Put a file into the folder that the fault is about."""
        self._dropped += 1
        path = self.drop / (name or f"file-{self._dropped}")
        write(path, content or b"%s %d" % (self.kind.name.encode(), self._dropped))
        return path

    def faults(self, match: str, action: object, **more: object) -> Callable[[], bool]:
        """Have requests go wrong at the service; return whether one has."""
        self.service.faults({"match": match, "action": action, **more})
        rules = f"{self.service.url}/_emulator/faults"
        return lambda: any(rule["struck"] for rule in json.loads(self.service._ask(rules)))

    def rows(self) -> list[JsonObject]:
        """Return the manifest."""
        with suppress(Exception):
            return views.read(self.state, lambda db: list(manifest.entries(db)))
        return []

    def word(self, path: str) -> str:
        return next((r["status"] for r in self.rows() if r["path"] == path), "unknown")

    def error(self, path: str) -> str:
        return next((r["error"] or "" for r in self.rows() if r["path"] == path), "")

    def status(self) -> JsonObject:
        """Return what `status` knows: its document, by the limits of this rig's."""
        return status.status(self.state, base_url=self.base_url)

    def on_disk(self) -> list[str]:
        found, todo = [], [os.fspath(root) for root in (self.drop, self.other, *self.taken)]
        while todo:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                        found.append(Path(entry.path))
        return sorted(sha256(path.read_bytes()).hexdigest() for path in found)

    def is_synced(self) -> bool:
        """Say whether what is on the disk is live at the service, each once, and nothing else."""
        rows = self.rows()
        if not rows or any(row["status"] not in ("synced", "ignored") for row in rows):
            return False
        live = sorted(o["sha256"] for o in self.service.objects() if o["state"] == "live")
        reserved = [o for o in self.service.objects() if o["state"] == "reserved"]
        return not reserved and live == self.on_disk()

    def tell(self) -> str:
        """Return what is not as it should be."""
        odd = [f"{r['path']} {r['status']}" for r in self.rows() if r["status"] != "synced"]
        states = [o["state"] for o in self.service.objects()]
        counts = {state: states.count(state) for state in set(states)}
        return f"{odd[:6]}, {counts} of {len(self.on_disk())}; {self.status()['reasons']}"

    def is_live(self, content: bytes) -> bool:
        digest = sha256(content).hexdigest()
        return any(o["sha256"] == digest and o["state"] == "live" for o in self.service.objects())


def write(path: Path, content: bytes) -> None:
    """Put a file there as a careful producer does: whole, by a rename."""
    new = path.with_name(f".{path.name[:100]}.new")
    new.write_bytes(content)
    new.replace(path)


def wait(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for `condition`; return how long it took. TimeoutError says what did not come."""
    began = time.monotonic()
    while True:
        with suppress(OSError, ValueError):
            if condition():
                return time.monotonic() - began
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.5)


@dataclass(slots=True)
class Outcome:
    """The outcome of one kind."""

    kind: str
    struck: str = "-"
    beside: str = "-"
    told: str = "-"
    healed: str = "-"
    problem: str = ""
    log: str = ""

    def row(self) -> str:
        told = self.told if len(self.told) <= 70 else f"{self.told[:67]}..."
        return f"{self.kind:46} {self.struck:>7} {self.beside:>7} {self.healed:>14}  {told}"


class Trial:
    """One kind, from its beginning to its end."""

    def __init__(self, site: Site, *, long: bool) -> None:
        self._site, self._long = site, long
        self.outcome = Outcome(site.kind.name)

    def run(self) -> Outcome:
        try:
            self._run()
        except Exception as error:
            self.outcome.problem = f"{type(error).__name__}: {error}"
            log = self._site.place / "log"
            if log.exists():
                self.outcome.log = log.read_text(errors="replace")[-1500:]
        return self.outcome

    def _run(self) -> None:
        site, out = self._site, self.outcome
        fault = site.kind.strikes(site)
        if site.kind.starts == "before":
            site.start()
        sign = next(fault)
        if site.kind.starts == "after":
            site.start()
        began = time.monotonic()
        for _ in range(site.kind.drops):
            site.drop_file()
        out.struck = f"{wait(sign, STRIKE, 'a sign that it struck'):.0f} s"
        out.told = self._told()
        out.beside = self._beside()
        least = LONG_FAULT if self._long else SHORT_FAULT
        while time.monotonic() - began < least:
            time.sleep(1.0)
            self._watch()
        if site.kind.ends:
            self._ends()
            site.launch()
            write(site.other / "after", b"after")
            wait(lambda: site.is_live(b"after"), BESIDE, "another daemon works beside it")
        named = self._pause()
        with suppress(StopIteration):
            next(fault)
        healed, named = self._heals(named)
        out.healed = f"{healed:.0f} s of {named:.0f}+{AFTER:.0f}"
        wait(lambda: site.status()["well"], WELL, f"well again: {site.status()['reasons']}")
        self._ends()

    def _heals(self, named: float) -> tuple[float, float]:
        """Return after how long all is synced, and the pause that `status` named.

        What was under way when the fault ended may still run into its time limit.
        """
        site, ended = self._site, time.monotonic()
        while not site.is_synced():
            passed = time.monotonic() - ended
            if passed < NOTED and (later := self._pause()) > 0:
                named = max(named, passed + later)
            if passed > named + AFTER:
                raise TimeoutError(f"not synced {passed:.0f} s after: {site.tell()}")
            time.sleep(0.5)
        return time.monotonic() - ended, named

    def _watch(self) -> None:
        """While nothing stands still, nobody is told that something does."""
        if self._site.kind.told in (NOTHING, ITS_WRITER) and (
            reasons := self._site.status()["reasons"]
        ):
            raise AssertionError(f"not well though nothing stands still: {reasons}")

    def _beside(self) -> str:
        site, beside = self._site, self._site.kind.beside
        if beside == "nothing":
            return "-"
        if beside == "noticing":
            path = site.other / "beside"
            write(path, b"beside")
            took = wait(lambda: site.word("beside") != "unknown", BESIDE, "another file is noticed")
        else:
            write(site.other / "beside", b"beside")
            took = wait(lambda: site.is_live(b"beside"), BESIDE, "another folder's file is synced")
        return f"{took:.0f} s"

    def _told(self) -> str:
        site = self._site
        if site.kind.told in (NOTHING, ITS_WRITER):
            if site.kind.told == NOTHING:
                wait(site.is_synced, BESIDE, f"the odd file itself is synced: {site.tell()}")
            if reasons := site.status()["reasons"]:
                raise AssertionError(f"not well though nothing stands still: {reasons}")
            return site.kind.told or "nothing stands still"
        said: list[str] = []

        def is_told() -> bool:
            facts = site.status()
            said[:] = [r for r in [*facts["reasons"], facts["waits"]]
                       if re.search(site.kind.told, r)]  # fmt: skip
            return bool(said)

        within = TOLD_LONG if self._long else TOLD
        try:
            wait(is_told, within, "told")
        except TimeoutError:
            raise TimeoutError(f"not told in {within:.0f} s: {site.status()['reasons']}") from None
        return said[0]

    def _pause(self) -> float:
        """Return the seconds until the last of the times that `status` names."""
        facts, now = self._site.status(), datetime.now().astimezone()
        pauses = [0.0]
        for text in (*facts["reasons"], facts["waits"]):
            for at in NAMED.findall(text):
                then = clock_time.fromisoformat(at)
                seconds = (datetime.combine(now, then, now.tzinfo) - now).total_seconds()
                pauses.append(seconds + 86_400 if seconds < -43_200 else seconds)
        return max(pauses)

    def _ends(self) -> None:
        site = self._site
        assert site.daemon
        site.daemon.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = site.daemon.wait(60)
        # 10 s of draining, and 8 for whatever hangs.
        if (took := time.monotonic() - began) > 25:
            raise AssertionError(f"it ended {took:.0f} s after SIGTERM")
        if code != 0:
            raise AssertionError(f"it ended with {code}")


def attempt(name: str, place: Path, *, long: bool, plants: Sequence[str] = ()) -> Outcome:
    """Try one kind, with `plants` in the product."""
    shortened = () if long else ("short_limits",)
    outcome = Outcome(name)
    try:
        with ExitStack() as stack:
            site = Site(place, KINDS[name], [*shortened, *plants], stack)
            outcome = Trial(site, long=long).run()
        # A deep tree is too deep for Python.
        subprocess.run(["rm", "-rf", "--one-file-system", place], check=False)
    except Exception as error:
        outcome.problem = outcome.problem or f"{type(error).__name__}: {error}"
    return outcome


def in_lanes(jobs: Sequence[tuple[str, Callable[[], Outcome]]]) -> Iterator[tuple[str, Outcome]]:
    """Run jobs side by side; yield each name and outcome as it comes."""
    todo: queue.SimpleQueue[tuple[str, Callable[[], Outcome]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, Outcome]] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)

    def work() -> None:
        with suppress(queue.Empty):
            while True:
                name, run = todo.get_nowait()
                done.put((name, run()))

    for number in range(LANES):
        threading.Thread(target=work, daemon=True).start()
        # A start takes the processor for a second.
        time.sleep(0.5 if number else 0)
    for _ in jobs:
        yield done.get()


def tell(report: Report, jobs: Sequence[tuple[str, Callable[[], Outcome]]]) -> None:
    """Run the jobs, print the table, count what is wrong."""
    print(f"{'kind':46} {'struck':>7} {'beside':>7} {'healed':>14}  told", flush=True)
    outcomes = []
    for name, outcome in in_lanes(jobs):
        outcomes.append((name, outcome))
        if not name:
            print(outcome.row(), flush=True)
    for name, outcome in outcomes:
        if name:
            bug = getattr(liveness_plants, name).__doc__
            report.check(f"caught: {bug}: {outcome.problem}", well=bool(outcome.problem))
            continue
        problems = [outcome.problem, *outcome.log.splitlines()] if outcome.problem else []
        report.check(f"{outcome.kind}: struck, told, healed", problems)


def as_syncd(plants: str, argv: Sequence[str]) -> int:
    """Run one command of syncd, with bugs planted in it."""
    for name in filter(None, plants.split(",")):
        getattr(liveness_plants, name)()
    from syncd.cli import call

    return call(argv)


def main() -> int:
    if sys.argv[1:2] == ["--as-syncd"]:
        return as_syncd(sys.argv[2], sys.argv[3:])
    import liveness_kinds  # noqa: F401 - it fills KINDS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="only these")
    parser.add_argument("--long", action="store_true", help="15 minutes each")
    parser.add_argument("--plant", metavar="NAME", help="only the kind that a bug is for, with it")
    parser.add_argument("--list", action="store_true", help="name the kinds and the bugs")
    chosen = parser.parse_args()
    if chosen.list:
        print(*sorted(KINDS), "", *liveness_plants.FOR, sep="\n")
        return 0
    if os.geteuid() != 0:
        parser.error("it mounts disks: run it as root")
    if not chosen.long:
        liveness_plants.short_limits()
    report, jobs = Report(), []
    with scratch("liveness") as place:
        numbers = iter(range(1000))

        def job(name: str, *plants: str) -> tuple[str, Callable[[], Outcome]]:
            where = place / str(next(numbers))
            return (*plants, "")[0], lambda: attempt(name, where, long=chosen.long, plants=plants)

        if not chosen.plant:
            jobs = [job(name) for name in chosen.kinds or KINDS]
        if not chosen.kinds:
            bugs = [chosen.plant] if chosen.plant else list(liveness_plants.FOR)
            jobs += [job(liveness_plants.FOR[bug], bug) for bug in bugs]
        tell(report, jobs)
    return report.end()


if __name__ == "__main__":
    # `liveness_kinds` fills this module's table, by the name that it imports it by.
    sys.modules["liveness_rig"] = sys.modules["__main__"]
    sys.exit(main())
