"""The listener: whom it answers, and what."""

import http.client
import json
import os
import re
import socket
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from syncd import config as configuration, metrics, vitals
from syncd.daemon import Daemon
from syncd.disk import Fingerprint
from syncd.exceptions import ConfigError
from syncd.identity import RootIdentity
from syncd.parts import opened
from syncd.scheduler import StepReport
from syncd.server import Listener, listener as listener_module, page
from syncd.server.guard import Guard
from syncd.state import files, folders, holds
from syncd.state.ledger import Failure, Ledger, Offer
from syncd.state.lifecycle import FileStatus
from syncd.state.planner import Policy
from syncd.state.store import Store

TOKEN = "0123456789abcdef-of-the-test"
NAMES = [b"a.txt", b"b/c.txt", b"b/d \xff.txt", b"z<script>.mp4"]


@pytest.fixture
def load(tmp_path):
    (tmp_path / "drop").mkdir()
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)

    def load(**more):
        environ = {
            "AYMARA_AI_API_KEY": "k" * 20,
            "SYNCD_API__BASE_URL": "http://127.0.0.1:9",
            "SYNCD_STATE__DIRECTORY": str(tmp_path / "state"),
            "SYNCD_WATCH": str(tmp_path / "drop"),
            **more,
        }
        return configuration.load(config=None, environ=environ, working_directory=tmp_path)

    return load


@pytest.fixture
def store(tmp_path):
    """A state with a few files, held by this process."""
    opened = Store(tmp_path / "state")
    opened.open(time.time())

    def fill(db):
        folders.note(db, "drop", bytes(tmp_path / "drop"), 1.0)
        folders.accept_part(db, "drop", b"", RootIdentity("uuid 1", 2))
        for number, name in enumerate(NAMES):
            files.insert(
                db,
                folder="drop",
                path=name,
                status=FileStatus.READY,
                fingerprint=Fingerprint(number, 7, 0, 0),
                changed_at=time.time(),
                due_at=time.time() - 30,
            )

    opened.write(fill)
    yield opened
    opened.close()


def beat(directory, **more):
    facts = {"folders": {"drop": vitals.FolderVitals("native", directories=2)}, **more}
    vitals.write(directory, vitals.Vitals("1", os.getpid(), time.time(), time.time(), **facts))


class Asker:
    def __init__(self, listener):
        self.host, _, port = listener.address.rpartition(":")
        self.port = int(port)

    def __call__(self, path, method="GET", body=None, **headers):
        """Return status, headers and body."""
        connection = http.client.HTTPConnection(self.host.strip("[]"), self.port, timeout=10)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, path, **headers):
        status, _, body = self(path, **headers)
        assert status == 200, body
        return json.loads(body)


STEPS = [StepReport("upload", 3, 0, 0.1, None, 0.5, 1)]


@pytest.fixture
def serve(load):
    running = []

    def serve(**more):
        config = load(SYNCD_SERVER__LISTEN="127.0.0.1:0", **more)
        listener = Listener(config=lambda: config, steps=lambda: STEPS)
        listener.start()
        assert listener.trouble == ""
        running.append(listener)
        return Asker(listener)

    yield serve
    for listener in running:
        listener.stop()


# Where it listens


def test_it_listens_nowhere_unless_it_is_told_to(load):
    listener = Listener(config=load, steps=list)
    listener.start()
    assert (listener.address, listener.trouble) == ("", "")


@pytest.mark.row(57)
@pytest.mark.parametrize(
    "address", ["0.0.0.0:8766", "[::]:8766", "192.0.2.7:8766", "example.com:1"]
)
def test_off_loopback_it_is_refused_without_a_token_file(load, address):
    with pytest.raises(ConfigError, match=r"token_file: is needed to listen on .*127\.0\.0\.1"):
        load(SYNCD_SERVER__LISTEN=address)


@pytest.mark.row(57)
def test_off_loopback_it_listens_with_a_token_file(load, tmp_path):
    config = load(
        SYNCD_SERVER__LISTEN="0.0.0.0:8766", SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token")
    )
    assert config.server_token.get_secret_value() == TOKEN
    assert TOKEN in config.secrets()
    assert TOKEN not in repr(config)


def test_a_token_that_can_be_guessed_is_refused(load, tmp_path):
    (tmp_path / "token").write_text("short")
    with pytest.raises(ConfigError, match="fewer than 16 characters"):
        load(SYNCD_SERVER__LISTEN="[::1]:1", SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))


@pytest.mark.row(54)
def test_a_token_file_that_everybody_may_write_is_refused(load, tmp_path):
    (tmp_path / "token").chmod(0o666)
    with pytest.raises(ConfigError, match=r"token_file: everyone .* may write the file"):
        load(SYNCD_SERVER__LISTEN="[::1]:1", SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))


def test_a_port_that_is_taken_is_told_of_and_ends_nothing(load, store, caplog):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        config = load(SYNCD_SERVER__LISTEN=address)
        listener = Listener(config=lambda: config, steps=list)
        listener.start()
        listener.stop()
    assert listener.trouble == f"cannot listen on {address}: Address already in use"
    assert listener.trouble in caplog.text


# Whom it answers


@pytest.mark.row(58)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8766"}, 200),
        ({"Host": "[::1]:8766"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8766"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "192.0.2.1"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Host": "[nonsense"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "https://localhost"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost:81"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
    ],
)
def test_host_and_origin_must_be_its_own(serve, store, headers, status):
    beat(store.directory)
    assert serve()("/healthz", **headers)[0] == status


@pytest.mark.row(58)
def test_a_second_host_header_does_not_help(serve, store):
    asker = serve()
    with socket.create_connection((asker.host, asker.port)) as raw:
        raw.sendall(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert raw.recv(100).split()[1] in (b"400", b"403")


@pytest.mark.long
@pytest.mark.row(58)
@pytest.mark.parametrize("path", ["/healthz", "/status.json", "/control/retry", "/nowhere"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed_and_no_other_site_is_let_in(serve, store, path, method):
    status, headers, _ = serve()(path, method, "x=1", Content_Type="text/plain")
    assert status in (404, 405)
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.row(58)
@pytest.mark.parametrize("path", ["/status.json", "/nowhere", "/metrics"])
def test_every_answer_forbids_framing_guessing_and_keeping(serve, store, path):
    _, headers, _ = serve()(path)
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.row(58)
@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer ", 401),
        (TOKEN, 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer caf\xe9", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
    ],
)
def test_where_a_token_is_wanted_it_is_needed_for_all_but_the_probes(
    serve, store, tmp_path, given, status
):
    beat(store.directory)
    asker = serve(SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))
    headers = {"Authorization": given} if given else {}
    for path in ("/metrics", "/status.json", "/ls.json", "/page.json"):
        answered, told, body = asker(path, **headers)
        if status == 401:
            assert answered == 401
            assert told["WWW-Authenticate"].startswith("Bearer")
            assert TOKEN.encode() not in body
        else:
            assert answered != 401
    # The token alone is not enough.
    assert asker("/healthz", Host="evil.example", Authorization=f"Bearer {TOKEN}")[0] == 403


@pytest.mark.row(57)
def test_the_probes_need_no_token_and_answer_yes_or_no(serve, store, tmp_path):
    beat(store.directory, api_state="refused")
    asker = serve(SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))
    assert asker("/healthz")[::2] == (200, b"ok\n")
    status, _, body = asker("/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False})


def test_metrics_can_be_opened_to_all_and_nothing_else_is(serve, store, tmp_path):
    beat(store.directory)
    token = str(tmp_path / "token")
    asker = serve(SYNCD_SERVER__TOKEN_FILE=token, SYNCD_SERVER__METRICS="open")
    assert asker("/metrics")[0] == 200
    assert asker("/status.json")[0] == 401


@pytest.mark.row(58)
def test_it_is_called_by_the_names_that_are_allowed(serve, store):
    beat(store.directory)
    asker = serve(SYNCD_SERVER__ALLOWED_HOSTS='["sync.example"]')
    assert asker("/healthz", Host="Sync.example:8766")[0] == 200
    status, _, body = asker("/healthz", Host="other.example")
    assert status == 403
    assert b"[server] allowed_hosts" in body


def test_off_loopback_it_is_called_by_any_address_or_its_own_name():
    guard = Guard(None, hosts={"sync-1"}, any_address=True, token="")
    assert guard._is_ours("10.1.2.3:8766")
    assert guard._is_ours("[2001:db8::1]:8766")
    assert guard._is_ours("SYNC-1")
    assert not guard._is_ours("evil.example")


@pytest.mark.row(58)
def test_the_page_is_given_without_a_token_for_it_asks_for_one_and_holds_none(
    serve, store, tmp_path
):
    asker = serve(SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))
    status, headers, body = asker("/")
    assert (status, body) == (200, page.HTML)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers.get_all("Content-Security-Policy") == [page.POLICY]
    assert headers["X-Frame-Options"] == "DENY"
    assert asker("/", Host="evil.example")[0] == 403
    assert asker("/page.json")[0] == 401
    assert asker("/page.json", Authorization=f"Bearer {TOKEN}")[0] == 200


# What it answers


def test_the_page_reads_the_document_the_failures_and_the_last_hour(serve, store, monkeypatch):
    minutes = [0.0]
    hour = metrics.LastHour(monotonic=lambda: 60 * minutes[0])
    monkeypatch.setattr(listener_module, "UPLOADED_LAST_HOUR", hour)
    hour.add(5)
    minutes[0] = 2
    hour.add(7)
    hour.add(8)

    def fail(db):
        file = files.find(db, "drop", b"b/d \xff.txt")
        offer = Offer(file.id, file.fingerprint, "a" * 64, "text/plain", "direct", vacated=())
        ledger = Ledger(policies={"drop": Policy()}, instance=store.instance)
        copy = ledger.begin(db, offer, time.time())
        ledger.refused(db, copy.id, Failure("no", status=415, request_id="req-1"), time.time())

    store.write(fail)
    beat(store.directory)
    told = serve().json("/page.json")
    assert told["counts"] == {"queued": 3, "failed": 1}
    assert told["failures"] == [
        {
            "folder": "drop",
            "path": "b/d \\xff.txt",
            "path_b64": "Yi9kIP8udHh0",
            "error": "no (status 415, request req-1)",
            "request_id": "req-1",
        }
    ]
    assert told["hour"][-3:] == [[1, 5], [0, 0], [2, 15]]
    assert len(told["hour"]) == 60
    minutes[0] = 500
    assert hour.minutes() == [(0, 0)] * 60


def test_healthz_is_about_the_process_and_readyz_about_its_job(serve, store):
    asker = serve()
    assert asker("/healthz")[0] == 503
    beat(store.directory, api_state="refused")
    assert asker("/healthz")[::2] == (200, b"ok\n")
    status, _, body = asker("/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False}


def test_a_failed_file_or_a_deletion_held_keeps_nobody_from_being_ready(serve, store):
    beat(store.directory, api_state="ok")
    store.write(
        lambda db: holds.place(
            db, stops="deletions", scope="drop", reason="r", message="m", now=time.time()
        )
    )
    asker = serve()
    assert asker.json("/readyz") == {"ready": True}
    assert asker.json("/status.json")["well"] is False


def test_status_is_the_document_of_the_command(serve, store):
    beat(store.directory)
    told = serve().json("/status.json")
    assert list(told) == [
        *("version", "well", "reasons", "daemon", "folders", "counts", "transfers", "holds", "api"),
    ]
    assert told["counts"] == {"queued": len(NAMES)}


def test_the_manifest_comes_in_pages_each_file_once_and_in_order(serve, store):
    asker, seen, after = serve(), [], ""
    while after is not None:
        page = asker.json(f"/ls.json?limit=1&after={after}")
        assert len(page["files"]) == 1
        seen += [entry["path"] for entry in page["files"]]
        after = page["next"]
    assert seen == ["a.txt", "b/c.txt", "b/d \\xff.txt", "z<script>.mp4"]


def test_no_answer_holds_a_character_that_a_terminal_obeys(serve, store):
    row = "UPDATE files SET path = ? WHERE path = ?"
    store.write(lambda db: db.conn.execute(row, ["\x9b2J\u202ea.txt".encode(), b"a.txt"]))
    status, _, body = serve()("/ls.json")
    assert (status, body.isascii()) == (200, True)
    assert "\x9b2J\u202ea.txt" in [file["path"] for file in json.loads(body)["files"]]


def test_the_manifest_is_searched_and_filtered(serve, store):
    asker = serve()

    def paths(query):
        return [entry["path"] for entry in asker.json(f"/ls.json?{query}")["files"]]

    assert paths("search=SCRIPT") == ["z<script>.mp4"]
    assert paths("search=b/") == ["b/c.txt", "b/d \\xff.txt"]
    assert paths("search=%25") == []
    assert paths("status=queued&limit=2") == ["a.txt", "b/c.txt"]
    assert paths("status=synced") == []
    assert paths("folder=other") == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "status=odd", "after=x", "after=" + "W" * 4000]
)
def test_a_question_that_makes_no_sense_is_told_so(serve, store, query):
    status, _, body = serve()(f"/ls.json?{query}")
    assert status == 400
    assert "error" in json.loads(body)


def test_many_searches_wait_for_their_turn_and_keep_nothing_else_waiting(store, serve, monkeypatch):
    monkeypatch.setattr(listener_module, "TURN_SECONDS", 0.1)
    asker = serve()
    begun = threading.Semaphore(0)
    free = threading.Event()
    look = listener_module.manifest.page

    def slow(*args, **kwargs):
        begun.release()
        assert free.wait(10)
        return look(*args, **kwargs)

    monkeypatch.setattr(listener_module.manifest, "page", slow)
    answers = []
    searches = [
        threading.Thread(target=lambda: answers.append(asker("/ls.json?search=a")[0]))
        for _ in range(listener_module.LOOKS)
    ]
    for search in searches:
        search.start()
    for _ in searches:
        assert begun.acquire(timeout=10)
    status, _, body = asker("/ls.json?search=b")
    assert (status, json.loads(body)) == (503, {"error": "others are searching; try again"})
    assert asker("/status.json")[0] == 200
    free.set()
    for search in searches:
        search.join(10)
    assert answers == [200] * listener_module.LOOKS
    assert asker("/ls.json?search=b")[0] == 200


def test_a_files_story_is_told_by_its_exact_name(serve, store):
    asker = serve()
    assert asker.json("/why.json?folder=drop&path=b/c.txt")["path"] == "b/c.txt"
    exact = asker.json("/why.json?folder=drop&path_b64=Yi9kIP8udHh0")
    assert exact["path_b64"] == "Yi9kIP8udHh0"
    for query in ("folder=drop&path=none", "folder=none&path=a.txt", "path=a.txt", "folder=drop"):
        assert asker(f"/why.json?{query}")[0] == 404
    assert asker("/why.json?folder=drop&path=../../etc/passwd")[0] == 404


# Metrics


def test_metrics_are_well_formed_and_tell_how_things_stand(serve, store, monkeypatch):
    monkeypatch.setattr(metrics.REQUESTS, "_values", {("upload", "503"): 2.0})
    beat(store.directory, api_state="unreachable", last_success_at=1234.5)
    status, headers, body = serve()("/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert values["syncd_files", ("folder", "drop"), ("status", "queued")] == len(NAMES)
    assert values["syncd_files", ("folder", "drop"), ("status", "synced")] == 0
    assert values["syncd_oldest_queued_seconds", ("folder", "drop")] >= 30
    assert values["syncd_api_requests_total", ("operation", "upload"), ("status", "503")] == 2
    assert values["syncd_api_state", ("syncd_api_state", "unreachable")] == 1
    assert values["syncd_api_state", ("syncd_api_state", "ok")] == 0
    assert values["syncd_last_contact_timestamp_seconds",] == 1234.5
    assert values["syncd_ready",] == 0
    assert values["syncd_doubts",] == 0
    assert values["syncd_holds", ("stops", "sending")] == 0
    assert values["syncd_watch_coverage_ratio", ("folder", "drop")] == 0
    assert values["syncd_step_failures_total", ("step", "upload")] == 1
    assert values["process_open_fds",] > 3


def test_no_metric_holds_a_path_or_a_secret(serve, store, tmp_path):
    beat(store.directory)
    asker = serve(SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))
    _, _, body = asker("/metrics", Authorization=f"Bearer {TOKEN}")
    text = body.decode()
    assert "syncd_files{" in text
    for secret in (TOKEN, "k" * 20, str(tmp_path), "a.txt", "<script>"):
        assert secret not in text


def test_names_keep_to_the_conventions(serve, store):
    """Counters end in _total, units are base units, and every name is ours or the process's."""
    beat(store.directory)
    families = list(text_string_to_metric_families(serve()("/metrics")[2].decode()))
    for family in families:
        assert re.fullmatch(r"(syncd|process|python)_[a-z_]+", family.name), family.name
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent|count)$", family.name), family.name


# In a daemon


def test_a_daemon_serves_while_it_runs_and_leaves_no_thread(load):
    before = set(threading.enumerate())
    config = load(SYNCD_SERVER__LISTEN="127.0.0.1:0")
    stop = threading.Event()
    with opened(config) as parts:
        daemon = Daemon(config=config, parts=parts, stop=stop)
        thread = threading.Thread(target=daemon.run, args=(threading.Event(),))
        thread.start()
        deadline = time.monotonic() + 20
        while not vitals.is_alive(config.state.directory, time.time()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        asker = Asker(daemon._listener)
        assert asker("/healthz")[0] == 200
        assert b'syncd_step_runs_total{step="upload"}' in asker("/metrics")[2]
        stop.set()
        thread.join(20)
    assert set(threading.enumerate()) <= before
    with pytest.raises(OSError, match="refused"):
        asker("/healthz")
