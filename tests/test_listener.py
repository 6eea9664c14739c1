"""The listener: its address, its access rules and its answers."""

import csv
import http.client
import io
import json
import os
import re
import socket
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from syncd import daemon as daemon_module, heartbeat, metrics
from syncd.components import opened
from syncd.config import loading as configuration
from syncd.daemon import Daemon
from syncd.disk import Fingerprint
from syncd.exceptions import ConfigError
from syncd.identity import RootIdentity
from syncd.scheduler import StepReport
from syncd.server import exposition, listener as listener_module, page
from syncd.server.exposition import NAMED_STEPS, StateCollector
from syncd.server.guard import Guard
from syncd.server.listener import Listener
from syncd.state import files, folders, holds
from syncd.state.database.store import Store
from syncd.state.ledger import Failure, Ledger, Offer, Stored
from syncd.state.lifecycle import FileStatus
from syncd.state.planner import Policy

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
    facts = {"folders": {"drop": heartbeat.FolderHealth("native", directories=2)}, **more}
    heartbeat.write(
        directory, heartbeat.Heartbeat("1", os.getpid(), time.time(), time.time(), **facts)
    )


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


# Address


def test_the_listener_is_off_by_default(load):
    listener = Listener(config=load, steps=list)
    listener.start()
    assert (listener.address, listener.trouble) == ("", "")


@pytest.mark.row(57)
@pytest.mark.parametrize(
    "address", ["0.0.0.0:8766", "[::]:8766", "192.0.2.7:8766", "example.com:1"]
)
def test_listening_off_loopback_is_refused_without_a_token_file(load, address):
    with pytest.raises(ConfigError, match=r"token_file: is needed to listen on .*127\.0\.0\.1"):
        load(SYNCD_SERVER__LISTEN=address)


@pytest.mark.row(57)
def test_listening_off_loopback_is_allowed_with_a_token_file(load, tmp_path):
    config = load(
        SYNCD_SERVER__LISTEN="0.0.0.0:8766", SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token")
    )
    assert config.server_token.get_secret_value() == TOKEN
    assert TOKEN in config.secrets()
    assert TOKEN not in repr(config)


def test_a_short_token_is_refused(load, tmp_path):
    (tmp_path / "token").write_text("short")
    with pytest.raises(ConfigError, match="fewer than 16 characters"):
        load(SYNCD_SERVER__LISTEN="[::1]:1", SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))


@pytest.mark.row(54)
def test_a_world_writable_token_file_is_refused(load, tmp_path):
    (tmp_path / "token").chmod(0o666)
    with pytest.raises(ConfigError, match=r"token_file: everyone .* may write the file"):
        load(SYNCD_SERVER__LISTEN="[::1]:1", SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))


def test_a_port_in_use_is_reported_and_the_daemon_goes_on(load, store, caplog):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        config = load(SYNCD_SERVER__LISTEN=address)
        listener = Listener(config=lambda: config, steps=list)
        listener.start()
        listener.stop()
    assert listener.trouble == f"cannot listen on {address}: Address already in use"
    assert listener.trouble in caplog.text


# Access


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
def test_foreign_host_and_origin_headers_are_refused(serve, store, headers, status):
    beat(store.directory)
    assert serve()("/healthz", **headers)[0] == status


@pytest.mark.row(58)
def test_a_second_host_header_is_refused(serve, store):
    asker = serve()
    with socket.create_connection((asker.host, asker.port)) as raw:
        raw.sendall(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert raw.recv(100).split()[1] in (b"400", b"403")


@pytest.mark.long
@pytest.mark.row(58)
@pytest.mark.parametrize("path", ["/healthz", "/status.json", "/control/retry", "/nowhere"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_get_is_allowed_and_no_cors_headers_are_sent(serve, store, path, method):
    status, headers, _ = serve()(path, method, "x=1", Content_Type="text/plain")
    assert status in (404, 405)
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.row(58)
@pytest.mark.parametrize("path", ["/status.json", "/nowhere", "/metrics"])
def test_every_answer_forbids_framing_sniffing_and_storing(serve, store, path):
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
def test_a_configured_token_is_required_except_for_probes(serve, store, tmp_path, given, status):
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


def test_open_metrics_need_no_token_but_everything_else_does(serve, store, tmp_path):
    beat(store.directory)
    token = str(tmp_path / "token")
    asker = serve(SYNCD_SERVER__TOKEN_FILE=token, SYNCD_SERVER__METRICS="open")
    assert asker("/metrics")[0] == 200
    assert asker("/status.json")[0] == 401


@pytest.mark.row(58)
def test_allowed_hosts_are_accepted(serve, store):
    beat(store.directory)
    asker = serve(SYNCD_SERVER__ALLOWED_HOSTS='["sync.example"]')
    assert asker("/healthz", Host="Sync.example:8766")[0] == 200
    status, _, body = asker("/healthz", Host="other.example")
    assert status == 403
    assert b"[server] allowed_hosts" in body


def test_off_loopback_any_address_and_the_own_name_are_accepted():
    guard = Guard(None, hosts={"sync-1"}, any_address=True, token="")
    assert guard._is_ours("10.1.2.3:8766")
    assert guard._is_ours("[2001:db8::1]:8766")
    assert guard._is_ours("SYNC-1")
    assert not guard._is_ours("evil.example")


@pytest.mark.row(58)
def test_the_page_needs_no_token_and_contains_no_data(serve, store, tmp_path):
    asker = serve(SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))
    status, headers, body = asker("/")
    assert (status, body) == (200, page.HTML)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers.get_all("Content-Security-Policy") == [page.POLICY]
    assert headers["X-Frame-Options"] == "DENY"
    assert asker("/", Host="evil.example")[0] == 403
    assert asker("/page.json")[0] == 401
    assert asker("/page.json", Authorization=f"Bearer {TOKEN}")[0] == 200


# Answers


def sync(db, instance, path, number, now):
    """Have a file stored, at a time."""
    file = files.find(db, "drop", path)
    offer = Offer(file.id, file.fingerprint, "b" * 64, "text/plain", "direct", vacated=())
    ledger = Ledger(policies={"drop": Policy()}, instance=instance)
    copy = ledger.begin(db, offer, now)
    stored = Stored(f"00000000-0000-4000-8000-{number:012d}", "r", None)
    ledger.stored(db, copy.id, stored, now, look=now)


def test_the_page_reads_the_document_failures_with_what_helps_and_the_last_day(serve, store):
    now = time.time()

    def fill(db):
        file = files.find(db, "drop", b"b/d \xff.txt")
        offer = Offer(file.id, file.fingerprint, "a" * 64, "text/plain", "direct", vacated=())
        ledger = Ledger(policies={"drop": Policy()}, instance=store.instance)
        copy = ledger.begin(db, offer, now)
        ledger.refused_for_good(db, copy.id, Failure("no", status=415, request_id="req-1"), now)
        sync(db, store.instance, b"a.txt", 1, now - 3600)
        sync(db, store.instance, b"z<script>.mp4", 2, now - 60)
        sync(db, store.instance, b"b/c.txt", 3, now - 90_000)
        # Other events of a copy are no uploads.
        db.conn.execute(
            "INSERT INTO history (at, folder, path, event, file_uuid, detail) "
            "SELECT ?, folder, path, 'kept', file_uuid, '' FROM history WHERE event = 'synced'",
            [now],
        )

    store.write(fill)
    beat(store.directory)
    told = serve().json("/page.json")
    assert told["counts"] == {"synced": 3, "failed": 1}
    (failure,) = told["failures"]
    assert failure["path_b64"] == "Yi9kIP8udHh0"
    assert failure["error"] == "no (status 415, request req-1)"
    assert failure["request_id"] == "req-1"
    says, command = failure["advice"]
    assert "when its content changes" in says
    assert command.startswith("syncd retry ")
    assert [file["path"] for file in told["recent"]] == ["z<script>.mp4", "a.txt", "b/c.txt"]
    size = told["recent"][0]["size"]
    assert told["day"][-1] == [1, size]
    assert told["day"][-5] == [1, size]
    assert sum(part[0] for part in told["day"]) == 2
    assert len(told["day"]) * told["day_part_seconds"] == 86_400


def test_healthz_reports_the_process_and_readyz_its_job(serve, store):
    asker = serve()
    assert asker("/healthz")[0] == 503
    beat(store.directory, api_state="refused")
    assert asker("/healthz")[::2] == (200, b"ok\n")
    status, _, body = asker("/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False}


def test_failed_files_and_held_deletions_do_not_affect_readiness(serve, store):
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
        *("version", "well", "reasons", "daemon", "folders", "counts", "transfers", "sending"),
        *("holds", "paused", "bandwidth", "api"),
    ]
    assert told["counts"] == {"queued": len(NAMES)}


def test_the_pages_of_the_manifest_contain_each_file_once_in_order(serve, store):
    asker, seen, after = serve(), [], ""
    while after is not None:
        page = asker.json(f"/ls.json?limit=1&after={after}")
        assert len(page["files"]) == 1
        seen += [entry["path"] for entry in page["files"]]
        after = page["next"]
    assert seen == ["a.txt", "b/c.txt", "b/d \\xff.txt", "z<script>.mp4"]


def test_answers_contain_no_terminal_control_characters(serve, store):
    row = "UPDATE files SET path = ? WHERE path = ?"
    store.write(lambda db: db.conn.execute(row, ["\x9b2J\u202ea.txt".encode(), b"a.txt"]))
    status, _, body = serve()("/ls.json")
    assert (status, body.isascii()) == (200, True)
    assert "\x9b2J\u202ea.txt" in [file["path"] for file in json.loads(body)["files"]]


def test_the_manifest_can_be_searched_and_filtered(serve, store):
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
def test_an_invalid_query_is_answered_400(serve, store, query):
    status, _, body = serve()(f"/ls.json?{query}")
    assert status == 400
    assert "error" in json.loads(body)


def test_the_manifest_is_had_as_csv_page_by_page(serve, store, monkeypatch):
    monkeypatch.setattr(listener_module, "LONGEST_PAGE", 3)
    asker = serve()
    status, headers, body = asker("/ls.csv")
    assert (status, headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    assert headers["Content-Disposition"] == 'attachment; filename="syncd.csv"'
    rows = list(csv.DictReader(io.StringIO(body.decode(), newline="")))
    assert [row["path"] for row in rows] == ["a.txt", "b/c.txt", "b/d \\xff.txt", "z<script>.mp4"]
    assert asker("/ls.csv?search=b/")[2].count(b"\r\n") == 3
    assert asker("/ls.csv?status=odd")[0] == 400


def test_too_many_searches_wait_and_block_nothing_else(store, serve, monkeypatch):
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
    assert (status, json.loads(body)) == (503, {"error": "other searches are running; try again"})
    assert asker("/status.json")[0] == 200
    free.set()
    for search in searches:
        search.join(10)
    assert answers == [200] * listener_module.LOOKS
    assert asker("/ls.json?search=b")[0] == 200


def test_why_finds_a_file_by_its_exact_name(serve, store):
    asker = serve()
    assert asker.json("/why.json?folder=drop&path=b/c.txt")["path"] == "b/c.txt"
    exact = asker.json("/why.json?folder=drop&path_b64=Yi9kIP8udHh0")
    assert exact["path_b64"] == "Yi9kIP8udHh0"
    for query in ("folder=drop&path=none", "folder=none&path=a.txt", "path=a.txt", "folder=drop"):
        assert asker(f"/why.json?{query}")[0] == 404
    assert asker("/why.json?folder=drop&path=../../etc/passwd")[0] == 404


# Metrics


def test_metrics_are_well_formed_and_show_the_current_state(serve, store, monkeypatch):
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
    assert values["syncd_api_state", ("state", "unreachable")] == 1
    assert values["syncd_api_state", ("state", "ok")] == 0
    assert values["syncd_backlog_bytes", ("folder", "drop")] == 7 * len(NAMES)
    assert values["syncd_uploaded_files_total", ("folder", "drop")] == 0
    assert values["syncd_last_contact_timestamp_seconds",] == 1234.5
    assert values["syncd_ready",] == 0
    assert values["syncd_doubts",] == 0
    assert values["syncd_holds", ("stops", "sending")] == 0
    assert values["syncd_watch_coverage_ratio", ("folder", "drop")] == 0
    assert values["syncd_step_failures_total", ("step", "upload")] == 1
    assert values["process_open_fds",] > 3


def test_metrics_contain_no_path_and_no_secret(serve, store, tmp_path):
    beat(store.directory)
    asker = serve(SYNCD_SERVER__TOKEN_FILE=str(tmp_path / "token"))
    _, _, body = asker("/metrics", Authorization=f"Bearer {TOKEN}")
    text = body.decode()
    assert "syncd_files{" in text
    for secret in (TOKEN, "k" * 20, str(tmp_path), "a.txt", "<script>"):
        assert secret not in text


def test_steps_of_folders_and_hooks_are_counted_together_without_their_names():
    def report(name, runs):
        return StepReport(name, runs, 0, 0.0, None, runs / 2, 1)

    steps = [
        *(report(f"{kind} {name}", 2) for kind in NAMED_STEPS for name in ("my drop", "b")),
        *(report("back up", 1), report("upload", 7)),
    ]
    standing = StateCollector(
        status=dict, doubts=lambda: 0, steps=lambda: steps, free_bytes=lambda: 1
    )
    runs, failures, seconds = standing._step_metrics()
    counted = {sample.labels["step"]: sample.value for sample in runs.samples}
    assert counted == dict.fromkeys(NAMED_STEPS, 4) | {"back up": 1, "upload": 7}
    assert failures.samples[0].value == 2
    assert seconds.samples[0].value == 2.0


def test_every_step_with_a_name_of_its_own_is_known_to_the_metrics():
    source = Path(daemon_module.__file__).read_text()
    named = re.findall(r'add\(f"([^"{]+) \{', source)
    assert sorted(named) == sorted(NAMED_STEPS)


def test_histograms_count_what_took_at_most_so_long(serve, store, monkeypatch):
    histogram = metrics.Histogram("syncd_x_seconds", "X.", (1, 5), "method", known=[("direct",)])
    for seconds in (0.5, 1, 3, 60):
        histogram.observe("direct", seconds=seconds)
    monkeypatch.setattr(exposition, "HISTOGRAMS", (histogram,))
    beat(store.directory)
    body = serve()("/metrics")[2].decode()
    told = re.findall(
        r'^(syncd_x_seconds_\w+)\{(?:le="(.+?)",)?method="direct"\} (.+)$', body, re.MULTILINE
    )
    assert told == [
        ("syncd_x_seconds_bucket", "1.0", "2.0"),
        ("syncd_x_seconds_bucket", "5.0", "3.0"),
        ("syncd_x_seconds_bucket", "+Inf", "4.0"),
        ("syncd_x_seconds_count", "", "4.0"),
        ("syncd_x_seconds_sum", "", "64.5"),
    ]


def test_metric_names_follow_the_conventions(serve, store):
    """Counters end in _total, units are base units, and every name is ours or the process's."""
    beat(store.directory)
    families = list(text_string_to_metric_families(serve()("/metrics")[2].decode()))
    for family in families:
        # A label that repeats the name tells nothing.
        labels = {label for sample in family.samples for label in sample.labels}
        assert not labels & {family.name, family.name.removeprefix("syncd_")}, family.name
        assert re.fullmatch(r"(syncd|process|python)_[a-z_]+", family.name), family.name
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent|count)$", family.name), family.name


# In a daemon


def test_a_daemon_serves_while_it_runs_and_leaves_no_thread(load):
    before = set(threading.enumerate())
    config = load(SYNCD_SERVER__LISTEN="127.0.0.1:0")
    stop = threading.Event()
    with opened(config) as parts:
        daemon = Daemon(config=config, components=parts, stop=stop)
        thread = threading.Thread(target=daemon.run, args=(threading.Event(),))
        thread.start()
        deadline = time.monotonic() + 20
        while not heartbeat.is_alive(config.state.directory, time.time()):
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
