"""How long commands and the daemon take to start, beside an interpreter that does nothing.

    python tests/benchmarks/start.py [--rounds 7] [--known 200000] [--against TREE]

TREE is another checkout of syncd: both run in each round. Medians of wall and CPU milliseconds;
then the seconds until a daemon with KNOWN live files tells the service manager READY=1.
"""

import argparse
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ledger import environment, installed, make_files, make_ledger

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "--help": ["-m", "syncd", "--help"],
    "status --alive": ["-m", "syncd", "status", "--alive"],
    "status": ["-m", "syncd", "status"],
    "ls": ["-m", "syncd", "ls"],
    "once": ["-m", "syncd", "once"],
}
TARGETS = {"--help": "100", "status --alive": "50 CPU", "status": "250", "once": "300"}
SECONDS = 120.0


def timed(words, env, place):
    """Return wall and CPU milliseconds of one run."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, *words], env=env, cwd=place, check=False, **quiet)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * (time.perf_counter() - began), 1000 * cpu


def seconds_to_ready(env, place):
    """Start a daemon; return the seconds until it is ready, and its CPU seconds by then."""
    address = place / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(SECONDS)
        began = time.perf_counter()
        daemon = subprocess.Popen(
            [sys.executable, "-m", "syncd", "run"],
            env=env | {"NOTIFY_SOCKET": str(address)},
            cwd=place,
            stderr=subprocess.DEVNULL,
        )
        try:
            while b"READY=1" not in listener.recv(4096).splitlines():
                pass
            seconds = time.perf_counter() - began
            ticks = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        finally:
            daemon.terminate()
            daemon.wait()
            address.unlink()
    return seconds, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--known", type=int, default=200_000)
    parser.add_argument("--against", help="another checkout of syncd")
    options = parser.parse_args()
    trees = {"new": None} | ({"old": options.against} if options.against else {})
    with tempfile.TemporaryDirectory(prefix="syncd-start-") as scratch:
        place = Path(scratch)
        (place / "empty").mkdir()
        taken = {}
        for number in range(options.rounds + 1):
            for tree, path in trees.items():
                settings = environment(place / f"state-{tree}", {"in": place / "empty"})
                env = installed(place / tree, path) | settings
                for name, words in COMMANDS.items():
                    times = timed(words, env, place)
                    # The first round writes the byte code.
                    taken.setdefault((name, tree), []).extend([times] if number else [])
        print(f"{'':<16} {'':<4} {'wall ms':>8} {'CPU ms':>8}  target")
        for (name, tree), times in taken.items():
            wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"{name:<16} {tree:<4} {wall:>8.0f} {cpu:>8.0f}  {TARGETS.get(name, '')}")
        if options.known:
            start_with_known(options.known, trees, place)


def start_with_known(known, trees, place):
    roots = {"known": place / "known"}
    make_files(roots["known"], known)
    make_ledger(place / "state-known", roots)
    for _ in range(3):
        for tree, path in trees.items():
            env = installed(place / tree, path) | environment(place / "state-known", roots)
            seconds, cpu = seconds_to_ready(env, place)
            print(f"{known} files known, ready after ({tree}): {seconds:.2f} s, {cpu:.2f} s of CPU")


if __name__ == "__main__":
    main()
