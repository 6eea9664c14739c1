#!/usr/bin/env python3
"""Cuts the power of the state's disk: what was not synced is lost, and nothing else may be.

The state is on an ext4 on a loop device, on nbdfuse, on nbdkit. For a cut nbdkit is stopped, and
its file copied: the copy holds what had reached the disk, and not what the kernel still kept. The
daemon is killed, the copy mounted, and syncd started on it against the same service: every request
that was seen must be known to it, and it must converge. A commit that does not wait for the disk,
planted, must fail here. As root; needs nbdkit, nbdfuse, e2fsprogs.

    python tests/rigs/power_rig.py          20 cuts
    python tests/rigs/power_rig.py --long   500 cuts
"""

# row: 25

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from chaos_rig import Workload
from world import Launcher, Problem, Progress, Report, Service, World, audit, scratch

SHORT_CUTS, LONG_CUTS = 20, 500
#: Cuts of the planted bug: one is enough to show, and not each one does.
CONTROL_CUTS = 6
DISK_BYTES = 32 << 20


def run(*command: object) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount an image by a loop device of its own; lend the mount point."""
    at.mkdir(exist_ok=True)
    device = run("losetup", "--find", "--show", image)
    try:
        run("mount", device, at)
        try:
            yield at
        finally:
            run("umount", at)
    finally:
        run("losetup", "--detach", device)


class Disk:
    """A disk whose power can be cut."""

    def __init__(self, place: Path) -> None:
        self.place, self.image = place, place / "disk"
        self._fuse = place / "nbd"
        self._server: subprocess.Popen[bytes] | None = None

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Make the file system on it, and mount it."""
        self._fuse.mkdir(parents=True)
        with self.image.open("wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-F", self.image)
        socket = self.place / "socket"
        command = ["nbdkit", "--foreground", "--unix", socket, "file", self.image]
        self._server = subprocess.Popen([str(c) for c in command])
        with ExitStack() as stack:
            stack.callback(self._end, self._server)
            until(socket.exists)
            bridge = subprocess.Popen(["nbdfuse", self._fuse / "disk", "--unix", socket])
            # It ends by itself once it is unmounted.
            stack.callback(bridge.wait, 10)
            stack.callback(self._unmount)
            until((self._fuse / "disk").exists)
            yield stack.enter_context(mounted(self._fuse / "disk", self.place / "mounted"))

    def cut(self, pid: int, copy: Path) -> None:
        """Copy what has reached the disk; kill `pid` before anything more does."""
        assert self._server
        self._server.send_signal(signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            shutil.copyfile(self.image, copy)
        finally:
            self._server.send_signal(signal.SIGCONT)

    def _unmount(self) -> None:
        run("fusermount3", "-u", self._fuse)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
            return
        process.kill()
        process.wait()


def until(condition: Callable[[], bool], otherwise: str = "the disk did not come up") -> None:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.01)


def one_cut(number: int, place: Path, service: Service, launcher: Launcher,
            *planted: str) -> list[Problem]:  # fmt: skip
    """Cut the power once under a busy daemon; return what is wrong afterwards."""
    place.mkdir()
    chance = random.Random(number)
    disk, copy = Disk(place), place / "copy"
    method = ("direct", "presigned")[number % 2]
    with disk.mounted() as state:
        world = World(place / "world", service, launcher, method=method, state=state / "state")
        (world.drop / "sub").mkdir()
        for name in ("kept.txt", "steady.txt"):
            world.write(name, name.encode())
        if world.once().code != 0:
            raise RuntimeError(f"no beginning:\n{world.tell()}")
        # Files that are there at the beginning are on the disk, bug or not.
        os.sync()
        workload = Workload(world, number)
        workload.start()
        done = len(service.mutations())
        pid = world.start("run", plants=planted)
        # Busy at the cut, however slow the machine is.
        until(lambda: len(service.mutations()) > done, "the daemon sent nothing")
        time.sleep(chance.uniform(0.0, 0.8))
        disk.cut(pid, copy)
        ended = launcher.ended()
        workload.stop()
        if ended.signal != signal.SIGKILL:
            raise RuntimeError(f"it ended with {ended}:\n{world.tell()}")
    with mounted(copy, place / "after") as state:
        world.state = state / "state"
        world.env["SYNCD_STATE__DIRECTORY"] = str(world.state)
        ended = world.once()
        problems = audit(world, steady=["kept.txt", "steady.txt"])
        if ended.code != 0:
            problems.append(Problem("stuck", f"the next pass ended with {ended}"))
        done = len(service.mutations())
        world.once()
        if len(service.mutations()) > done:
            problems.append(Problem("traffic", "a second pass found more to do"))
    if problems and not planted:
        print(world.tell(), file=sys.stderr)
    shutil.rmtree(place)
    return [Problem(p.kind, f"cut {number} ({method}): {p.detail}") for p in problems]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help=f"{LONG_CUTS} cuts")
    chosen = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("it mounts disks: run it as root")
    cuts = LONG_CUTS if chosen.long else SHORT_CUTS
    report, problems, caught = Report(), [], []
    progress = Progress("power cuts", cuts)
    with scratch("power") as place, Service(place / "service") as service, Launcher() as launcher:
        for number in range(cuts):
            problems += one_cut(number, place / f"{number}", service, launcher)
            progress.step()
        counts = {k: sum(p.kind == k for p in problems) for k in ("lost", "duplicate", "orphan")}
        print(", ".join([f"{cuts} power cuts", *(f"{n} {k}" for k, n in counts.items())]))
        report.check("what was acknowledged survives the cut", problems)
        for number in range(CONTROL_CUTS):
            bug = "commits_unsynced"
            caught = one_cut(number, place / f"planted-{number}", service, launcher, bug)
            if caught:
                break
        report.check("caught: a commit that does not wait for the disk", well=bool(caught))
        for problem in caught[:3]:
            print(f"      {problem.kind}: {problem.detail}")
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
