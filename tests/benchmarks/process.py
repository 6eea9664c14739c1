"""Runs whole processes, and reads what they took from the kernel."""

import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.measure import BrokenError

#: Seconds between two looks at a process's peak memory: what wait4 tells begins with our own.
LOOK_SECONDS = 0.05
LONGEST_SECONDS = 3600
KEPT = ("HOME", "LANG", "PATH", "TMPDIR", "VIRTUAL_ENV")


class Machine:
    """How much of the machine others take meanwhile: absolute times mean little on a busy one."""

    def __init__(self):
        self._before = self._standing()

    @staticmethod
    def _standing():
        line = Path("/proc/stat").read_text().split("\n", 1)[0]
        user, nice, system, _idle, _iowait, *interrupts = map(int, line.split()[1:8])
        busy = user + nice + system + sum(interrupts)
        return busy / os.sysconf("SC_CLK_TCK"), time.monotonic(), sum(os.times()[:4])

    def others(self):
        """Return the cores that others used on average."""
        (busy, at, mine), (busy_then, then, mine_then) = self._standing(), self._before
        return max(busy - busy_then - (mine - mine_then), 0) / max(at - then, 0.01)


class Usage(NamedTuple):
    """The cost of a process: seconds, MB, bytes read from disks."""

    wall: float
    cpu: float
    peak_mb: float
    read_bytes: int
    code: int


def environment(**more):
    """Return an environment in which nothing of this one changes how a program works."""
    return {name: os.environ[name] for name in KEPT if name in os.environ} | more


def run(command, env=None, *, cwd=None, codes=(0,)):
    """Run a command to its end; raise BrokenError where it ends with another code."""
    with (Path(cwd or "/tmp") / "out.log").open("w+b") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command], env=env or environment(), cwd=cwd,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        watch = PeakMemory(process.pid)
        timer = threading.Timer(LONGEST_SECONDS, process.kill)
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
            peak = watch.end()
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in codes:
            log.seek(0)
            said = log.read()[-2000:].decode(errors="replace")
            raise BrokenError(f"{command[0]} ended with {process.returncode}: {said}")
    return Usage(
        wall, usage.ru_utime + usage.ru_stime, peak, usage.ru_inblock * 512, process.returncode
    )


class PeakMemory:
    """Follows the most memory that a process has resident."""

    def __init__(self, pid):
        self._pid, self._peak, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self):
        while not self._over.wait(LOOK_SECONDS):
            self._peak = max(self._peak, status_kb(self._pid, "VmHWM"))

    def end(self):
        """Return the peak in MB."""
        self._over.set()
        self._thread.join()
        return self._peak / 1024


def status_kb(pid, name):
    """Return a line of a process's status in KiB; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
    return 0


class Standing(NamedTuple):
    """The cost of a running process until now, all threads together."""

    at: float
    cpu: float
    wakeups: int
    read: int
    written: int

    @classmethod
    def of(cls, pid):
        """Read it."""
        at = time.monotonic()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        wakeups = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                text = (task / "status").read_text()
                wakeups += int(text.partition("voluntary_ctxt_switches:")[2].split()[0])
        counts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        return cls(at, cpu, wakeups, int(counts["read_bytes"]), int(counts["write_bytes"]))


def until(condition, seconds, what):
    """Wait until `condition()` is true; return its value."""
    over = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > over:
            raise BrokenError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)
    return found
