#!/usr/bin/env python3
"""Another user plays tricks in a watched folder and at the listener while honest files are dropped.

    python tests/rigs/hostile_rig.py           for a minute
    python tests/rigs/hostile_rig.py --long    for ten

Every honest file arrives in time and stays, no byte from outside leaves, nothing outside changes,
the daemon stays small and its log short, and the key stands in nothing that is written. Needs root,
to be two users.
"""

# row: 53
# row: 56
# row: 61
# row: 82
# row: 84

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path

from hostile_tricks import TRICKS, Target
from world import Report, Service

STRANGER = 65_534
KEY = "CANARY-KEY-0b5f6f3d1c"
SECRET = "CANARY-SECRET-9a1e77c2"
#: Seconds within which the daemon has to work; and for which the stranger goes on.
START, SHORT, LONG = 300.0, 60.0, 600.0
#: An honest file has to have arrived before the queue stands still for so many seconds: what the
#: stranger dropped before it is sent before it, as fast as the machine can.
IN_TIME = 60.0
#: The log has a line an outcome.
MOST_RSS_KB, MOST_LOG_BYTES, MOST_LINE_BYTES = 400 << 10, 1 << 20, 1000


class Stage:
    """A daemon of root's, a folder of which a part is the stranger's, and what lies outside."""

    def __init__(self, scratch: Path, service: Service) -> None:
        self.scratch, self.service = scratch, service
        scratch.chmod(0o755)
        self.folder, self.outside = scratch / "folder", scratch / "outside"
        self.theirs, self.honest = self.folder / "theirs", self.folder / "honest"
        self.state, self.log = scratch / "state", scratch / "log"
        for directory in (self.folder, self.outside, self.theirs, self.honest):
            directory.mkdir()
        self.theirs.chmod(0o777)
        (self.outside / "secret.txt").write_text(SECRET)
        (self.outside / "deep").mkdir()
        (self.outside / "deep" / "secret.txt").write_text(SECRET * 2)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.config = scratch / "syncd.toml"
        self.config.write_text(
            f'[api]\nbase_url = "{service.url}"\n[state]\ndirectory = "{self.state}"\n'
            f'[server]\nlisten = "127.0.0.1:{self.port}"\n'
            f'[[folders]]\npath = "{self.folder}"\nsettle_seconds = 1\nmax_size = "100MiB"\n'
            "rescan_seconds = 20\ngrace_seconds = 1\n"
        )
        self.environment = os.environ | {"AYMARA_AI_API_KEY": KEY}
        self.dropped: dict[str, float] = {}

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "syncd", "run", "-c", str(self.config)]
        with self.log.open("wb") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "syncd", *words, "-c", str(self.config)]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=120
        )

    def drop(self, number: int) -> None:
        """Drop an honest file, here or there."""
        content = os.urandom(random.choice([10, 5000, 300_000]))
        place = self.folder if number % 3 == 0 else self.honest
        (place / f"honest-{number}").write_bytes(content)
        self.dropped[sha256(content).hexdigest()] = time.monotonic()

    def healthy(self) -> bool:
        with suppress(OSError):
            url = f"http://127.0.0.1:{self.port}/healthz"
            return urllib.request.urlopen(url, timeout=10).status == 200
        return False


def play(stage: Stage, pid: int, seconds: float) -> int:
    """Be the stranger, in a process of its own; return that one's id."""
    if child := os.fork():
        return child
    tally: Counter[str] = Counter()
    code = 1
    try:
        os.setgroups([])
        os.setgid(STRANGER)
        os.setuid(STRANGER)
        target = Target(stage.outside, stage.port, stage.state, pid)
        until, n = time.monotonic() + seconds, 0
        while time.monotonic() < until or n < len(TRICKS):
            chosen = TRICKS[n] if n < len(TRICKS) else random.choice(TRICKS)
            with suppress(OSError):
                chosen(stage.theirs, n, target)
            tally[chosen.__name__] += 1
            n += 1
        code = 0
    except BaseException as error:
        print(f"the stranger ended: {error!r}", flush=True)
    finally:
        print(f"{sum(tally.values())} tricks of {len(tally)} kinds", flush=True)
        os._exit(code)


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return all that a change of what is in `directory` would show."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime_ns, content)
    return found


def holding(words: bytes, *places: Path) -> list[str]:
    """Return the files beneath `places` that hold `words`."""
    files = (f for place in places for f in ([place] if place.is_file() else place.rglob("*")))
    return [str(f) for f in files if f.is_file() and words in f.read_bytes()]


def drop_until(stage: Stage, child: int, daemon: subprocess.Popen[bytes]) -> tuple[int, float, int]:
    """Drop a file a second while the stranger is at work; return its code and what was measured.

    These are the daemon's largest size in kB, and how often a probe got no answer.
    """
    number, peak, unhealthy = 0, 0.0, 0
    while True:
        if daemon.poll() is not None:
            os.kill(child, signal.SIGKILL)
            _, code = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(code), peak, unhealthy
        ended, code = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(code), peak, unhealthy
        stage.drop(number)
        number += 1
        unhealthy += not stage.healthy()
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        peak = max(peak, float(status.split("VmRSS:")[1].split()[0]))
        time.sleep(1)


def arrived(stage: Stage) -> tuple[list[str], float]:
    """Wait for the honest files; return those that did not come, and the last one's seconds."""
    began = moved_at = time.monotonic()
    known = 0
    while True:
        objects, now = stage.service.objects(), time.monotonic()
        if len(objects) > known:
            known, moved_at = len(objects), now
        live = {o["sha256"] for o in objects if o["state"] == "live"}
        missing = [digest for digest in stage.dropped if digest not in live]
        if not missing or now > moved_at + IN_TIME:
            return missing, now - began
        time.sleep(0.5)


def judge(stage: Stage, daemon: subprocess.Popen[bytes], report: Report, before: object) -> None:
    """Check what must be true whatever was tried."""
    missing, waited = arrived(stage)
    report.check(
        f"{len(stage.dropped)} honest files arrived, the last {waited:.1f} s after the tricks",
        missing,
    )
    report.check("nothing outside changed", well=snapshot(stage.outside) == before)
    report.check("no byte from outside left", holding(SECRET.encode(), stage.service.data))
    log_bytes = stage.log.stat().st_size
    most = MOST_LOG_BYTES + MOST_LINE_BYTES * len(stage.service.objects())
    report.check(f"the log is short ({log_bytes:,} bytes)", well=log_bytes < most)
    said = stage.scratch / "said"
    said.mkdir()
    for words in (
        ("status",),
        ("status", "--json"),
        ("ls", "--csv"),
        ("ls", "--json"),
        ("doctor",),
    ):
        told = stage.ask(*words)
        (said / "-".join(words)).write_text(told.stdout + told.stderr)
    for page in ("status.json", "metrics", "ls.json", "page.json"):
        with suppress(OSError):
            url = f"http://127.0.0.1:{stage.port}/{page}"
            (said / page).write_bytes(urllib.request.urlopen(url, timeout=60).read())
    leaks = holding(KEY.encode(), stage.log, said, stage.state, stage.service.data)
    report.check("the key stands in nothing that is written", leaks)
    report.check("the daemon is alive", well=stage.ask("status", "--alive").returncode == 0)
    daemon.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        daemon.wait(120)
    report.check("and ends as it should", well=daemon.returncode == 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seconds", type=float)
    chosen = parser.parse_args()
    seconds = chosen.seconds or (LONG if chosen.long else SHORT)
    report = Report()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostile-")))
        service = stack.enter_context(Service(scratch / "emulator", "--api-key", KEY))
        stage = Stage(scratch, service)
        before = snapshot(stage.outside)
        daemon = stage.start()
        stack.callback(daemon.kill)
        until = time.monotonic() + START
        while not stage.healthy() and time.monotonic() < until:
            time.sleep(0.2)
        report.check("the daemon runs", well=stage.healthy())
        code, peak, unhealthy = drop_until(stage, play(stage, daemon.pid, seconds), daemon)
        report.check("the stranger got at nothing", well=code == 0)
        report.check("every probe was answered", well=unhealthy == 0)
        report.check(f"the daemon stayed small ({peak / 1024:.0f} MB)", well=peak < MOST_RSS_KB)
        judge(stage, daemon, report, before)
        if report.failed:
            print(stage.log.read_text("utf-8", "replace")[-4000:])
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
