"""The doctor's findings, and the remedies that it names."""

import json
import os
import re
import socket
import subprocess
import threading
import time
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from syncd import cli, heartbeat, liveness, log
from syncd.config import loading as configuration
from syncd.config.digest import digests
from syncd.disk import Fingerprint
from syncd.emulator import Emulator
from syncd.exceptions import ConfigError
from syncd.files_api.errors import PROXY_REFUSED
from syncd.mounts import Mount
from syncd.report import doctor, doctor_folders, doctor_state, findings
from syncd.state import echo, files, folders, holds, hooks
from syncd.state.database import directory
from syncd.state.database.store import Store
from syncd.state.holds import REPLACE
from syncd.state.ledger import Ledger, Offer, Stored
from syncd.state.observations import Observation, Seen, Settling, record
from syncd.state.planner import Policy

KEY = "a-key-of-the-doctor"


@pytest.fixture
def home(tmp_path):
    (tmp_path / "drop").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    with Emulator(data=tmp_path_factory.mktemp("emulator"), api_key=KEY) as running:
        yield running


@pytest.fixture
def examine(home, emulator):
    """Return the findings by name, and the exit code."""

    def run(**more):
        environ = {
            "AYMARA_AI_API_KEY": KEY,
            "SYNCD_API__BASE_URL": emulator.url,
            "SYNCD_STATE__DIRECTORY": str(home / "state"),
            "SYNCD_WATCH": str(home / "drop"),
        } | more
        environ = {name: value for name, value in environ.items() if value is not None}

        def load(problems):
            return configuration.load(
                config=None, environ=environ, working_directory=home, problems=problems
            )

        found = list(doctor.examine(load))
        for finding in found:
            assert bool(finding.fix) is not finding.good, finding
            assert KEY not in f"{finding.text} {finding.fix}"
        return {finding.name: finding for finding in found}, findings.exit_code(found)

    return run


@pytest.fixture
def store(home, emulator):
    opened = Store(home / "state")
    opened.open(time.time())
    opened.bind("base_url", emulator.url, advice="")
    yield opened
    opened.close()


def test_a_machine_that_is_well_has_nothing_but_good_lines(examine):
    found, code = examine()
    assert code == 0, found
    assert {"version", "configuration", "key", "service", "clock", "state", "watches"} <= {*found}
    assert found["state"].text.endswith("will be made by the first run")


def test_a_probe_adds_what_the_service_does(home, emulator, monkeypatch, capsys):
    monkeypatch.setenv("AYMARA_AI_API_KEY", KEY)
    monkeypatch.setenv("SYNCD_API__BASE_URL", emulator.url)
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(home / "state"))
    monkeypatch.setenv("SYNCD_WATCH", str(home / "drop"))
    assert cli.call(["doctor", "--probe", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    told = [check["text"] for check in checks if check["name"] == "probe"]
    assert "a second DELETE is answered with 404: syncd takes it for deleted" in told
    assert "a presigned PUT must repeat the content type: syncd does" in told
    assert "a presigned URL is valid for 30 min: syncd then asks for another" in told


def test_it_writes_nothing(examine, home):
    examine()
    assert not (home / "state").exists()


@pytest.fixture
def answering(monkeypatch):
    """The daemon that beats also answers on its socket."""
    monkeypatch.setattr(liveness, "asked", lambda _: {"beat_at": time.time()})


@pytest.mark.usefixtures("answering")
def test_a_state_in_use_is_whole_its_daemon_works_and_the_echo_is_known(examine, store, home):
    store.write(lambda db: echo.learn(db, "direct", echo.Learned(echo=True, skew=0.0)))
    heartbeat.write(
        home / "state", heartbeat.Heartbeat(doctor.__version__, os.getpid(), 0.0, time.time())
    )
    found, code = examine()
    assert code == 0, found
    assert found["database"].text == "whole"
    assert found["echo"].text == "the service echoes the names it is sent (direct uploads)"
    assert found["daemon"].good


@pytest.mark.parametrize(
    ("api_state", "code", "name", "text"),
    [
        ("ok", 0, "key", "the service accepts the daemon's"),
        ("unknown", 0, "key", "not checked: it is the daemon's, and not used yet"),
        ("refused", 77, "key", "the service refuses the daemon's"),
        ("unreachable", 1, "service", "the daemon cannot reach it"),
    ],
)
@pytest.mark.usefixtures("answering")
def test_where_only_the_daemon_has_the_key_it_is_asked(
    examine, store, home, api_state, code, name, text
):
    facts = heartbeat.Heartbeat(
        doctor.__version__, os.getpid(), 0.0, time.time(), {}, [], api_state, None
    )
    heartbeat.write(home / "state", facts)
    found, ended = examine(AYMARA_AI_API_KEY=None)
    assert (ended, found[name].text) == (code, text)
    # Other faults are told all the same.
    assert examine(AYMARA_AI_API_KEY=None, SYNCD_API__CA_FILE="/none")[1] == 78


def test_a_refused_key_is_77_and_names_its_source(examine):
    found, code = examine(AYMARA_AI_API_KEY="another-key")
    assert code == 77
    assert found["key"].text.startswith("AYMARA_AI_API_KEY: ")
    assert "another-key" not in found["key"].text
    assert found["key"].fix == "put a valid key into AYMARA_AI_API_KEY; then start syncd again"


def test_a_refused_key_of_a_file_is_taken_up_once_the_file_holds_another(examine, home):
    (home / "key").touch(mode=0o600)
    (home / "key").write_text("another-key")
    more = {"AYMARA_AI_API_KEY": None, "AYMARA_AI_API_KEY_FILE": str(home / "key")}
    assert examine(**more)[0]["key"].fix.endswith("syncd rereads it by itself")


def test_a_bad_configuration_is_78_and_the_rest_is_examined_all_the_same(examine, home):
    found, code = examine(AYMARA_AI_API_KEY=None)
    assert code == 78
    assert "no API key" in found["configuration"].text
    assert found["folder drop"].good
    (home / "syncd.toml").write_text("wrong = 1")
    found, code = examine()
    assert code == 78
    assert "wrong: unknown setting" in found["configuration"].text


@pytest.mark.parametrize("wrong", ["file", "SYNCD_API__CA_FILE", "SYNCD_UPLOAD__WORKERS"])
def test_everything_is_examined_where_one_thing_is_wrong(examine, home, wrong):
    whole, _ = examine()
    (home / "ca.pem").write_text("no certificate")
    if wrong == "file":
        (home / "syncd.toml").write_text(
            f'wrong = 1\n[api]\nca_file = "{home}/ca.pem"\ntimeout_seconds = "long"\n'
        )
    found, code = examine(**({} if wrong == "file" else {wrong: str(home / "ca.pem")}))
    assert code == 78
    assert not found["configuration"].good
    assert found.keys() == whole.keys()
    # With another proxy, authority or certificate than is meant, the service is not called.
    is_sure = wrong == "SYNCD_UPLOAD__WORKERS"
    assert {found[name].good for name in ("service", "key", "clock")} == {is_sure or None}
    assert found["folder drop"].good


@pytest.mark.parametrize(
    "wrong",
    [
        {"SYNCD_API__PROXY": "socks5://127.0.0.1:1"},
        {"SYNCD_API__PROXY": "127.0.0.1:3128"},
        {"SYNCD_API__PROXY": "http://user:a#b@127.0.0.1:1"},
        {"SYNCD_API__CLIENT_CERT": "/none"},
        {"SYNCD_API__TIMEOUT_SECONDS": "long"},
    ],
)
def test_a_bad_setting_is_not_left_out_to_call_the_service_without_it(examine, emulator, wrong):
    before = len(httpx.get(f"{emulator.url}/_emulator/requests").text)
    found, code = examine(**wrong)
    assert code == 78
    assert found["service"].text == "not checked: [api] is bad"
    assert len(httpx.get(f"{emulator.url}/_emulator/requests").text) == before


def test_a_state_directory_that_is_bad_has_no_other_examined(examine):
    found, code = examine(SYNCD_STATE__ON_NEW="whatever")
    assert (code, found["state"].good) == (78, None)
    assert "database" not in found


def test_a_misspelt_variable_is_told_with_the_right_one(examine):
    found, code = examine(SYNCD_API__CAFILE="/ca.pem")
    assert (code, found["configuration"].fix) == (1, "did you mean SYNCD_API__CA_FILE?")
    assert found["key"].good


@pytest.mark.parametrize("password", ["a b", "a#b", "a/b", "a?b"])
def test_how_to_write_a_proxys_password_is_told_and_survives_the_log(examine, password):
    found, _ = examine(SYNCD_API__PROXY=f"http://user:{password}@proxy:3128")
    told = found["configuration"]
    assert "user:password@" in log.redacted(f"{told.text} {told.fix}")
    assert "percent-encoded" in told.fix
    assert "user:password@" in log.redacted(PROXY_REFUSED)
    assert password not in told.text + told.fix


@pytest.mark.usefixtures("answering")
def test_what_stands_beside_a_daemon_names_only_the_state(examine, store, home):
    """The service is the daemon's: this shell need not name it."""
    facts = heartbeat.Heartbeat(
        doctor.__version__, os.getpid(), 0.0, time.time(), {}, [], "ok", time.time()
    )
    heartbeat.write(home / "state", facts)
    found, code = examine(AYMARA_AI_API_KEY=None, SYNCD_API__BASE_URL=None, SYNCD_WATCH=None)
    assert (code, found["database"].good) == (0, True), found


def test_the_service_is_examined_without_a_key(examine):
    found, code = examine(AYMARA_AI_API_KEY=None)
    assert code == 78
    assert found["service"].good
    assert found["key"].text == "not checked: there is none"


def test_a_service_that_is_not_there_is_told_with_what_to_check(examine):
    found, code = examine(SYNCD_API__BASE_URL="http://127.0.0.1:9")
    assert code == 1
    assert "Connection refused" in found["service"].text
    assert "base_url" in found["service"].fix
    for name in ("key", "clock"):
        assert found[name].good is None
        assert found[name].text == "not checked: the service does not answer"


def test_a_key_file_that_everybody_may_read_is_told_with_the_command(examine, home):
    (home / "key").write_text(KEY)
    (home / "key").chmod(0o644)
    found, code = examine(AYMARA_AI_API_KEY=None, AYMARA_AI_API_KEY_FILE=str(home / "key"))
    assert code == 1
    assert found["configuration"].fix == f"chmod 600 {home / 'key'}"


def test_one_subject_has_one_verdict(home, monkeypatch):
    """A thing that is warned of is not called good beside it."""
    (home / "key").write_text(KEY)
    (home / "key").chmod(0o644)
    environ = {"AYMARA_AI_API_KEY_FILE": str(home / "key"), "SYNCD_WATCH": str(home / "drop")}
    environ |= {"SYNCD_STATE__DIRECTORY": str(home / "state"), "SYNCD_API__BASE_URL": "http://x"}

    def load(problems):
        return configuration.load(
            config=None, environ=environ, working_directory=home, problems=problems
        )

    verdicts = [one.good for one in doctor.examine(load) if one.name == "configuration"]
    assert verdicts == [False]


def test_variables_that_kubernetes_injects_are_no_fault(examine):
    assert examine(SYNCD_SERVICE_HOST="10.0.0.1", SYNCD_PORT_8766_TCP="x")[1] == 0


@pytest.mark.row(42)
@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3600, "this machine is 3"),
        (-3600, "this machine is 3"),
        (30, "agrees"),
        (-30, "agrees"),
        (None, "does not tell"),
    ],
)
def test_the_clock_is_compared_with_the_services(examine, seconds, said):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"items": [], "count": 0}'
            self.send_response_only(200)
            if seconds is not None:
                self.send_header("Date", formatdate(time.time() + seconds, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        found, code = examine(SYNCD_API__BASE_URL=f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert said in found["clock"].text
    assert code == (1 if seconds and abs(seconds) > 60 else 0)
    if seconds and abs(seconds) > 60:
        assert ("behind" if seconds > 0 else "ahead of") in found["clock"].text


def page(status, body, **headers):
    """Return what a server answers to anything."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} x\r\n{fields}content-length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@pytest.mark.parametrize(
    ("answer", "said", "fix"),
    [
        (b"", "no whole answer", "try https:// in base_url"),
        (page(200, "<html>Log in"), "cannot read the answer", "a portal or a proxy"),
        (page(302, "", location="https://login.test/?s=1"), "to login.test by https", "portal"),
        (page(401, "Unauthorized"), "by a proxy?", "put a valid key into AYMARA_AI_API_KEY"),
        (page(407, ""), "refuses user and password", "user:password@ before its host"),
    ],
)
def test_what_answers_in_the_services_place_is_told_with_a_remedy_of_its_own(
    examine, answer, said, fix
):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve():
            with suppress(TimeoutError), listener.accept()[0] as caller:
                caller.recv(65_536)
                caller.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        found, code = examine(SYNCD_API__BASE_URL=f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    told = found["key"] if code == 77 else found["service"]
    assert said in told.text
    assert fix in told.fix
    assert "s=1" not in told.text


def test_a_proxy_that_is_not_there_is_called_one(examine):
    found, _ = examine(SYNCD_API__PROXY="http://user:password@127.0.0.1:9")
    assert "the proxy cannot be reached: 127.0.0.1:9: " in found["service"].text
    assert found["service"].fix.startswith("check [api] proxy")
    assert "password" not in found["service"].text


@pytest.mark.row(54)
def test_a_state_that_is_open_to_others_is_bad(examine, store, home):
    (home / "state").chmod(0o755)
    found, code = examine()
    assert code == 1
    assert found["state"].fix == f"chmod 700 {home / 'state'}"


@pytest.mark.parametrize("name", ["", "state.db", "lock"])
def test_a_state_that_this_user_may_not_use_is_no_damage(examine, store, home, monkeypatch, name):
    closed, allowed = home / "state" / name, os.access
    monkeypatch.setattr(
        doctor_state.os, "access", lambda path, mode: path != closed and allowed(path, mode)
    )
    found, code = examine()
    assert code == 1
    assert found["state"].text == f"user {os.getuid()} may not use {closed}"
    assert f"chown -R {os.getuid()} {home / 'state'}" in found["state"].fix
    assert "database" not in found


def test_a_state_directory_that_is_a_file_is_told(examine, home):
    (home / "state").write_text("a letter to my aunt")
    found, code = examine()
    assert code == 1
    assert found["state"].text.endswith("is no directory")
    assert "database" not in found


def test_a_state_of_another_service_is_78(examine, store):
    store.set_fact("base_url", "https://elsewhere.test")
    store.set_fact("organization", "o")
    # It was only tried.
    assert examine()[1] == 1
    store.set_fact("probe left", "[]")
    found, code = examine()
    assert code == 78
    assert "belongs to https://elsewhere.test" in found["service"].text


def test_a_damaged_database_is_told(examine, store, home):
    def fill(db):
        rows = ((0.0, "drop", os.urandom(200), "e") for _ in range(200))
        sql = "INSERT INTO history (at, folder, path, event) VALUES (?, ?, ?, ?)"
        db.conn.executemany(sql, rows)

    store.write(fill)
    store.close()
    path = home / "state" / "state.db"
    content = bytearray(path.read_bytes())
    # The pages that other checks read are whole: only a look at all of it finds this.
    content[-4096:] = b"\xa5" * 4096
    path.write_bytes(content)
    found, code = examine()
    assert code == 1
    assert found["database"].text.startswith("damaged: ")
    assert f"mkdir {home}/state/damaged-" in found["database"].fix


def test_a_foreign_database_is_78(examine, home):
    (home / "state").mkdir(mode=0o700)
    (home / "state" / "state.db").write_text("a letter to my aunt" * 100)
    assert examine()[1] == 78


def test_a_daemon_that_does_not_report_is_told(examine, store, home):
    found, code = examine()
    assert code == 1
    assert found["daemon"].text == f"process {os.getpid()} has the state, and does not report"


def synced(store, path=b"a"):
    """Have the folder `drop` hold a file that was synced."""
    ledger = Ledger(policies={"drop": Policy()}, instance=store.instance)
    seen = Observation(path, Seen.PRESENT, Fingerprint(1, 7, 1, 1), None)
    settling = Settling(settle_seconds=0.0, grace_seconds=60.0)

    def work(db):
        folders.note(db, "drop", b"/drop", 1.0)
        record(db, "drop", [seen], settling=settling, policies={"drop": Policy()}, now=1.0)
        file = files.find(db, "drop", path)
        offer = Offer(file.id, file.fingerprint, "a" * 64, "text/plain", "direct", vacated=())
        copy = ledger.begin(db, offer, 2.0)
        uuid = "00000000-0000-4000-8000-000000000001"
        ledger.stored(db, copy.id, Stored(uuid, "remote", "completed"), 3.0, look=4.0)

    store.write(work)


def test_a_folder_that_had_files_is_not_to_be_made_anew(examine, store, home):
    synced(store)
    (home / "drop").rmdir()
    found, _ = examine()
    fix = found["folder drop"].fix
    assert fix == "mount it, or bring it back; nothing is deleted meanwhile"


REPLACED = {"stops": "folder", "scope": "drop", "reason": "root_replaced"}
REFUSED = {"stops": "sending", "scope": "*", "reason": "key_refused"}


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.usefixtures("answering")
def test_what_is_held_is_not_well_whether_a_daemon_runs_or_not(examine, store, home, runs):
    advice = ["findmnt --target /mnt", REPLACE]
    store.write(holds.place, **REPLACED, message="another one", commands=advice, now=1.0)
    store.write(holds.place, **REFUSED, message="no: put a valid key", now=1.0)
    paused = {"stops": "folder", "scope": "*", "reason": "paused"}
    store.write(holds.place, **paused, message="paused", commands=["syncd resume"], now=1.0)
    if runs:
        beat = heartbeat.Heartbeat(doctor.__version__, os.getpid(), 0.0, time.time())
        heartbeat.write(home / "state", beat)
    else:
        store.close()
    found, code = examine()
    assert code == 1
    replaced = found["folder drop"]
    assert (replaced.good, "root_replaced" in replaced.text) == (False, True)
    assert replaced.fix.startswith("mount the right disk")
    assert "approve" not in replaced.fix
    assert ("no daemon is running" in replaced.fix) is not runs
    assert found["hold 2"].text == "sending is held (key_refused): no: put a valid key"
    # It is not examined as if it were the right one, and a pause is no finding.
    assert "root of drop" not in found
    assert "hold 3" not in found


@pytest.mark.usefixtures("answering")
def test_the_folders_of_a_daemon_that_got_them_by_its_command_line_are_examined(
    examine, store, home
):
    store.write(folders.note, "drop", bytes(home / "drop"), 1.0)
    health = heartbeat.FolderHealth(watch="native")
    beat = heartbeat.Heartbeat(
        doctor.__version__, os.getpid(), 0.0, time.time(), folders={"drop": health}
    )
    heartbeat.write(home / "state", beat)
    assert examine(SYNCD_WATCH=None)[0]["folder drop"].good
    store.write(holds.place, **REPLACED, message="another one", now=1.0)
    assert examine(SYNCD_WATCH=None)[0]["folder drop"].good is False


def test_a_folder_that_is_not_there_is_told_and_nothing_is_said_of_deleting(examine, home):
    (home / "drop").rmdir()
    found, code = examine()
    assert code == 1
    assert "No such file" in found["folder drop"].text
    assert found["folder drop"].fix == "mount it or make it; nothing is deleted meanwhile"


@pytest.fixture
def closed(home, monkeypatch):
    """Make files and directories that may not be read: root may read everything."""
    closed = set()
    allowed = os.access

    def access(path, mode, *, dir_fd=None):
        whole = Path(f"/proc/self/fd/{dir_fd}").readlink() / path if dir_fd else path
        return os.fsencode(whole) not in closed and allowed(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(doctor_folders.os, "access", access)

    def close(*paths):
        for path in paths:
            (home / "drop" / path).parent.mkdir(parents=True, exist_ok=True)
            (home / "drop" / path).touch()
            closed.add(os.fsencode(home / "drop" / path))

    return close


def test_what_cannot_be_read_is_told_however_deep(examine, closed):
    closed("a/b/c/secret", "a/secret")
    found, code = examine()
    assert code == 1
    assert "2 cannot be read, such as a/secret" in found["folder drop"].text


@pytest.mark.long
@pytest.mark.row(71)
def test_a_tree_that_is_deeper_than_any_path_is_looked_at_to_its_end(examine, home):
    here = os.open(home / "drop", os.O_RDONLY)
    for _ in range(2100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    found, code = examine()
    # Python's own way to remove a tree recurses.
    subprocess.run(["rm", "-r", home / "drop" / "d"], check=True)
    assert code == 0, found
    assert found["watches"].text.startswith("2,101 needed")


def test_what_no_rule_lets_in_may_be_unreadable(examine, home, closed):
    (home / "drop" / ".syncdignore").write_text("drafts/\n")
    closed("lost+found", ".hidden/x", "drafts/x", "x.part")
    assert examine()[1] == 0


def test_rules_that_cannot_be_used_are_told_of(examine, home):
    (home / "drop" / "sub").mkdir()
    (home / "drop" / "sub" / ".syncdignore").write_text("[z-a]\n")
    found, code = examine()
    assert code == 1
    assert "nothing is sent from 1 directory: sub/.syncdignore cannot be used: its line 1" in (
        found["folder drop"].text
    )
    assert found["folder drop"].fix == "mend each .syncdignore there, or remove it"


def test_the_look_into_a_folder_has_a_bound(examine, home, closed, monkeypatch):
    monkeypatch.setattr(doctor_folders, "MOST_LOOKED_AT", 3)
    for number in range(4):
        (home / "drop" / str(number)).mkdir()
    closed("0/secret")
    assert examine()[1] == 0


@pytest.mark.parametrize(
    ("more", "text", "fix"),
    [
        ({"AYMARA_AI_API_KEY": None}, "no API key", "set AYMARA_AI_API_KEY, or"),
        ({"SYNCD_WATCH": None}, "no folder to watch", "name one (syncd run DIR)"),
        (
            {"SYNCD_WATCH": None, "SYNCD_FOLDERS": '[{"path": "/x", "nmae": "x"}]'},
            "unknown setting",
            "did you mean name?",
        ),
    ],
)
def test_each_problem_of_the_configuration_has_a_fix_of_its_own(examine, more, text, fix):
    found, code = examine(**more)
    assert code == 78
    assert text in found["configuration"].text
    assert found["configuration"].fix.startswith(fix)


def test_a_folder_with_a_bad_setting_is_not_said_to_be_missing(examine):
    # The last finding of a name is the one that counts: there must be one alone.
    found, _ = examine(SYNCD_WATCH=None, SYNCD_FOLDERS='[{"path": "/x", "receipts": true}]')
    assert "receipts" in found["configuration"].text


def test_too_few_watches_are_told_with_the_command(examine, home, monkeypatch):
    for number in range(5):
        (home / "drop" / str(number)).mkdir()
    limits = {"max_user_watches": 4, "max_user_instances": 128}
    monkeypatch.setattr(doctor_folders, "_kernel_limit", limits.get)
    found, code = examine()
    assert code == 1
    assert found["watches"].text.startswith("6 directories, and the limit is 4")
    assert "fs.inotify.max_user_watches=524288" in found["watches"].fix


def test_too_few_open_files_are_told(examine, monkeypatch):
    monkeypatch.setattr(doctor_folders.resource, "getrlimit", lambda _: (64, 64))
    found, code = examine()
    assert code == 1
    assert found["open files"].text == "the limit is 64"


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_a_state_on_a_network_filesystem_is_bad(examine, store, monkeypatch, kind):
    monkeypatch.setattr(doctor_state, "kind_of", lambda _: kind)
    assert "SQLite's locks do not hold" in examine()[0]["state disk"].text


def test_a_full_disk_is_told(examine, store, monkeypatch):
    monkeypatch.setattr(doctor_state, "_free_bytes", lambda _: 0)
    assert "full; nothing is sent" in examine()[0]["state disk"].text


VOLUME = "/var/lib/docker/volumes/" + "a1" * 32 + "/_data"


@pytest.mark.parametrize(
    ("kind", "root", "said"),
    [
        ("overlay", "/", "container's own layer"),
        ("ext4", VOLUME, "without a name"),
        ("ext4", "/var/lib/docker/volumes/syncd-state/_data", ""),
        ("ext4", "/srv/state", ""),
    ],
)
def test_a_state_that_goes_with_its_with_its_container_is_told(monkeypatch, kind, root, said):
    place, volume = Path("/state"), Mount("36", 0, b"/state", kind, root.encode())
    monkeypatch.setattr(directory, "mounts", lambda: (volume,))
    monkeypatch.setattr(directory, "kind_of", lambda _: kind)
    monkeypatch.setattr(directory, "in_container", lambda _: True)
    assert said in directory.lost_with_container(place)
    assert bool(directory.lost_with_container(place)) is bool(said)
    monkeypatch.setattr(directory, "in_container", lambda _: False)
    assert directory.lost_with_container(place) == ""


# The command


def test_the_command_says_good_or_bad_and_how_to_mend(home, emulator, monkeypatch, capsys):
    monkeypatch.chdir(home)
    for name, value in {
        "AYMARA_AI_API_KEY": "another-key",
        "SYNCD_API__BASE_URL": emulator.url,
        "SYNCD_STATE__DIRECTORY": str(home / "state"),
        "SYNCD_WATCH": str(home / "drop"),
    }.items():
        monkeypatch.setenv(name, value)
    assert cli.call(["doctor"]) == 77
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines if not line.startswith(" ")].count("bad ") == 1
    assert any(line.startswith("      -> put a valid key into") for line in lines)
    assert cli.call(["doctor", "--json"]) == 77
    told = json.loads(capsys.readouterr().out)
    assert told["well"] is False
    assert {"name", "good", "text", "fix"} == {*told["checks"][0]}


def test_folders_that_only_a_pass_was_given_are_examined_when_they_are_named(
    home, emulator, store, monkeypatch, capsys
):
    store.write(lambda db: folders.note(db, "drop", os.fsencode(home / "drop"), 1.0))
    store.close()
    monkeypatch.chdir(home)
    monkeypatch.setenv("AYMARA_AI_API_KEY", KEY)
    monkeypatch.setenv("SYNCD_API__BASE_URL", emulator.url)
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(home / "state"))
    monkeypatch.delenv("SYNCD_WATCH", raising=False)
    assert cli.call(["doctor"]) == 78
    command = f"to check those of the last pass: syncd doctor {home / 'drop'}\n"
    assert command in capsys.readouterr().out
    assert cli.call(["doctor", str(home / "drop")]) == 0


def test_the_gravest_finding_gives_the_code():
    codes = [ConfigError.exit_code, 77, 1]
    found = [findings.bad("x", "x", "x", code) for code in (1, 77, 78)]
    assert [findings.exit_code(found[: 3 - n]) for n in range(3)] == codes
    assert findings.exit_code([]) == 0


@pytest.fixture
def beat(store, home, emulator):
    """Leave the beat of a daemon with the configuration that the doctor is given."""

    def leave(configuration=None, **more):
        facts = heartbeat.Heartbeat(
            version=doctor.__version__,
            pid=os.getpid(),
            since=time.time(),
            beat_at=time.time(),
            configuration=configuration or {},
            **more,
        )
        heartbeat.write(home / "state", facts)

    return leave


def configured(home, emulator, **more):
    """Return the configuration that `examine` is given."""
    environ = {
        "AYMARA_AI_API_KEY": KEY,
        "SYNCD_API__BASE_URL": emulator.url,
        "SYNCD_STATE__DIRECTORY": str(home / "state"),
        "SYNCD_WATCH": str(home / "drop"),
    } | more
    return configuration.load(config=None, environ=environ, working_directory=home)


def test_a_daemon_that_does_not_answer_on_its_socket_is_bad(examine, beat):
    beat()
    found, code = examine()
    assert code == 1
    assert "does not answer on its socket" in found["daemon"].text


@pytest.mark.usefixtures("answering")
def test_a_daemon_with_other_settings_is_told_with_the_sections(examine, beat, home, emulator):
    beat(digests(configured(home, emulator)), last_success_at=time.time() - 30)
    found, code = examine()
    assert (code, found["daemon"].good) == (0, True)
    assert re.search(r"reached the service last \d+ s ago", found["daemon"].text)
    beat(digests(configured(home, emulator, SYNCD_UPLOAD__WORKERS="3")))
    found, code = examine()
    assert code == 0
    assert "it has other settings in [upload] than" in found["daemon"].text
    assert f"kill -HUP {os.getpid()}" in found["daemon"].fix


@pytest.mark.usefixtures("answering")
def test_a_key_that_the_daemon_has_and_the_service_refuses_is_told(examine, beat):
    beat(api_state="refused")
    found, code = examine()
    assert code == 77
    assert found["daemon"].text == "the service refuses the daemon's key"


def test_alerts_and_hooks_are_told_with_their_last_delivery(examine, store, tmp_path):
    told = {"told": {"no daemon": time.time() - 300}, "pending": {"webhook": [{}]}}
    store.set_fact("alerts", json.dumps(told))
    settings = {
        "SYNCD_ALERTS__WEBHOOK": "https://alerts.test/secret-token",
        "SYNCD_HOOKS": json.dumps([{"on": "synced", "command": ["true"]}]),
    }
    found, code = examine(**settings)
    assert code == 1
    assert found["alerts"].text == (
        "webhook https://alerts.test/...: 1 message could not be delivered so far"
    )
    assert found["hook synced"].text == "true on synced, nothing to tell so far"
    store.set_fact("alerts", json.dumps(told | {"pending": {}}))
    found, _ = examine(**settings)
    assert found["alerts"].text == "webhook https://alerts.test/..., told last 5 min ago"


def test_a_hook_that_fails_is_bad_with_its_error_and_next_try(examine, store):
    store.write(hooks.configure, ["synced"])
    store.write(
        lambda db: db.conn.execute(
            "UPDATE hooks SET failures = 2, error = 'it ended with 3', due_at = ?",
            (time.time() + 30,),
        )
    )
    found, _ = examine(SYNCD_HOOKS=json.dumps([{"on": "synced", "command": ["true"]}]))
    assert found["hook synced"].text.startswith("true on synced: it ended with 3; tried again by")
