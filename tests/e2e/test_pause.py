"""`pause` and `resume`: with a daemon, across restarts, with a pass, and without either."""

import json
import os
import re
import time
from contextlib import nullcontext

import pytest

from syncd import heartbeat
from syncd.state import overview, views
from syncd.state.holds import pauses


def until(place, condition):
    place.machine.until(condition, 20)


def paused(place):
    return views.read(place.machine.state, lambda db: overview.paused(db, time.time()))


@pytest.mark.long
def test_nothing_is_sent_deleted_or_replaced_before_resume(place):
    place.folder(grace_seconds=0.2)
    gone = place.machine.write("gone.txt", b"g")
    place.machine.write("changes.txt", b"old")
    with place.daemon():
        place.machine.settles()
        assert place.call("pause")[0] == 0
        before = len(place.machine.mutations())
        gone.unlink()
        place.machine.write("changes.txt", b"new content")
        place.machine.write("new.txt", b"n")
        until(place, lambda: place.status_of("new.txt") == "held")
        until(place, lambda: place.status_of("changes.txt") == "held")
        until(place, lambda: place.status_of("gone.txt") == "held")
        time.sleep(0.5)
        assert len(place.machine.mutations()) == before

        code, out, _ = place.call("status")
        assert code == 0
        assert "Paused; else all is well" in out
        assert "syncd resume" in out
        status = json.loads(place.call("status", "--json")[1])
        assert (status["well"], status["reasons"]) == (True, [])
        assert [(one["folder"], one["until"]) for one in status["paused"]] == [(None, None)]
        assert "syncd resume" in place.call("why", "drop/new.txt")[1]
        code, out, err = place.call("wait", "drop/new.txt")
        assert code == 1
        assert "paused: nothing is sent or deleted until `syncd resume`" in err

        assert place.call("resume")[0] == 0
        place.machine.settles()


@pytest.mark.long
def test_a_transfer_under_way_is_dropped_before_its_last_byte(place):
    place.machine.write("large.bin", os.urandom(24 << 20))
    place.machine.settings["SYNCD_UPLOAD__METHOD"] = "presigned"
    place.folder()
    with place.daemon() as parts:
        until(place, lambda: any(t.sent for t in parts.uploader.transfers.all()))
        place.call("pause", "drop")
        until(place, lambda: not parts.uploader.busy)
        assert place.status_of("large.bin") == "held"
        assert not place.machine.objects()
        place.call("resume", "drop")
        place.machine.settles()


def test_a_pause_outlives_the_daemon_and_ends_at_its_time(place):
    place.machine.write("one.txt", b"1")
    code, out, err = place.call("pause", "--for", "2h")
    assert (code, err) == (0, "no daemon is running: the next `syncd run` or `syncd once` obeys\n")
    assert out.startswith("paused: everything; nothing is sent or deleted until ")
    with place.daemon():
        until(place, lambda: place.status_of("one.txt") == "held")
    with place.daemon() as parts:
        until(place, lambda: place.status_of("one.txt") == "held")
        assert not place.machine.objects()
        (pause,) = paused(place)
        assert pause["until"] is not None
        # Only the end is moved: what ends it is the daemon's own look at the clock.
        parts.store.write(pauses.pause, "*", time.time() + 0.3, time.time())
        place.machine.settles()
        assert paused(place) == []


def test_only_the_folder_that_is_named_is_paused(place, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (folder,) = json.loads(place.machine.settings["SYNCD_FOLDERS"])
    place.machine.settings["SYNCD_FOLDERS"] = json.dumps([folder, folder | {"path": str(other)}])
    place.configure()
    with place.daemon():
        place.call("pause", place.machine.drop)
        place.machine.write("waits.txt", b"w")
        (other / "goes.txt").write_bytes(b"g")
        until(place, lambda: place.status_of("goes.txt") == "synced")
        until(place, lambda: place.status_of("waits.txt") == "held")
        assert [one["folder"] for one in paused(place)] == ["drop"]
        status = json.loads(place.call("status", "--json")[1])
        assert status["sending"]["bytes_left"] == 0
        assert place.call("resume", "other") == (
            0,
            "nothing was paused\npaused: drop; nothing is sent or deleted until `syncd resume`\n",
            "",
        )
        assert place.call("pause")[0] == 0
        code, _, err = place.call("resume", "other")
        assert code == 1
        assert "everything is paused, and not other alone" in err
        assert place.call("resume")[1] == "resumed: drop, everything\n"
        until(place, lambda: place.status_of("waits.txt") == "synced")


@pytest.mark.long
def test_a_pause_outlives_that_its_folder_is_not_configured_for_a_while(place, tmp_path):
    place.machine.write("one.txt", b"1")
    place.call("once")
    place.call("pause", "drop")
    known = place.machine.settings["SYNCD_FOLDERS"]
    (tmp_path / "other").mkdir()
    (folder,) = json.loads(known)
    elsewhere = [folder | {"path": str(tmp_path / "other")}]
    place.machine.settings["SYNCD_FOLDERS"] = json.dumps(elsewhere)
    place.configure()
    with place.daemon():
        until(place, lambda: place.status_of("one.txt") == "ignored")
    place.machine.settings["SYNCD_FOLDERS"] = known
    place.configure()
    assert [one["folder"] for one in paused(place)] == ["drop"]
    place.machine.settings["SYNCD_FOLDERS"] = json.dumps(elsewhere)
    place.configure()
    assert place.call("resume", "drop")[:2] == (0, "resumed: drop\n")


def test_a_folder_that_gets_another_name_stays_paused(place):
    place.machine.write("one.txt", b"1")
    place.folder(name="before")
    assert place.call("pause", "before", "--for", "2h")[0] == 0
    place.folder(name="after")
    place.call("once")
    assert [one["folder"] for one in paused(place)] == ["after"]
    assert not place.machine.mutations()
    assert place.call("resume", "after")[1] == "resumed: after\n"
    assert place.call("once")[0] == 0


@pytest.mark.parametrize("runs", [True, False], ids=["daemon", "no daemon"])
def test_the_log_tells_who_paused_resumed_and_limited_and_until_when(place, runs):
    with place.daemon() if runs else nullcontext():
        for words in (
            ("pause", "drop"),
            ("pause", "--for", "2h"),
            ("resume",),
            ("limit", "2MiB/s", "--for", "1h"),
            ("limit", "configured"),
        ):
            assert place.call(*words)[0] == 0
    lines = [json.loads(line) for line in place.call("log", "--json")[1].splitlines()]
    assert [(line["event"], line["folder"]) for line in lines] == [
        ("paused", "drop"),
        ("paused", None),
        ("resumed", "drop"),
        ("resumed", None),
        ("limited", None),
        ("limited", None),
    ]
    details = [line["detail"] for line in lines]
    assert all("syncd pause" in detail for detail in details[:2])
    assert details[0].startswith("until `syncd resume`, by ")
    assert re.match(r"everything: until \d{4}-\d\d-\d\d \d\d:\d\d, by ", details[1])
    assert details[3].startswith("everything: before its time, by ")
    assert re.match(r"2.0 MiB/s until \d{4}-\d\d-\d\d \d\d:\d\d, by .*: syncd limit", details[4])
    assert details[5].startswith("as configured, by ")


def test_the_log_tells_that_the_time_of_a_pause_was_over(place):
    place.call("pause", "drop", "--for", "0.1s")
    time.sleep(0.2)
    assert place.call("once")[0] == 0
    lines = [json.loads(line) for line in place.call("log", "--json")[1].splitlines()]
    (line,) = [line for line in lines if line["event"] == "resumed"]
    assert (line["folder"], line["detail"]) == ("drop", "the time of the pause is over")


def test_a_pass_leaves_a_paused_folder_alone_and_says_so(place):
    place.machine.write("one.txt", b"1")
    place.call("pause", "drop")
    code, _, err = place.call("once")
    assert code == 1
    assert "drop is paused: nothing is sent or deleted until `syncd resume`" in err
    assert not place.machine.mutations()
    place.call("resume", "drop")
    assert place.call("once")[0] == 0
    assert place.call("once")[0] == 0


@pytest.mark.long
def test_a_wait_goes_on_for_a_pause_that_ends_by_itself(place):
    place.machine.write("one.txt", b"1")
    place.call("pause")
    with place.daemon() as parts:
        until(place, lambda: place.status_of("one.txt") == "held")
        parts.store.write(pauses.pause, "*", time.time() + 3, time.time())
        code, out, err = place.call("wait", "drop/one.txt", "--timeout", "30")
    assert (code, out.startswith("drop/one.txt\t")) == (0, True)
    assert "waiting: paused: nothing is sent or deleted until" in err


@pytest.mark.long
def test_ages_begin_anew_when_a_pause_ends(place):
    with place.daemon():
        place.call("pause")
        until(place, lambda: json.loads(place.call("status", "--json")[1])["paused"])
        time.sleep(1.2)
        resumed_at = time.time()
        place.call("resume")
        until(place, lambda: heartbeat.read(place.machine.state).undisturbed_since > resumed_at)


def test_a_pause_that_is_over_is_not_shown_though_no_daemon_has_ended_it(place):
    place.call("pause", "--for", "0.1s")
    time.sleep(0.2)
    status = json.loads(place.call("status", "--json")[1])
    assert (status["paused"], status["holds"]) == ([], [])


def test_a_folder_whose_directory_is_a_star_is_paused_alone_and_a_star_is_not_everything(place):
    star = place.machine.tmp_path / "*"
    star.mkdir()
    place.machine.settings["SYNCD_FOLDERS"] = json.dumps(
        [{"path": str(star)}, {"path": str(place.machine.drop)}]
    )
    place.configure()
    assert place.call("pause", "--for", "1h")[0] == 0
    code, _, err = place.call("resume", "*")
    assert code == 1
    assert "everything is paused, and not *-" in err
    assert place.call("resume")[1] == "resumed: everything\n"
    code, out, _ = place.call("pause", "*")
    assert (code, out.startswith("paused: *-")) == (0, True)
    ((paused_scope, _),) = [(one["folder"], one["until"]) for one in paused(place)]
    code, _, err = place.call("deletes", "reject", "*")
    assert (code, f"no deletions of {paused_scope} are held" in err) == (1, True)
    assert place.call("resume", "*")[1] == f"resumed: {paused_scope}\n"


@pytest.mark.parametrize(
    "until",
    ["23:59", "23:59:30", "{day}", "{day} 07:30", "{day}T07:30Z", "{day}T07:30:00.000+01:00"],
)
def test_a_pause_takes_a_time_of_day_or_a_date(place, until):
    tomorrow = time.strftime("%Y-%m-%d", time.localtime(time.time() + 86_400))
    code, _, err = place.call("pause", "--until", until.format(day=tomorrow))
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--for", "soon"), "'soon' is not a duration"),
        (("--for", "0"), "more than 0"),
        (("--until", "25:00"), "'25:00' is not a time"),
        (("--until", "12-23"), "'12-23' is not a time"),
        (("--until", "0730"), "'0730' is not a time"),
        (("--until", "2026-W53-7"), "'2026-W53-7' is not a time"),
        (("--until", "2001-01-01 07:30"), "is over"),
        (("--until", "07:30", "--for", "2h"), "use only one"),
        (("nowhere",), "no folder 'nowhere'"),
        (("*",), "no folder '*'"),
    ],
)
def test_a_pause_that_cannot_be_meant_is_refused(place, words, said):
    code, _, err = place.call("pause", *words)
    assert code == 2
    assert said in err
