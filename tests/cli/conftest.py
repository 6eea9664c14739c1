import json
import os
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from syncd import cli
from syncd.disk import Fingerprint
from syncd.identity import RootIdentity
from syncd.state import copies, files, folders, holds
from syncd.state.database.store import Store
from syncd.state.deletions import Deletions
from syncd.state.ledger import Failure, Ledger, Offer, Stored
from syncd.state.observations import Observation, Seen, Settling, record
from syncd.state.planner import Policy
from tests.schemas import validate

KEY = "canary-key-000111"
A, B = "a" * 64, "b" * 64
POLICIES = {"f": Policy(), "g": Policy()}
SETTLING = Settling(settle_seconds=5.0, grace_seconds=60.0)


def uuid(number):
    return f"00000000-0000-4000-8000-{number:012d}"


class StateDesk:
    """A state directory with the folders f and g, filled through the state's own verbs."""

    def __init__(self, home):
        self.home = home
        self.directory = home / "state"
        self.store = Store(self.directory)
        self.now = float(int(time.time()))
        self.store.open(self.now)
        self.ledger = Ledger(policies=POLICIES, instance=self.store.instance)
        self.deletions = Deletions(policies=POLICIES)
        for name in POLICIES:
            root = home / name
            root.mkdir()
            self.do(folders.note, name, os.fsencode(root), 1.0)
            self.do(folders.accept_part, name, b"", RootIdentity("uuid 1", 2))
        (home / "syncd.toml").write_text(
            'state.directory = "state"\n'
            '[[folders]]\npath = "f"\nexclude = ["drafts/"]\n[[folders]]\npath = "g"\n'
        )

    def do(self, verb, *args, **kwargs):
        return self.store.write(lambda db: verb(db, *args, **kwargs))

    def see(self, path, mark=1, *, seen=Seen.PRESENT, folder="f", size=7, age=100.0, reason=None):
        changed = int((self.now - age) * 1e9)
        fingerprint = Fingerprint(mark, size, changed, changed)
        observation = Observation(path, seen, fingerprint if seen is Seen.PRESENT else None, reason)
        self.do(record, folder, [observation], settling=SETTLING, policies=POLICIES, now=self.now)
        return self.file(path, folder)

    def file(self, path, folder="f"):
        return self.store.read(lambda db: files.find(db, folder, path))

    def begin(self, file, sha256=A):
        offer = Offer(file.id, file.fingerprint, sha256, "text/plain", "direct", vacated=())
        return self.do(self.ledger.begin, offer, self.now)

    def arrive(self, copy, number=1, status="completed"):
        stored = Stored(uuid(number), "remote", status)
        return self.do(self.ledger.stored, copy.id, stored, self.now, look=self.now + 2)

    def sync(self, path, number=1, **seen):
        copy = self.begin(self.see(path, **seen))
        self.arrive(copy, number)
        return copy

    def refuse(self, path, message="too large", **seen):
        copy = self.begin(self.see(path, **seen))
        failure = Failure(message, 413, "file.too_large", "req-7")
        self.do(self.ledger.refused_for_good, copy.id, failure, self.now)
        return copy

    def miss(self, path, *, confirm=False):
        self.see(path, seen=Seen.MISSING)
        if confirm:
            self.now += 61
            self.do(self.deletions.confirm_missing, [self.file(path).id], self.now)

    def delete(self, path, copy):
        self.miss(path, confirm=True)
        self.do(self.deletions.begin_delete, [copy], self.now)
        self.do(self.deletions.deleted, [copy], self.now)

    def hold(self, stops, scope, message="the key is refused", **more):
        self.do(
            holds.place,
            stops=stops,
            scope=scope,
            reason="r",
            message=message,
            now=self.now,
            **more,
        )

    def copy(self, copy):
        return self.store.read(lambda db: copies.get(db, copy.id))


@pytest.fixture
def desk(tmp_path, monkeypatch, new_state):
    shutil.copytree(new_state, tmp_path / "state")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("SYNCD_", "AYMARA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    opened = StateDesk(tmp_path)
    yield opened
    opened.store.close()


@pytest.fixture
def syncd(monkeypatch, capsysbinary):
    """Run one command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments):
        code = cli.call([str(argument) for argument in arguments])
        out, err = capsysbinary.readouterr()
        validate(arguments, out.decode())
        return code, out.decode(), err.decode()

    return run


@pytest.fixture
def syncd_json(syncd):
    """Run one command line; return its exit code and its one JSON document."""

    def run(*arguments):
        code, out, _ = syncd(*arguments)
        return code, json.loads(out)

    return run


class Canned(ThreadingHTTPServer):
    """A service that gives one answer to everything: status, body, and perhaps headers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = (200, b"{}")
        #: what is answered before that, one after another
        self.answers = []
        self.keys, self.sent = [], []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer()

    def do_POST(self):
        self.server.sent.append(
            json.loads(self.rfile.read(int(self.headers.get("content-length", 0))))
        )
        self._answer()

    def _answer(self):
        answers = self.server.answers
        status, body, *headers = answers.pop(0) if answers else self.server.answer
        self.server.keys.append((self.path, self.headers.get("x-api-key")))
        self.send_response(status)
        for name, value in (("content-length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def service(monkeypatch):
    server = Canned()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("SYNCD_API__BASE_URL", server.url)
    monkeypatch.setenv("AYMARA_AI_API_KEY", KEY)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
