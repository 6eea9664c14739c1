"""Drives the status page through all its states: `page.py SCRATCH SHOTS`."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, expect, sync_playwright

from syncd.config import loading as configuration
from syncd.identity import RootIdentity
from syncd.server.listener import Listener
from syncd.state import folders
from syncd.state.database.store import Store

CHROMIUM = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
]
SIZES = {"wide": (1600, 900), "middle": (820, 1180), "narrow": (360, 740)}
KEY, TOKEN = "a-key-of-the-rig", "a-token-of-the-rig-0123"
ROWS = 1_000_000
HOSTILE = [
    b"<img src=x onerror=alert(1)>.txt",
    b"<script>alert(2)<!-- .txt",
    "\u202egpj.exe \u05d0\u05d1\u05d2 \u0645\u0644\u0641.txt".encode(),
    b"line\nbreak \x1b[31mred\x07.txt",
    b"caf\xe9.txt",
    b"n" * 251 + b".txt",
    "\U0001f469\u200d\U0001f680 \u65e5\u672c\u8a9e & \"quotes\" 'too'.txt".encode(),
]
#: Causes that stop sending: the page's state and headline, the hold's card, and the rules of
#: the emulator that bring it about; with none, the wire is cut.
REFUSALS = [
    (
        "key-refused",
        "failing",
        "The service refuses the key",
        ["The Files API refuses the key", "Put a valid key into AYMARA_AI_API_KEY"],
        [{"match": "* /v2/*", "action": {"status": 401}}],
    ),
    (
        "workspace-forbidden",
        "held",
        "Sending is held",
        ["Give the key access"],
        [{"match": "* /v2/*", "action": {"status": 403}}],
    ),
    (
        "quota",
        "held",
        "Sending is held",
        ["A quota is used up"],
        [{"match": "POST /v2/*", "action": {"status": 402}}],
    ),
    ("unreachable", "failing", "The service cannot be reached", [], []),
]
counted = {True: 0, False: 0}


@contextmanager
def check(what):
    """Count what the block asserts as passed or failed."""
    try:
        yield
    except Exception:
        counted[False] += 1
        print(f"FAIL  {what}\n{traceback.format_exc(limit=3)}", flush=True)
    else:
        counted[True] += 1
        print(f"ok    {what}", flush=True)


def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


class SlowWire:
    """A TCP relay to the emulator: `rate` bytes a second on each connection, none while `cut`."""

    def __init__(self, port):
        self.rate, self.cut, self._port = float("inf"), False, port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self._server.accept()
            if self.cut:
                near.close()
                continue
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            far = socket.create_connection(("127.0.0.1", self._port))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=pair, daemon=True).start()

    def _relay(self, source, target):
        with suppress(OSError):
            while (data := source.recv(65536)) and not self.cut:
                target.sendall(data)
                if self.rate != float("inf"):
                    time.sleep(len(data) / self.rate)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class Machine:
    """An emulator and a daemon with two folders, each a process of its own."""

    def __init__(self, scratch):
        self.scratch, self.port = scratch, free_port()
        self.clips, self.runs = scratch / "clips", scratch / "runs"
        for folder in (self.clips, self.runs):
            folder.mkdir(parents=True)
        self.daemon = None
        emulated = free_port()
        self.emulator_url = f"http://127.0.0.1:{emulated}"
        self.emulator = self._run(
            "emulator",
            "--listen",
            f"127.0.0.1:{emulated}",
            "--data",
            scratch / "remote",
            "--api-key",
            KEY,
        )
        until(lambda: urllib.request.urlopen(f"{self.emulator_url}/_emulator/objects", timeout=2))
        self.wire = SlowWire(emulated)
        self.url = f"http://127.0.0.1:{self.port}"

    def environment(self):
        folder = {"settle_seconds": 0.3, "grace_seconds": 1, "rescan_seconds": 5}
        return {
            "PATH": os.environ["PATH"],
            "AYMARA_AI_API_KEY": KEY,
            "SYNCD_API__BASE_URL": self.wire.url,
            "SYNCD_STATE__DIRECTORY": str(self.scratch / "state"),
            "SYNCD_SERVER__LISTEN": f"127.0.0.1:{self.port}",
            "SYNCD_UPLOAD__WORKERS": "4",
            # Uploads that were under way when the wire was cut are in doubt, and soon looked up.
            "SYNCD_UPLOAD__RESEND_AFTER_SECONDS": "2",
            "SYNCD_FOLDERS": json.dumps(
                [{"path": str(path), **folder} for path in (self.clips, self.runs)]
            ),
        }

    def start(self):
        self.daemon = self._run("run", environment=self.environment())
        until(lambda: urllib.request.urlopen(f"{self.url}/healthz", timeout=2))

    def kill(self):
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def stop(self):
        for process in filter(None, (self.daemon, self.emulator)):
            process.terminate()
            process.wait(20)

    def retry(self):
        """Have what waits tried at once, and not when its pause is over."""
        command = [sys.executable, "-m", "syncd", "retry"]
        subprocess.run(command, env=self.environment(), check=True, capture_output=True, timeout=30)

    def faults(self, *rules):
        body = json.dumps(rules).encode()
        request = urllib.request.Request(
            f"{self.emulator_url}/_emulator/faults", body, method="PUT"
        )
        urllib.request.urlopen(request, timeout=5).close()

    def holds(self, name):
        """Say whether the service holds a file of that name."""
        with urllib.request.urlopen(f"{self.emulator_url}/_emulator/objects", timeout=5) as answer:
            return any(
                name in line and '"live"' in line for line in answer.read().decode().split("\n")
            )

    def _run(self, *words, environment=None):
        log = (self.scratch / f"{words[0]}.log").open("ab")
        command = [sys.executable, "-m", "syncd", *map(str, words)]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def until(done, seconds=30):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if answer := done():
                return answer
        except OSError:
            pass
        assert time.monotonic() < deadline, "not within its time"
        time.sleep(0.1)


def put(folder, name, content):
    """Rename a finished file in, by its exact name."""
    draft = folder / ".draft"
    draft.write_bytes(content)
    draft.rename(folder / os.fsdecode(name))


class Viewer:
    """One page, open the whole time; each state is photographed in both themes and two widths."""

    def __init__(self, browser, url, shots):
        self.page = browser.new_context(color_scheme="light").new_page()
        self.shots, self.dialogs, self.elsewhere, self.errors = shots, [], [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

        def dismiss(dialog):
            self.dialogs.append(dialog.message)
            dialog.dismiss()

        def hear(line):
            if "Content Security" in line.text:
                self.errors.append(line.text)

        def see(request):
            if not request.url.startswith((url, "data:")):
                self.elsewhere.append(request.url)

        self.page.on("dialog", dismiss)
        self.page.on("console", hear)
        self.page.on("request", see)
        self.page.set_viewport_size({"width": 1280, "height": 860})

    def state(self, name, seconds=20):
        with check(f"the page tells: {name}"):
            expect(self.page.locator("body")).to_have_attribute(
                "data-state", name, timeout=seconds * 1000
            )

    def photograph(self, name):
        for theme in ("light", "dark"):
            self.page.emulate_media(color_scheme=theme)
            for size, (width, height) in SIZES.items():
                self.page.set_viewport_size({"width": width, "height": height})
                self.page.screenshot(path=self.shots / f"{name}-{theme}-{size}.png", full_page=True)
                with check(f"{name}, {theme}, {size}: it fits, and axe finds nothing"):
                    over = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    assert over <= 0, f"{over} px too wide"
                    found = Axe().run(self.page).response["violations"]
                    assert not found, json.dumps([(v["id"], v["nodes"][0]["html"]) for v in found])
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size({"width": 1280, "height": 860})


def journey(browser, machine, shots):
    machine.start()
    viewer = Viewer(browser, machine.url, shots)
    page = viewer.page
    page.goto(machine.url)
    viewer.state("empty")
    viewer.photograph("empty")

    for number in range(40):
        put(machine.runs, b"eval-%03d.json" % number, os.urandom(400 + number))
    viewer.state("well", 40)
    viewer.photograph("well")

    with check("what was synced last is named, and the day's chart has units"):
        expect(page.locator("#recent-list li")).to_have_count(10, timeout=10000)
        expect(page.locator("#day-text")).to_contain_text("40 files")
        expect(page.locator(".scale")).to_contain_text("KiB")
        page.locator("#recent-list button").first.click()
        expect(page.locator("#recent-list .story code").first).to_have_text(
            re.compile("^[0-9a-f-]{36}$")
        )
        page.locator("#recent-list button").first.click()
    with check("a folder is opened to its files, page by page, and by status"):
        runs = page.locator("#folders-list > li", has_text="runs")
        runs.get_by_role("button", name="Files").click()
        expect(runs.locator(".results > li")).to_have_count(20)
        runs.get_by_role("button", name="Next").click()
        expect(runs.locator(".results > li bdi").first).to_have_text("eval-020.json")
        viewer.photograph("files")
        expect(runs.get_by_role("button", name="Next")).to_be_disabled()
        runs.get_by_role("combobox").select_option("failed")
        expect(runs).to_contain_text("There are none.")
        runs.get_by_role("button", name="Files").click()
        expect(runs.locator(".results > li").first).to_be_hidden()
    with check("all files can be had as CSV"):
        with page.expect_download() as download:
            page.get_by_role("link", name="All files as CSV").click()
        lines = Path(download.value.path()).read_text().splitlines()
        assert len(lines) == 41, len(lines)
        assert lines[0].startswith("folder,path,"), lines[0]

    with check("a path is found, its story told, and its uuid copied"):
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.keyboard.press("/")
        page.keyboard.type("EVAL-007")
        expect(page.locator(".story")).to_contain_text(
            "Its newest content is stored at the service."
        )
        uuid = page.locator(".story code").first.inner_text()
        page.get_by_role("button", name="Copy the uuid").click()
        assert page.evaluate("navigator.clipboard.readText()") == uuid
        assert len(uuid) == 36
        viewer.photograph("story")
        page.get_by_role("searchbox").press("Escape")
        expect(page.locator("#results li")).to_have_count(0)

    machine.wire.rate = 1.5e6
    for number, megabytes in enumerate((34, 57, 41, 22)):
        name = b"drive-%d-lidar-%02d.mcap" % (number, number * 7 + 3)
        put(machine.clips, name, os.urandom(megabytes << 20))
    for number in range(9):
        put(machine.runs, b"later-%02d.csv" % number, os.urandom(5000))
    viewer.state("busy")
    with check("transfers have bars that move, rates and time left"):
        expect(page.locator("#transfers-list")).to_contain_text("left")
        expect(page.locator("#transfers-list progress").first).to_be_visible()
        before = page.evaluate("document.querySelector('progress').value")
        time.sleep(3)
        page.wait_for_function(f"document.querySelector('progress')?.value > {before}")
    with check("the whole has a rate, what is left, and how long that takes"):
        expect(page.locator("#pace")).to_contain_text("MiB/s")
        expect(page.locator("#pace")).to_contain_text("about")
        expect(page.locator("#pace")).to_contain_text(re.compile(r"[1-4] files?, \d+\.\d MiB"))
    page.locator("#headline").click()
    viewer.photograph("busy")
    with check("a screen reader does not hear each tick"):
        page.evaluate(
            "window.heard = 0; new MutationObserver(() => heard++).observe("
            "document.getElementById('said'), "
            "{childList: true, characterData: true, subtree: true})"
        )
        time.sleep(4)
        assert page.evaluate("heard") == 0
    machine.wire.rate = float("inf")
    viewer.state("well", 60)

    for number, (name, state, headline, about, rules) in enumerate(REFUSALS):
        machine.faults(*rules)
        machine.wire.cut = not rules
        # It takes several failures in a row for a service to count as unreachable.
        for part in range(1 if rules else 6):
            put(machine.clips, b"next-%d-%d.csv" % (number, part), os.urandom(9000))
        viewer.state(state, 40)
        with check(f"{name}: what is the matter, that it is not lost, and what helps"):
            expect(page.locator("#headline")).to_have_text(
                re.compile(f"^{re.escape(headline)}"), timeout=40000
            )
            expect(page.locator("#main")).to_contain_text("othing is lost")
            for words in about:
                expect(page.locator("#holds")).to_contain_text(words)
            # Text that is no command is not offered to a shell.
            commands = page.locator("#holds .commands code").all_inner_texts()
            assert all(command.startswith("syncd ") for command in commands), commands
        viewer.photograph(name)
        machine.faults()
        machine.wire.cut = False
        machine.retry()
        viewer.state("well", 60)

    for path in sorted(machine.runs.iterdir())[:30]:
        path.unlink()
    viewer.state("held", 40)
    with check("a hold tells what, why, the first ten, and the two commands"):
        card = page.locator("#holds .card")
        expect(card.locator(".names li")).to_have_count(10)
        expect(card.locator(".commands code")).to_have_count(2)
        card.locator(".commands .copy").first.click()
        assert page.evaluate("navigator.clipboard.readText()").startswith("syncd deletes")
    viewer.photograph("held")

    machine.faults({"match": "POST /v2/files/-/uploads", "action": {"status": 415}})
    for name in (b"notes.docx", b"report <final>.pages", b"archive.rar"):
        put(machine.clips, name, os.urandom(9000))
        # Several at once would be reserved together, and that is not refused here.
        time.sleep(4)
    # Only what is refused while others pass is refused for good: a large one goes another way.
    put(machine.clips, b"passes.bin", os.urandom(33 << 20))
    viewer.state("failing")
    with check("failures have their reason and request id"):
        expect(page.locator("#failures-list > li")).to_have_count(3, timeout=150000)
        page.get_by_role("button", name="Copy the request id").first.click()
        assert (
            page.evaluate("navigator.clipboard.readText()")
            in page.locator("#failures").inner_text()
        )
    with check("beside a failure stands what helps"):
        commands = page.locator("#failures-list .commands code")
        expect(commands).to_have_count(3)
        assert all(words.startswith("syncd retry ") for words in commands.all_inner_texts())
        expect(page.locator("#failures-list")).to_contain_text("when its content changes")
    viewer.photograph("failing")

    # Ten in a row that are refused alike would be blamed on the service.
    put(machine.clips, b"passes_too.bin", os.urandom(33 << 20))
    until(lambda: machine.holds("passes_too"))
    for name in HOSTILE:
        put(machine.clips, name, b"hostile " + name)
    machine.faults(
        {"match": "POST /v2/files/-/uploads", "times": len(HOSTILE), "action": {"status": 415}}
    )
    with check("hostile names are text, each shown and found by its exact name"):
        page.get_by_role("searchbox").fill(".txt")
        expect(page.locator("#results li")).to_have_count(len(HOSTILE), timeout=15000)
        for opened, row in enumerate(page.locator("#results > li > button").all(), 1):
            row.click()
            expect(page.locator(".story dl")).to_have_count(opened)
        told = page.locator("#results").inner_text()
        for words in (
            "<img src=x onerror=alert(1)>",
            "\\u202egpj.exe",
            "line\\nbreak \\e[31mred\\u0007",
            "caf\\xe9",
        ):
            assert words in told, words
        assert page.locator("img, #results script").count() == 0
        assert page.evaluate(
            "[...document.querySelectorAll('bdi')].every("
            "e => getComputedStyle(e).unicodeBidi === 'isolate')"
        )
    viewer.photograph("hostile")
    page.get_by_role("searchbox").press("Escape")

    machine.kill()
    viewer.state("dead")
    with check("what was last known stays, with its age, which grows"):
        expect(page.locator("#folders .card")).to_have_count(2)
        before = page.locator("#sub").inner_text()
        assert "ago" in before
        time.sleep(2.5)
        assert page.locator("#sub").inner_text() != before
    viewer.photograph("dead")
    machine.start()
    viewer.state("failing")

    with check("nothing ran but the page, and nobody else was asked"):
        assert (viewer.dialogs, viewer.errors, viewer.elsewhere) == ([], [], [])
    with check("the page is there within 200 ms, in under 60 kB, with a keyboard's order"):
        page.reload(wait_until="load")
        entry = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
        milliseconds, size = entry["loadEventEnd"] - entry["startTime"], entry["decodedBodySize"]
        print(f"      load {milliseconds:.0f} ms, {size} bytes")
        assert milliseconds < 200
        assert size < 60_000
        page.locator("#failures-list > li").first.wait_for()
        focused = []
        for _ in range(3):
            page.keyboard.press("Tab")
            focused.append(page.evaluate("(e => e.id || e.textContent)(document.activeElement)"))
        assert focused[:2] == ["To the status", "find"], focused


def listener_on(scratch, **more):
    """Start a listener on a state of its own, without a daemon; return it and its configuration."""
    drop = scratch / "drop"
    drop.mkdir(parents=True)
    environ = {
        "AYMARA_AI_API_KEY": KEY,
        "SYNCD_API__BASE_URL": "http://127.0.0.1:9",
        "SYNCD_WATCH": str(drop),
        "SYNCD_STATE__DIRECTORY": str(scratch / "state"),
        "SYNCD_SERVER__LISTEN": "127.0.0.1:0",
        **more,
    }
    config = configuration.load(config=None, environ=environ, working_directory=scratch)
    return Listener(config=lambda: config, steps=list), config


def fill(db, place, rows):
    """Make the table of a folder with so many synced files."""
    folders.note(db, "drop", bytes(place / "drop"), time.time())
    folders.accept_part(db, "drop", b"", RootIdentity("uuid 1", 2))
    count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    db.conn.execute(
        "INSERT INTO files (id, folder, path, parent, status, inode, size, mtime_ns, ctime_ns, "
        f"sha256, hashed_generation, changed_at) {count} "
        "SELECT i, 'drop', CAST(printf('%03d/f%07d.bin', i / 1000, i) AS BLOB), "
        "CAST(printf('%03d', i / 1000) AS BLOB), 'ready', i, 7, 0, 0, "
        "printf('%064x', i), 1, 1.7e9 FROM n",
        (rows,),
    )
    db.conn.execute(
        "INSERT INTO copies (file_id, token, file_uuid, status, generation, sha256, size, "
        f"content_type, method, created_at, live_at) {count} "
        "SELECT i, printf('t%d', i), printf('00000000-0000-4000-8000-%012d', i), "
        "'live', 1, printf('%064x', i), 7, 'text/plain', 'direct', 1.7e9, 1.7e9 FROM n",
        (rows,),
    )


def a_million_files(browser, scratch, shots):
    listener, config = listener_on(scratch / "million")
    store = Store(config.state.directory)
    store.open(time.time())

    store.write(lambda db: fill(db, scratch / "million", ROWS))
    listener.start()
    try:
        viewer = Viewer(browser, f"http://{listener.address}", shots)
        page = viewer.page
        began = time.monotonic()
        page.goto(f"http://{listener.address}")
        loaded = time.monotonic() - began
        with check("a million files: counted and shown"):
            expect(page.locator("#folders")).to_contain_text("1,000,000 synced", timeout=30000)
            print(
                f"      load {loaded * 1000:.0f} ms, counted after {time.monotonic() - began:.1f} s"
            )
        with check("a million files: one is found, and its story told"):
            began = time.monotonic()
            page.get_by_role("searchbox").fill("f0999999.bin")
            expect(page.locator(".story code").first).to_have_text(
                "00000000-0000-4000-8000-000000999999", timeout=30000
            )
            print(f"      found after {time.monotonic() - began:.1f} s")
        with check("a million files: pages follow one another"):
            page.get_by_role("searchbox").fill("123/")
            expect(page.locator("#results li")).to_have_count(20, timeout=20000)
            page.get_by_role("button", name="Show more").click()
            expect(page.locator("#results li")).to_have_count(40, timeout=20000)
        with check("a million files: a folder is opened, and CSV comes at once and whole"):
            page.get_by_role("button", name="Files").click()
            expect(page.locator("#folders-list .results > li")).to_have_count(20, timeout=20000)
            # All of them take most of a minute of CPU time.
            lines = page.evaluate(
                "fetch('ls.csv?search=12').then(a => a.text()).then(t => t.split('\\r\\n').length)"
            )
            assert lines > 10_000, lines
    finally:
        listener.stop()
        store.close()


def a_token(browser, scratch, shots):
    file = scratch / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    listener, config = listener_on(scratch / "guarded", SYNCD_SERVER__TOKEN_FILE=str(file))
    with closing(Store(config.state.directory)) as store:
        store.open(time.time())
        listener.start()
        try:
            viewer = Viewer(browser, f"http://{listener.address}", shots)
            page = viewer.page
            page.goto(f"http://{listener.address}")
            with check("where a token is wanted, it is asked for, refused, and taken"):
                page.get_by_label("Token").fill("wrong")
                page.get_by_role("button", name="Show the status").click()
                expect(page.locator("#wrong")).to_have_text("That is not the token.")
                viewer.photograph("token")
                page.get_by_label("Token").fill(TOKEN)
                page.get_by_label("Token").press("Enter")
                expect(page.locator("#footer")).to_contain_text("syncd")
                expect(page.locator("#token")).to_be_hidden()
                assert TOKEN not in page.content()
            with check("where a token is wanted, the list is downloaded with it"):
                store.write(lambda db: fill(db, scratch / "guarded", 3))
                with page.expect_download() as download:
                    page.get_by_role("link", name="All files as CSV").click(timeout=10000)
                assert len(Path(download.value.path()).read_text().splitlines()) == 4
        finally:
            listener.stop()


STANDS = "2 files wait to be sent, and nothing moves: drop/a (syncd why drop/a)"
SHAPES = {
    "not-asked": (
        "well",
        "has not been asked",
        lambda doc: doc | {"api": doc["api"] | {"state": "unknown", "last_success_at": None}},
    ),
    "first-scan": (
        "busy",
        "on the way",
        lambda doc: (
            doc
            | {
                "counts": {"settling": 120, "queued": 12_000},
                "folders": [
                    doc["folders"][0]
                    | {
                        "name": "<script>alert(3)</script>\u202egpj",
                        "last_scan_at": None,
                        "counts": {"settling": 120, "queued": 12_000},
                        "bytes_left": 4 << 40,
                    }
                ],
                "sending": {
                    "files_left": 12_000,
                    "bytes_left": 4 << 40,
                    "bytes_per_second": 0,
                    "files_per_second": 0,
                    "seconds_left": None,
                },
                "recent": [],
            }
        ),
    ),
    "paused": (
        "held",
        "Everything is paused",
        lambda doc: (
            doc
            | {
                "counts": {"held": 3},
                "paused": [{"folder": None, "since": doc["now"], "until": "2099-01-01T00:00:00Z"}],
                "holds": [
                    {
                        "id": 1,
                        "stops": "folder",
                        "scope": "*",
                        "since": doc["now"],
                        "reason": "paused: nothing is sent or deleted until 07:30",
                        "affects": 0,
                        "first": [],
                        "commands": ["syncd resume"],
                    }
                ],
            }
        ),
    ),
    "limited": (
        "well",
        "2.0 MiB/s",
        lambda doc: (
            doc | {"bandwidth": {"bytes_per_second": 2 << 20, "source": "command", "until": None}}
        ),
    ),
    "stale": (
        "failing",
        "it may hang",
        lambda doc: (
            doc
            | {
                "obstacles": ["the daemon (process 7) has not reported for 70 s; it may hang"],
                "reasons": ["the daemon (process 7) has not reported for 70 s; it may hang"],
            }
        ),
    ),
    "overdue": (
        "failing",
        "not moving on",
        lambda doc: (
            doc
            | {
                "obstacles": [STANDS],
                "reasons": [STANDS],
                "overdue": [
                    {
                        "state": "queued",
                        "folder": "drop",
                        "files": 2,
                        "path": "a",
                        "reason": STANDS,
                    }
                ],
            }
        ),
    ),
}


def reshaped(shape):
    """Return the route that answers with the document as `shape` changes it."""

    def answer(route):
        try:
            doc = route.fetch().json()
            doc |= {"reasons": [], "obstacles": [], "well": True}
            doc["api"] |= {"state": "ok"}
            route.fulfill(json=shape(doc))
        except Error:
            # The page went on to the next state meanwhile, or asks once more.
            with suppress(Error):
                route.abort()

    return answer


def shapes(browser, scratch, shots):
    """Show states that are hard to bring about, from a document that is changed on its way."""
    listener, config = listener_on(scratch / "shapes")
    with closing(Store(config.state.directory)) as store:
        store.open(time.time())
        store.write(lambda db: fill(db, scratch / "shapes", 3))
        listener.start()
        try:
            viewer = Viewer(browser, f"http://{listener.address}", shots)
            for name, (state, words, shape) in SHAPES.items():
                viewer.page.route("**/page.json", reshaped(shape))
                viewer.page.goto(f"http://{listener.address}")
                viewer.state(state)
                with check(f"{name}: the page says so, and not that all is well if it is not"):
                    expect(viewer.page.locator("#main")).to_contain_text(words)
                    told = viewer.page.locator("body").inner_text()
                    assert ("All is well" in told) == (name in {"first-scan", "limited"})
                viewer.photograph(name)
                viewer.page.unroute("**/page.json")
            with check("what is shaped runs nothing"):
                assert (viewer.dialogs, viewer.errors, viewer.elsewhere) == ([], [], [])
        finally:
            listener.stop()


def main(scratch, shots, *chosen):
    shots.mkdir(parents=True, exist_ok=True)
    machine = Machine(scratch)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        parts = {
            "journey": lambda: journey(browser, machine, shots),
            "million": lambda: a_million_files(browser, scratch, shots),
            "shapes": lambda: shapes(browser, scratch, shots),
            "token": lambda: a_token(browser, scratch, shots),
        }
        try:
            for part in (parts[name] for name in chosen or parts):
                with check("this part came to its end"):
                    part()
        finally:
            machine.stop()
            browser.close()
    print(f"{counted[True]} passed, {counted[False]} failed")
    return counted[False] > 0


sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
