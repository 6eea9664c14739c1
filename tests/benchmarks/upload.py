"""Whole passes, disk to ledger, against the official client: `python tests/benchmarks/upload.py`.

Each round runs both, as processes of their own, against a sink in a third; the ratio of a round is
free of what the machine does meanwhile, more or less. Medians are printed. Figures: files a second
and CPU seconds for 1,000 files, start of the interpreter included on both sides.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def run(command, environment):
    """Run a command to its end; return its wall and CPU seconds and its peak memory in MB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{command} failed: {out.decode()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, usage.ru_maxrss / 1024


def syncd(port, folder, scratch, workers):
    shutil.rmtree(scratch / "state", ignore_errors=True)
    return run(
        [sys.executable, "-m", "syncd", "once"],
        {
            "AYMARA_AI_API_KEY": "benchmark",
            "SYNCD_API__BASE_URL": f"http://127.0.0.1:{port}",
            "SYNCD_STATE__DIRECTORY": str(scratch / "state"),
            "SYNCD_UPLOAD__WORKERS": str(workers),
            "SYNCD_UPLOAD__METHOD": "direct",
            "SYNCD_LOG__LEVEL": "warning",
            "SYNCD_FOLDERS": f'[{{"path": "{folder}", "settle_seconds": 0}}]',
        },
    )


def peer(port, folder, _scratch, threads):
    command = [sys.executable, HERE / "peer.py", f"http://127.0.0.1:{port}", folder, threads]
    return run(list(map(str, command)), {})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--bytes", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=8, help="of syncd")
    parser.add_argument("--threads", type=int, default=16, help="of the official client")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds an answer takes")
    parser.add_argument("--limit", type=float, default=float("inf"), help="uploads a second")
    parser.add_argument("--alone", action="store_true", help="without the official client")
    options = parser.parse_args()
    sides = {"syncd": (syncd, options.workers), "official client": (peer, options.threads)}
    if options.alone:
        del sides["official client"]
    figures = {name: [] for name in sides}
    with tempfile.TemporaryDirectory(prefix="syncd-benchmark-") as name:
        scratch = Path(name)
        folder = scratch / "files"
        folder.mkdir()
        for number in range(options.files):
            (folder / f"{number:06}.bin").write_bytes(os.urandom(options.bytes))
        sink = subprocess.Popen(
            [sys.executable, HERE / "sink.py", str(options.latency), str(options.limit)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            port = int(sink.stdout.readline())
            for _ in range(options.rounds):
                for side, (measure, threads) in sides.items():
                    figures[side].append(measure(port, folder, scratch, threads))
        finally:
            sink.communicate()
    for side, rounds in figures.items():
        rate = statistics.median(options.files / wall for wall, _, _ in rounds)
        cpu = statistics.median(1000 * cpu / options.files for _, cpu, _ in rounds)
        memory = max(memory for _, _, memory in rounds)
        print(f"{side:16} {rate:8.0f} files/s {cpu:6.2f} CPU s / 1,000 {memory:6.0f} MB peak")
    if not options.alone:
        ratios = [
            theirs[0] / ours[0]
            for ours, theirs in zip(figures["syncd"], figures["official client"], strict=True)
        ]
        print(f"ratio, pair by pair: {', '.join(f'{ratio:.2f}' for ratio in sorted(ratios))}")


if __name__ == "__main__":
    main()
