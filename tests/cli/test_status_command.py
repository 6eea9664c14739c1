import json
import os
import re
import subprocess
import sys

import pytest

from syncd import __version__, heartbeat
from syncd.heartbeat import FolderHealth, Heartbeat, TransferReport
from syncd.state import ages, folders
from syncd.state.facts import LAST_ONCE, set_fact
from syncd.state.ledger import Failure
from syncd.units import clock


@pytest.fixture
def daemon(desk):
    """Leave the beat of a daemon: the desk's store holds the lock."""

    def beat(**facts):
        seen = {
            "f": FolderHealth("native", watched_directories=2, directories=2),
            "g": FolderHealth("polling", "it is on NFS", directories=3),
        }
        known = {
            "version": __version__,
            "pid": os.getpid(),
            "since": desk.now - 100,
            "beat_at": desk.now,
            "folders": seen,
            "api_state": "ok",
            "last_success_at": desk.now,
        }
        heartbeat.write(desk.directory, Heartbeat(**known | facts))

    return beat


def test_the_json_document_has_exactly_the_shape_of_the_contract(desk, daemon, syncd_json):
    desk.sync(b"x")
    desk.see(b"y")
    desk.hold("deletions", "f", "its root is missing", affects=1, first=["x"], commands=["ls f"])
    daemon(transfers=[TransferReport("f", "y", 3, 7, desk.now)])
    code, document = syncd_json("status", "--json")
    assert code == 1
    assert document["version"] == __version__
    assert document["well"] is False
    assert document["reasons"] == ["deletions of f held: r: its root is missing"]
    assert set(document) == {
        *("version", "well", "reasons", "daemon", "folders", "counts", "transfers", "sending"),
        *("holds", "paused", "bandwidth", "api"),
    }
    assert set(document["sending"]) == {
        *("files_left", "bytes_left", "files_per_second", "bytes_per_second", "seconds_left"),
    }
    assert set(document["daemon"]) == {"running", "pid", "since"}
    assert document["daemon"]["running"] is True
    assert [set(folder) for folder in document["folders"]] == 2 * [
        {
            *("name", "path", "watch", "watch_reason", "watched_directories", "directories"),
            *("last_event_at", "last_scan_at", "counts", "missing", "oldest_queued_seconds"),
            "bytes_left",
        }
    ]
    assert document["folders"][1]["watch_reason"] == "it is on NFS"
    assert document["counts"] == {"synced": 1, "queued": 1}
    assert [set(transfer) for transfer in document["transfers"]] == [
        {"path", "bytes", "size", "since"}
    ]
    assert [set(hold) for hold in document["holds"]] == [
        {"id", "stops", "scope", "reason", "since", "affects", "first", "commands"}
    ]
    assert set(document["api"]) == {
        *("base_url", "state", "echo", "last_success_at", "cause", "next_try_at"),
    }


def test_all_is_well_when_a_daemon_works_and_nothing_is_wrong(desk, daemon, syncd):
    desk.sync(b"x")
    daemon()
    code, out, err = syncd("status")
    assert (code, err) == (0, "")
    assert out.startswith("● All is well\n")
    assert "1 synced" in out


def test_the_text_shows_folders_transfers_holds_and_failures_in_80_columns(desk, daemon, syncd):
    desk.refuse(b"bad\x1b[31m\n" + b"long/" * 30, "it is too large")
    desk.see(b"y")
    desk.hold(
        "deletions", "f", "its root is missing", affects=12, first=["x"], commands=["syncd ls f"]
    )
    daemon(transfers=[TransferReport("f", "clips/" * 20, 3 << 20, 7 << 20, desk.now)])
    code, out, _ = syncd("status")
    assert code == 1
    assert "3.0 MiB of 7.0 MiB" in out
    assert "affects 12 files: x, ..." in out
    assert "> syncd ls f" in out
    assert out.count("its root is missing") == 1
    assert "bad\\x1b[31m\\n" in out
    assert "it is too large (status 413, file.too_large, request req-7)" in out.replace(
        "\n    ", " "
    )
    assert "polling (it is on NFS), 3 directories" in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_path_that_does_not_fit_beside_its_folder_is_indented_below(desk, daemon, syncd):
    path = b"/srv/" + b"long/" * 13 + b"end"
    desk.store.write(lambda db: folders.note(db, "laboratory", path, desk.now))
    daemon(folders={"laboratory": FolderHealth("native")})
    assert f"\nlaboratory\n    {path.decode()}\n" in syncd("status")[1]


@pytest.mark.parametrize("columns", range(40, 80, 3))
def test_no_age_and_no_count_is_split_at_the_end_of_a_line(
    desk, daemon, syncd, monkeypatch, columns
):
    desk.sync(b"x")
    desk.see(b"y")
    desk.refuse(b"z", "it is too large")
    daemon(since=desk.now - 12_000)
    monkeypatch.setenv("COLUMNS", str(columns))
    out = syncd("status")[1]
    for words in ("3 h 20 min ago", "1 synced", "1 queued", "1 failed"):
        assert words in out
    assert re.search(r"last\s+success\s+\d+ s ago", out)


def test_of_many_folders_those_in_which_all_is_well_are_counted(desk, daemon, syncd):
    names = [f"f{number:03}" for number in range(500)]
    desk.store.write(
        lambda db: [folders.note(db, n, b"/in/" + n.encode(), desk.now) for n in names]
    )
    desk.see(b"x", folder="f400")
    desk.hold("deletions", "f410", "its root is missing")
    seen = {name: FolderHealth("native", watched_directories=1, directories=1) for name in names}
    seen["f420"] = FolderHealth("native", watched_directories=1, directories=2)
    seen["f430"] = FolderHealth("native", trouble="it cannot be listed")
    daemon(folders=seen)
    out = syncd("status")[1]
    shown = [name for name in names if f"/in/{name}" in out]
    assert shown == ["f000", "f001", "f002", "f400", "f410", "f420", "f430"]
    assert "\n493 more folders: all is well\n" in out
    daemon(folders=dict.fromkeys(names[:10], seen["f000"]))
    assert "more folder" not in syncd("status")[1]


def test_a_command_stands_on_a_line_of_its_own_and_only_once(desk, daemon, syncd):
    name = "long name " * 9
    troubles = [f"{n} of it hangs (syncd why 'f/{name}')" for n in range(2)]
    daemon(troubles=troubles)
    out = syncd("status")[1]
    assert out.count(f"\n    > syncd why 'f/{name}'\n") == out.count("syncd why") == 1
    assert "  0 of it hangs\n" in out
    assert "  1 of it hangs\n" in out


def test_a_hold_that_names_no_file_promises_none(desk, daemon, syncd):
    desk.hold("sending", "*", affects=30)
    daemon()
    assert "affects 30 files\n" in syncd("status")[1]


def test_a_state_of_another_service_is_not_well(desk, syncd, syncd_json, monkeypatch):
    desk.store.write(lambda db: set_fact(db, "base_url", "https://one.example"))
    monkeypatch.setenv("SYNCD_API__BASE_URL", "https://two.example")
    # It was only tried.
    assert "belongs to" not in syncd("status")[1]
    desk.sync(b"a")
    desk.store.close()
    reason = syncd_json("status", "--json")[1]["reasons"][0]
    assert reason.startswith(
        "the state belongs to https://one.example, and the configuration names https://two.example"
    )
    monkeypatch.setenv("SYNCD_API__BASE_URL", "https://one.example")
    assert "belongs to" not in syncd("status")[1]


@pytest.mark.parametrize(
    ("stops", "scope", "words"),
    [
        ("sending", "*", "sending held: r"),
        ("sending", "default", "sending to the default workspace held: r"),
        ("sending", "ws-7", "sending to workspace ws-7 held: r"),
        ("sending", "folder f", "sending of f held: r"),
        ("sending", "copy 12", "sending of one file held: r"),
        ("deletions", "f", "deletions of f held: r"),
    ],
)
def test_what_a_hold_stops_is_said_in_words(desk, daemon, syncd, stops, scope, words):
    desk.hold(stops, scope)
    daemon()
    (reason,) = json.loads(syncd("status", "--json")[1])["reasons"]
    assert reason == f"{words}: the key is refused"
    assert words.removesuffix(" held: r") + ", since" in syncd("status")[1]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"api_state": "refused"}, "the service refuses the key"),
        ({"api_state": "unreachable"}, "the service cannot be reached"),
        ({"troubles": ["scan hangs"]}, "scan hangs"),
        ({"folders": {"f": FolderHealth("native", trouble="it is gone")}}, "f: it is gone"),
    ],
)
def test_what_the_daemon_suffers_from_is_not_well(daemon, syncd_json, facts, reason):
    daemon(**facts)
    code, document = syncd_json("status", "--json")
    assert (code, document["reasons"]) == (1, [reason])


def test_a_daemon_that_no_longer_reports_is_not_well_and_not_alive(desk, daemon, syncd):
    daemon(beat_at=desk.now - 100)
    code, out, _ = syncd("status")
    assert code == 1
    assert "has not reported for 1" in out
    assert syncd("status", "--alive") == (1, "", "")


def test_a_daemon_without_a_beat_is_starting(desk, syncd):
    assert "just starting" in syncd("status")[1]


def test_failed_files_are_not_well(desk, daemon, syncd_json):
    desk.refuse(b"x")
    daemon()
    assert syncd_json("status", "--json")[1]["reasons"] == [
        "1 file failed (syncd ls --status failed)"
    ]


def test_without_a_daemon_the_table_still_answers(desk, daemon, syncd):
    desk.sync(b"x")
    daemon()
    desk.store.close()
    code, out, _ = syncd("status")
    assert code == 1
    assert "  no daemon is running\n    > syncd run\n" in out
    assert "1 synced" in out
    assert syncd("status", "--alive") == (1, "", "")


def test_a_configuration_that_cannot_be_used_is_told_where_no_daemon_runs(desk, daemon, syncd):
    config = desk.home / "syncd.toml"
    config.write_text(f'{config.read_text()}[upload]\nworkers = "many"\n')
    daemon()
    assert syncd("status")[::2] == (0, "")
    desk.store.close()
    code, _, err = syncd("status")
    assert code == 78
    assert "[upload] workers: must be a number" in " ".join(err.split())


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--alive"),
        ("-c", "syncd.toml", "status", "--alive"),
        ("status", "--alive", "--config", "syncd.toml"),
        ("status", "-v", "--alive"),
    ],
)
def test_a_health_check_is_answered_however_it_is_written(daemon, syncd, words):
    assert syncd(*words) == (1, "", "")
    daemon()
    assert syncd(*words) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("-c", "missing.toml"), 78, "there is no file"),
        (("-c", "."), 2, "is a directory"),
        (("--json",), 2, "use only one of"),
        (("more",), 2, "unexpected extra argument"),
        (("",), 2, "an argument is empty"),
    ],
)
def test_a_health_check_that_cannot_be_made_says_why(desk, syncd, words, code, text):
    told = syncd("status", "--alive", *words)
    assert told[0] == code
    assert text in told[2]


def test_alive_answers_by_exit_code_alone(daemon, syncd):
    daemon()
    assert syncd("status", "--alive") == (0, "", "")


def test_a_state_directory_that_was_never_used_says_so(tmp_path, monkeypatch, syncd):
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(tmp_path / "none"))
    code, out, err = syncd("status")
    assert (code, err) == (1, "")
    assert "syncd has not run with this state directory yet" in out
    assert not (tmp_path / "none").exists()


def test_watch_json_and_alive_exclude_each_other(syncd):
    code, _, err = syncd("status", "--json", "--alive")
    assert code == 2
    assert "use only one of" in err


def test_a_daemon_in_which_something_hangs_for_good_is_not_alive(desk, daemon, syncd):
    daemon(hung=True)
    assert syncd("status", "--alive")[0] == 1


def test_a_daemon_that_waits_for_a_full_disk_is_alive(desk, daemon, syncd, monkeypatch):
    daemon(beat_at=desk.now - 3600)
    assert syncd("status", "--alive")[0] == 1

    def is_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("syncd.disk.write_private", is_full)
    daemon()
    assert syncd("status", "--alive")[0] == 0


def test_help_imports_nothing_but_click():
    program = (
        "import sys; from syncd import cli; cli.call(['--help']); "
        "print([m for m in ('pydantic', 'rich', 'sqlite_utils', 'httpx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.endswith(b"[]\n")


@pytest.mark.parametrize(
    ("pid", "then"), [(None, "start syncd again"), (1, "it goes on by itself")]
)
def test_a_state_disk_that_is_full_is_told_of_though_the_daemon_cannot(
    tmp_path, monkeypatch, pid, then
):
    from syncd.report import status as report

    monkeypatch.setattr(report, "LEAST_FREE_BYTES", 1 << 60)
    monkeypatch.setattr(report, "lock_holder", lambda _: pid)
    told = report.status(tmp_path, base_url="http://x")
    (reason,) = (reason for reason in told["reasons"] if "nothing is sent or deleted" in reason)
    assert reason.endswith(f"free some space, and {then}")


def test_watching_without_a_terminal_is_refused_and_not_silent(desk, syncd):
    code, out, err = syncd("status", "--watch")
    assert (code, out) == (2, "")
    assert "--watch needs a terminal" in err


def test_what_stands_still_is_not_well_with_file_cause_and_command(desk, daemon, syncd):
    copy = desk.begin(desk.see(b"x"))
    failure = Failure("the storage refuses it", 403)
    for _ in range(5):
        desk.do(desk.ledger.not_sent, copy.id, desk.now, failure=failure)
        copy = desk.begin(desk.file(b"x"))
    desk.do(desk.ledger.not_sent, copy.id, desk.now, failure=failure)
    daemon()
    code, out, _ = syncd("status")
    assert code == 1
    words = " ".join(out.split())
    assert "1 file could not be sent so far: f/x" in words
    assert "the storage refuses it (status 403) > syncd why f/x" in words


def test_a_transfer_that_does_not_move_is_named_unless_the_service_asked_to_wait(
    desk, daemon, syncd_json
):
    hangs = TransferReport("f", "big.mp4", 5, 7, desk.now - 1000, moved_at=desk.now - 400)
    daemon(transfers=[hangs])
    (reason,) = syncd_json("status", "--json")[1]["reasons"]
    assert "no byte moves: f/big.mp4" in reason
    daemon(transfers=[hangs], undisturbed_since=desk.now - 10)
    assert syncd_json("status", "--json")[1]["well"]


def test_a_service_that_is_not_reached_is_told_with_its_cause(desk, daemon, syncd):
    cause, next_try = "connection refused", desk.now + 90
    daemon(api_state="unreachable", api_cause=cause, api_next_try_at=next_try)
    code, out, _ = syncd("status")
    assert code == 1
    said = " ".join(out.split())
    assert f"cannot be reached: {cause}; tried again at {clock(next_try)}" in said
    assert re.search(rf": unreachable: {cause}, next try in [89]\d s", said)


def test_what_is_left_to_send_is_shown_with_its_rate_and_time(desk, daemon, syncd):
    desk.see(b"x", size=3 << 20)
    desk.see(b"y", size=3 << 20)
    daemon(files_per_second=0.5, bytes_per_second=1 << 20)
    said = " ".join(syncd("status")[1].split())
    assert "sending 2 files, 6.0 MiB left, 1.0 MiB/s, about 6 s" in said
    assert "files 2 queued" in said


def test_a_wait_that_the_service_asked_for_is_shown_and_is_well(desk, daemon, syncd):
    daemon(asked_until=desk.now + 100)
    code, out, _ = syncd("status")
    assert code == 0
    assert "it asked to wait for" in " ".join(out.split())


def test_a_hold_says_when_it_is_tried_again(desk, daemon, syncd_json):
    desk.hold("sending", "*")
    desk.hold("deletions", "f")
    daemon(tries={"*": desk.now + 100})
    document = syncd_json("status", "--json")[1]
    assert [hold["reason"] for hold in document["holds"]] == [
        f"r: the key is refused; tried again by {clock(desk.now + 100)}",
        "r: the key is refused",
    ]
    assert document["reasons"][0] == f"sending held: {document['holds'][0]['reason']}"


def test_uploads_without_a_sure_answer_are_counted_with_the_time_of_the_next_try(
    desk, daemon, syncd
):
    copy = desk.begin(desk.see(b"x"))
    desk.do(desk.ledger.doubt, copy.id, Failure("no answer"), desk.now)
    daemon()
    code, out, _ = syncd("status")
    again = clock(desk.now + 120 + ages.LOOK_SECONDS)
    said = f"1 upload without a sure answer looked for, tried again by {again}"
    assert (code, said in " ".join(out.split())) == (0, True)


def passed(desk, *, ago=60.0, every=None, left=""):
    """Have a pass of `once` be the last that there was."""
    made = {"ended_at": desk.now - ago, "every": every, "left": left}
    desk.store.set_fact(LAST_ONCE, json.dumps(made))
    desk.store.close()


def test_after_a_pass_that_ended_well_all_is_well_without_a_daemon(desk, syncd):
    desk.sync(b"x")
    passed(desk)
    code, out, _ = syncd("status")
    assert code == 0
    assert out.startswith("● All is well\n")
    assert "not running, last pass " in out


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (
            {"left": "it was interrupted"},
            "the last pass left something undone: it was interrupted (syncd once)",
        ),
        (
            {"ago": 2 * 86_400},
            "the last pass was 2 d 0 h ago, and no daemon is running (syncd once)",
        ),
        (
            {"ago": 15 * 86_400, "every": 7 * 86_400},
            "the last pass was 15 d 0 h ago, and no daemon is running (syncd once)",
        ),
        ({"ago": 13 * 86_400, "every": 7 * 86_400}, None),
    ],
)
def test_a_pass_that_left_something_or_is_long_ago_is_not_well(desk, syncd_json, facts, reason):
    passed(desk, **facts)
    code, document = syncd_json("status", "--json")
    assert (code, document["reasons"]) == (int(bool(reason)), [reason] if reason else [])


def test_what_is_overdue_says_when_it_is_tried_again(desk, daemon, syncd_json):
    copy = desk.begin(desk.see(b"x"))
    due_at = desk.now + 300
    desk.do(desk.ledger.not_sent, copy.id, due_at, failure=Failure("no", 500))
    desk.do(lambda db: db.conn.execute("UPDATE copies SET attempts = 5"))
    daemon()
    (reason,) = syncd_json("status", "--json")[1]["reasons"]
    assert f"no (status 500); tried again by {clock(due_at)} (syncd why f/x)" in reason


@pytest.mark.parametrize("name", [b"a\nb's", b"\xff\x1b", "\u202ea".encode(), b"a b"])
def test_the_command_for_what_is_overdue_works_in_bash_whatever_the_name(
    desk, daemon, syncd_json, name
):
    copy = desk.begin(desk.see(name))
    desk.do(desk.ledger.not_sent, copy.id, desk.now + 300, failure=Failure("no", 500))
    desk.do(lambda db: db.conn.execute("UPDATE copies SET attempts = 5"))
    daemon()
    (reason,) = syncd_json("status", "--json")[1]["reasons"]
    command = reason[reason.rindex("(syncd why ") + len("(syncd why ") : -1]
    assert command.isprintable()
    said = subprocess.run(["bash", "-c", f"printf %s {command}"], stdout=-1, check=True).stdout
    assert said == b"f/" + name
