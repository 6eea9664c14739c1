"""No secret stands in anything that is written, whatever the service says."""

import json
import resource
import signal
import socket
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from syncd.emulator import Emulator
from syncd.state.database import backups
from syncd.state.database.schema import FILE_NAME

API_KEY, BEARER = "canary-key-8c1f0b72", "canary-bearer-5d3e9a41"
TOKEN, PROXY_PASSWORD = "canary-token-77b0c6e2", "canary-proxy-password-31d2"
#: The last is what every presigned URL of the emulator carries.
CANARIES = (API_KEY, BEARER, TOKEN, PROXY_PASSWORD, "X-Signature=")
PAGES = ("page.json", "status.json", "ls.json", "why.json?folder=drop&path=a.txt", "metrics", "")


class Echo(BaseHTTPRequestHandler):
    """A service that puts all it is sent into its refusals."""

    protocol_version = "HTTP/1.1"

    def answer(self, status, document):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("x-request-id", self.headers.get("x-api-key") or "none")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, {"items": [], "count": 0})

    def do_POST(self):
        echo = dict(self.headers.items())
        error = {"code": API_KEY, "message": f"you sent {echo}", "details": echo}
        self.answer(422, {"error": error, "request_id": API_KEY})

    def log_message(self, *_):
        pass


@pytest.fixture
def echo():
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def emulator(tmp_path):
    with Emulator(data=tmp_path / "emulator", api_key=API_KEY) as running:
        yield running


@pytest.fixture
def loud(machine, tmp_path):
    """A daemon with a secret of each kind, at its most talkative, that may dump its memory."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    machine.settings |= {
        "AYMARA_AI_API_KEY": API_KEY,
        "AYMARA_AI_BEARER_TOKEN": BEARER,
        "SYNCD_LOG__LEVEL": "debug",
        "SYNCD_SERVER__LISTEN": f"127.0.0.1:{port}",
        "SYNCD_SERVER__TOKEN_FILE": str(token),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield machine
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def told_by(machine):
    """Return all that the commands and the page say."""
    said = []
    for words in (
        *("status --json", "ls --json", "why --json a.txt", "doctor", "-v retry", "-v verify"),
    ):
        told = machine.command(*words.split())
        said.append(told.stdout + told.stderr)
    for page in PAGES:
        url = f"http://{machine.settings['SYNCD_SERVER__LISTEN']}/{page}"
        for headers in ({}, {"authorization": f"Bearer {TOKEN}"}, {"authorization": TOKEN}):
            try:
                with urlopen(Request(url, headers=headers), timeout=20) as answer:
                    said.append(f"{answer.headers}{answer.read().decode()}")
            except HTTPError as error:
                said.append(f"{error.headers}{error.read().decode()}")
    return said


def shown_of_process(pid):
    """Return what anybody on this machine may read of a process, and of its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    assert children == "", "what a child inherits has to be looked at"
    return [Path(f"/proc/{pid}/cmdline").read_text()]


def broken_commands(machine):
    """Return what commands say that cannot work, with each secret where it does not belong."""
    said = []
    for settings, words in (
        ({"AYMARA_AI_API_KEY": f"{API_KEY}\n{API_KEY}"}, "once"),
        ({"SYNCD_UPLOAD__WORKERS": API_KEY}, "once"),
        ({"SYNCD_API__BASE_URL": f"http://u:{PROXY_PASSWORD}@127.0.0.1:1/"}, "once"),
        ({"SYNCD_API__PROXY": f"socks://u:{PROXY_PASSWORD}@127.0.0.1:1/"}, "once"),
        ({"SYNCD_API__PROXY": f"http://u:{PROXY_PASSWORD}@127.0.0.1:1/"}, "-vv doctor"),
        ({"SYNCD_STATE__DIRECTORY": "/proc/none"}, "-vv once"),
    ):
        kept, machine.settings = machine.settings, machine.settings | settings
        told = machine.command(*words.split())
        machine.settings = kept
        assert told.returncode, (settings, words)
        said.append(told.stdout + told.stderr)
    return said


def holding(*places):
    """Return where secrets stand: in texts, and in files beneath a directory."""
    found = []
    for place in places:
        files = [place] if isinstance(place, str) else [f for f in place.rglob("*") if f.is_file()]
        for file in files:
            content = file if isinstance(file, str) else file.read_bytes().decode("latin-1")
            found += [(canary, str(file)[:300]) for canary in CANARIES if canary in content]
    return found


@pytest.mark.long
@pytest.mark.row(53)
@pytest.mark.timeout(240)
def test_no_secret_stands_in_anything_that_is_written(loud, tmp_path, video):
    said = broken_commands(loud)
    loud.settings["SYNCD_UPLOAD__METHOD"] = "presigned"
    loud.write("a.txt", b"a" * 1000)
    loud.write("clip.mp4", video)
    loud.faults(
        {"match": "POST /v2/files", "times": 1, "action": {"status": 500}},
        {"match": "PUT /_storage/*", "times": 1, "action": {"status": 403}},
        {"match": "GET /v2/files/*", "times": 2, "action": "garbage"},
    )
    loud.start()
    loud.settles(40)
    said += told_by(loud) + shown_of_process(loud.process.pid)
    limits = Path(f"/proc/{loud.process.pid}/limits").read_text()
    assert limits.split("Max core file size")[1].split()[0] == "0"
    backups.make(loud.state / FILE_NAME, time.time())
    assert [*loud.state.rglob("backups/*")]
    # While it runs, for its end takes some of it away.
    assert holding(*said, loud.state, tmp_path / "emulator") == []
    loud.stop(signal.SIGSEGV)
    (tmp_path / "token").unlink()
    assert holding(tmp_path) == []


@pytest.mark.long
@pytest.mark.row(53)
def test_a_service_that_repeats_the_key_has_it_written_nowhere(loud, echo, tmp_path):
    loud.settings |= {"SYNCD_API__BASE_URL": echo, "SYNCD_UPLOAD__METHOD": "direct"}
    loud.write("a.txt", b"a" * 1000)
    loud.start()
    loud.until(lambda: loud.manifest().get("a.txt", {}).get("error"))
    said = told_by(loud)
    assert any("you sent" in text for text in said)
    loud.stop()
    (tmp_path / "token").unlink()
    assert holding(*said, tmp_path) == []


def test_a_secret_that_is_written_is_found(tmp_path):
    (tmp_path / "log").write_bytes(b"\xff\0" + API_KEY.encode())
    assert [canary for canary, _ in holding(tmp_path, f"Bearer {BEARER}")] == [API_KEY, BEARER]
