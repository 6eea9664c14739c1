"""The cost of a long listing: memory and requests, beside objects of others and of our own.

    python tests/benchmarks/listing.py [--foreign 400000] [--own 1000000] [--no-order]

First a folder of 10 files beside FOREIGN objects: two passes of `syncd once` (a new ledger, then a
start), and `verify`. Then `verify` of a ledger of OWN live copies. Each is a process of its own.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

from syncd.state.binding import BASE_URL
from syncd.state.database.store import Store

FILES = 10
#: A prime: the order in which objects are listed where there is none.
STRIDE = 15_485_863
CHUNK = 50_000
EPOCH = 1_700_000_000.0


def uuid_of(number):
    return f"{number:08x}-0000-4000-8000-000000000000"


def detail(number, created_at, *, name="theirs.bin", size=1):
    return {
        "file_uuid": uuid_of(number),
        "organization_uuid": uuid_of(0xFFFFFFFF),
        "content_type": "application/octet-stream",
        "file_type": "document",
        "file_size_bytes": size,
        "original_file_url": name,
        "remote_file_path": f"files/{number}/{name}",
        "processing_status": "completed",
        "created_at": datetime.fromtimestamp(created_at, UTC).isoformat(),
        "updated_at": datetime.fromtimestamp(created_at, UTC).isoformat(),
    }


class Service(ThreadingHTTPServer):
    """A service with `count` objects that are made up as they are asked for."""

    daemon_threads = True

    def __init__(self, count, *, has_order=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.count, self.has_order = count, has_order
        self.uploaded, self.requests = [], 0

    def listed(self, offset):
        """Return the object at a place of the listing, newest first where there is an order."""
        if offset < len(self.uploaded):
            return self.uploaded[-1 - offset]
        place = offset - len(self.uploaded)
        number = self.count - 1 - place if self.has_order else place * STRIDE % self.count
        return detail(number, EPOCH + number)

    def object(self, uuid):
        number = int(uuid[:8], 16)
        if number >= self.count:
            return next(item for item in self.uploaded if item["file_uuid"] == uuid)
        return detail(number, EPOCH + number)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/requests":
            return self.answer(self.server.requests)
        self.server.requests += 1
        if url.path != "/v2/files":
            return self.answer(self.server.object(url.path.split("/")[3]))
        query = {key: int(value[0]) for key, value in parse_qs(url.query).items()}
        total = self.server.count + len(self.server.uploaded)
        offset = query.get("offset", 0)
        end = min(offset + min(query.get("limit", 100), 1000), total)
        items = [self.server.listed(place) for place in range(offset, end)]
        return self.answer({"items": items, "count": total})

    def do_POST(self):
        self.server.requests += 1
        body = self.rfile.read(int(self.headers["content-length"]))
        name = re.search(rb'filename="([^"]*)"', body)[1].decode()
        content = body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]
        number = self.server.count + len(self.server.uploaded)
        item = detail(number, time.time(), name=name, size=len(content))
        self.server.uploaded.append(item)
        self.answer(item)

    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(count, *, has_order=True):
    """Run a service in a process of its own; yield its URL."""
    command = [sys.executable, __file__, "--serve", str(count)]
    command += [] if has_order else ["--no-order"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def syncd(url, home, *words):
    """Run a command of syncd; return its exit code, its peak memory in MB, and its requests."""
    environment = {
        "AYMARA_AI_API_KEY": "benchmark",
        "SYNCD_API__BASE_URL": url,
        "SYNCD_STATE__DIRECTORY": f"{home}/state",
        "SYNCD_LOG__LEVEL": "warning",
        "SYNCD_UPLOAD__METHOD": "direct",
        "SYNCD_FOLDERS": json.dumps([{"path": f"{home}/files", "settle_seconds": 0}]),
    }
    before = asked(url)
    command = [sys.executable, "-m", "syncd", *words]
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    # The peak that wait4 tells of a child begins with the memory of this process.
    peak = 0
    while process.poll() is None:
        peak = max(peak, peak_memory(process.pid))
        time.sleep(0.05)
    return process.returncode, peak / 1024, asked(url) - before


def peak_memory(pid):
    """Return the most memory that a process ever had, in KiB; 0 where it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def asked(url):
    with urlopen(f"{url}/requests", timeout=60) as answer:
        return json.load(answer)


def make_files(home, number):
    (home / "files").mkdir()
    for at in range(number):
        (home / "files" / f"{at}.txt").write_text(f"content {at}")


def make_ledger(home, url, number):
    """Fill a ledger with `number` live copies, whose objects the service has."""
    store = Store(home / "state")
    store.open(EPOCH)
    path = os.fsencode(home / "files")

    def fill(db, first):
        numbers = range(first, min(first + CHUNK, number))
        db.conn.executemany(
            "INSERT INTO files (id, folder, path, parent, status, size, sha256, changed_at) "
            "VALUES (?, 'files', ?, x'', 'ready', 1, 'ab', ?)",
            ((at + 1, b"%d" % at, EPOCH) for at in numbers),
        )
        db.conn.executemany(
            "INSERT INTO copies (file_id, token, file_uuid, status, generation, sha256, size, "
            "content_type, method, created_at, sent_at, stored_at, live_at) VALUES "
            "(?, ?, ?, 'live', 1, 'ab', 1, 'application/octet-stream', 'direct', ?, ?, ?, ?)",
            ((at + 1, f"t{at}", uuid_of(at), *[EPOCH + at] * 4) for at in numbers),
        )

    try:
        store.set_fact(BASE_URL, url)
        store.write(
            lambda db: db.conn.execute(
                "INSERT INTO folders (name, path) VALUES ('files', ?)", (path,)
            )
        )
        for first in range(0, number, CHUNK):
            store.write(lambda db, first=first: fill(db, first))
    finally:
        store.close()


def beside_others(count, home, *, has_order=True):
    """Yield, for each command beside objects of others, its name and what it took."""
    make_files(home, FILES)
    with serving(count, has_order=has_order) as url:
        for name, *words in (("new", "once"), ("again", "once"), ("verify", "verify")):
            yield (name, *syncd(url, home, *words))


def of_our_own(count, home, *, has_order=True):
    """Return what `verify` of a ledger of so many copies takes."""
    make_files(home, 0)
    with serving(count, has_order=has_order) as url:
        make_ledger(home, url, count)
        return syncd(url, home, "verify")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--foreign", type=int, default=400_000)
    parser.add_argument("--own", type=int, default=1_000_000)
    parser.add_argument("--no-order", action="store_true", help="list in no order of time")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    has_order = not options.no_order
    if options.serve:
        service = Service(options.serve, has_order=has_order)
        print(f"http://127.0.0.1:{service.server_port}", flush=True)
        service.serve_forever()
    told = "{}: exit code {}, {:.0f} MB at most, {} requests"
    with tempfile.TemporaryDirectory() as place:
        for name, *facts in beside_others(options.foreign, Path(place), has_order=has_order):
            print(told.format(f"{FILES} files beside {options.foreign:,}, {name}", *facts))
    with tempfile.TemporaryDirectory() as place:
        facts = of_our_own(options.own, Path(place), has_order=has_order)
        print(told.format(f"verify of {options.own:,} copies", *facts))


if __name__ == "__main__":
    main()
