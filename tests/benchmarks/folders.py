"""A daemon at rest: what it costs to watch one folder, or very many.

    python tests/benchmarks/folders.py [--folders 1 500] [--files 10] [--seconds 60]
        [--against TREE]

Every file is synced, to an emulator. Once the first scans are over: CPU, threads, wake-ups
(voluntary context switches) a second, bytes written an hour, resident memory, and folders that are
polled for want of an inotify instance. TREE is another checkout of syncd.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from ledger import environment, installed, make_files

QUIET_SECONDS = 300.0
TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICK


def of_threads(pid, name):
    """Return the sum of a line of every thread's status."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = dict(
            line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
        )
        total += int(lines[name].split()[0])
    return total


def written(pid):
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def wait_for_rest(pid):
    deadline = time.monotonic() + QUIET_SECONDS
    used = cpu(pid)
    while time.monotonic() < deadline:
        time.sleep(5)
        used, before = cpu(pid), used
        if used - before < 1.5:
            return


def measure(env, place, seconds):
    daemon = subprocess.Popen(
        [sys.executable, "-m", "syncd", "run"], env=env, cwd=place, stderr=subprocess.DEVNULL
    )
    try:
        alive = [sys.executable, "-m", "syncd", "status", "--alive"]
        while subprocess.run(alive, env=env, cwd=place, check=False).returncode:
            time.sleep(1)
        wait_for_rest(daemon.pid)
        began, used, wrote = time.monotonic(), cpu(daemon.pid), written(daemon.pid)
        switched = of_threads(daemon.pid, "voluntary_ctxt_switches")
        time.sleep(seconds)
        took = time.monotonic() - began
        switched = (of_threads(daemon.pid, "voluntary_ctxt_switches") - switched) / took
        used = 100 * (cpu(daemon.pid) - used) / took
        wrote = 3600 * (written(daemon.pid) - wrote) / took
        threads = len(list(Path(f"/proc/{daemon.pid}/task").iterdir()))
        memory = of_threads(daemon.pid, "VmRSS") / 1024 / threads
        said = subprocess.run(
            [sys.executable, "-m", "syncd", "status", "--json"],
            env=env, cwd=place, capture_output=True, check=False,
        ).stdout  # fmt: skip
        folders = json.loads(said)["folders"]
        polled = sum(folder["watch"] == "polling" for folder in folders)
        return used, threads, switched, wrote, memory, polled
    finally:
        daemon.terminate()
        daemon.wait()


@contextmanager
def emulator(place):
    """Run an emulator; yield its URL."""
    command = [sys.executable, "-m", "syncd", "emulator", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--data", str(place / "emulator")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", type=int, nargs="+", default=[1, 500])
    parser.add_argument("--files", type=int, default=10, help="in each folder")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--against", help="another checkout of syncd")
    options = parser.parse_args()
    trees = {"new": None} | ({"old": options.against} if options.against else {})
    print("folders tree   CPU %  threads  wake-ups/s  written/h  resident  polled")
    for number in options.folders:
        with tempfile.TemporaryDirectory(prefix="syncd-folders-") as scratch:
            place = Path(scratch)
            roots = {f"f{n:04}": place / "in" / f"{n:04}" for n in range(number)}
            for root in roots.values():
                make_files(root, options.files)
            with emulator(place) as url:
                compare(trees, place, roots, url, options.seconds)


def compare(trees, place, roots, url, seconds):
    for tree, path in trees.items():
        env = installed(place / tree, path) | environment(place / f"state-{tree}", roots)
        env |= {"SYNCD_API__BASE_URL": url, "SYNCD_UPLOAD__METHOD": "direct"}
        once = [sys.executable, "-m", "syncd", "once"]
        subprocess.run(once, env=env, cwd=place, check=True, capture_output=True)
        used, threads, switched, wrote, memory, polled = measure(env, place, seconds)
        print(
            f"{len(roots):>7} {tree:<4} {used:>7.2f} {threads:>8} {switched:>11.1f} "
            f"{wrote / 1024:>6.0f} KiB {memory:>6.0f} MB {polled:>7}",
            flush=True,
        )


if __name__ == "__main__":
    main()
