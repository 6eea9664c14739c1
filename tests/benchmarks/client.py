"""The client alone, without ledger and disk: `python tests/benchmarks/client.py`.

Each round runs every side, as a process of its own, against the sink in a process of its own. The
sides: this tree's client; the same client over httpx's stock transport; an event loop with as many
connections as the others have threads, without a deadline, a stop flag or checks of the answer:
less than it would cost in earnest; with `--old DIR`, the client of another tree
(`git archive main | tar x -C DIR`); and the official client, if it is installed (see peer.py). Its
threads share one client, as its users' would; ours have one each.

Figures are medians: files a second, CPU seconds for 1,000 requests without the start of the
interpreter, and both against this tree's, round by round.
"""

import argparse
import asyncio
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
TREE = HERE.parent.parent


def ours(url, **settings):
    from syncd.files_api import FilesClient, UploadSource

    def sender():
        client = FilesClient(base_url=url, api_key="benchmark", **settings)

        def send(file):
            source = UploadSource(fd=file.fileno(), size=os.fstat(file.fileno()).st_size)
            client.upload(source, name="a.bin", content_type="application/octet-stream")

        return send

    return sender


def stock(url):
    import httpx

    from syncd.files_api import FilesClient, UploadSource

    def sender():
        transport = httpx.HTTPTransport(trust_env=False)
        client = FilesClient(base_url=url, api_key="benchmark", transport=transport)

        def send(file):
            source = UploadSource(fd=file.fileno(), size=os.fstat(file.fileno()).st_size)
            client.upload(source, name="a.bin", content_type="application/octet-stream")

        return send

    return sender


def official(url):
    from aymara_ai import AymaraAI

    client = AymaraAI(base_url=url, api_key="benchmark", max_retries=0)

    def sender():
        return lambda file: client.files.upload(file=("a.bin", file.read()))

    return sender


LOOP = "event loop"
SIDES = {
    "this tree": ours,
    "old tree": ours,
    "stock transport": stock,
    "official client": official,
    LOOP: None,
}


def work(side, url, threads, requests, size):
    """Send `requests` files on `threads` threads; print wall and CPU seconds."""
    sender = SIDES[side](url)
    start = threading.Barrier(threads + 1)

    def run():
        send = sender()
        with tempfile.TemporaryFile() as file:
            file.write(os.urandom(size))
            file.flush()
            file.seek(0)
            send(file)
            start.wait()
            for _ in range(requests // threads):
                file.seek(0)
                send(file)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    start.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for thread in running:
        thread.join()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))


async def loop(url, connections, requests, size):
    """Do as `work` does, on an event loop."""
    from syncd.files_api.framing import multipart

    place = urlsplit(url)
    start = asyncio.Barrier(connections + 1)

    async def run():
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        with tempfile.TemporaryFile() as file:
            file.write(os.urandom(size))
            file.flush()
            for number in range(1 + requests // connections):
                content = os.pread(file.fileno(), size, 0)
                hashlib.sha256(content).hexdigest()
                framing = multipart("a.bin", "application/octet-stream")
                head = (
                    f"POST /v2/files/-/uploads HTTP/1.1\r\nhost: {place.netloc}\r\n"
                    f"x-api-key: benchmark\r\ncontent-length: {framing.length(size)}\r\n"
                    f"content-type: {framing.content_type}\r\n\r\n"
                )
                writer.write(head.encode() + framing.head + content + framing.tail)
                await writer.drain()
                answer = await reader.readuntil(b"\r\n\r\n")
                length = answer.partition(b"content-length: ")[2].partition(b"\r")[0]
                json.loads(await reader.readexactly(int(length)))
                if not number:
                    await start.wait()
        writer.close()

    async with asyncio.TaskGroup() as running:
        for _ in range(connections):
            running.create_task(run())
        await start.wait()
        wall, cpu = time.perf_counter(), time.process_time()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))


def measure(side, tree, url, threads, options):
    command = [sys.executable, __file__, "--work", side, "--url", url]
    command += ["--threads", threads, "--requests", options.requests, "--bytes", options.bytes]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    out = subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.PIPE, env=environment
    ).stdout
    wall, cpu = json.loads(out)
    return options.requests / wall, 1000 * cpu / options.requests


def compare(sides, url, options):
    figures = {(threads, side): [] for threads in options.threads for side in sides}
    for _ in range(options.rounds):
        for (threads, side), rounds in figures.items():
            rounds.append(measure(side, sides[side], url, threads, options))
    print("threads side             files/s  CPU s / 1,000  this tree: speed, CPU (ratios)")
    for (threads, side), rounds in figures.items():
        pairs = list(zip(rounds, figures[threads, "this tree"], strict=True))
        speed = statistics.median(this[0] / one[0] for one, this in pairs)
        cpu = statistics.median(this[1] / one[1] for one, this in pairs)
        rate, cost = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"{threads:7} {side:16} {rate:7.0f} {cost:14.3f} {speed:17.2f}, {cpu:4.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--bytes", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--latency", type=float, default=0.0, help="seconds an answer takes")
    parser.add_argument("--old", type=Path, help="a tree to compare with")
    parser.add_argument("--url", help="of a sink that runs already")
    parser.add_argument("--work", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work == LOOP:
        asyncio.run(loop(options.url, options.threads[0], options.requests, options.bytes))
        return
    if options.work:
        work(options.work, options.url, options.threads[0], options.requests, options.bytes)
        return
    sides = {"this tree": TREE, "old tree": options.old, "stock transport": TREE, LOOP: TREE}
    if importlib.util.find_spec("aymara_ai"):
        sides["official client"] = TREE
    sides = {side: tree for side, tree in sides.items() if tree}
    if options.url:
        compare(sides, options.url, options)
        return
    sink = subprocess.Popen(
        [sys.executable, HERE / "sink.py", str(options.latency)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        compare(sides, f"http://127.0.0.1:{int(sink.stdout.readline())}", options)
    finally:
        sink.communicate()


if __name__ == "__main__":
    main()
