"""The main job, on real inotify, real sockets, a real SQLite file and a real MP4."""

import os
import signal
import stat
import time

import pytest

from syncd.emulator import PERSONALITIES


@pytest.mark.parametrize(
    "emulator",
    [None, *(pytest.param(name, marks=pytest.mark.long) for name in PERSONALITIES)],
    indirect=True,
)
def test_files_are_created_changed_renamed_and_deleted_and_the_service_follows(machine, video):
    machine.start()
    machine.write("notes.txt", b"one")
    machine.write("a/b/data.csv", b"1,2\n" * 1000)
    machine.write("empty.bin", b"")
    machine.write("clip.mp4", video)
    machine.settles()
    rows = machine.manifest()
    assert rows["clip.mp4"]["processing_status"] == "completed"
    assert rows["clip.mp4"]["frame_count"] == 24

    before = rows["notes.txt"]["file_uuid"]
    machine.write("notes.txt", b"two")
    machine.settles()
    assert machine.manifest()["notes.txt"]["file_uuid"] != before
    assert before in machine.objects("deleted")

    sent = len(machine.mutations())
    kept = machine.manifest()["a/b/data.csv"]["file_uuid"]
    (machine.drop / "a" / "b" / "data.csv").rename(machine.drop / "moved.csv")
    machine.settles()
    assert machine.manifest()["moved.csv"]["file_uuid"] == kept
    assert len(machine.mutations()) == sent, "a rename needs no traffic"

    (machine.drop / "clip.mp4").unlink()
    machine.settles()
    assert rows["clip.mp4"]["file_uuid"] in machine.objects("deleted")
    assert machine.stop() == 0


@pytest.mark.long
def test_changes_made_while_it_was_down_are_noticed_at_the_start(machine):
    for name in ("stays", "changes", "goes", "moves"):
        machine.write(name, name.encode() * 100)
    machine.start()
    machine.settles()
    kept = {n: machine.manifest()[n]["file_uuid"] for n in ("stays", "moves")}
    assert machine.stop() == 0
    machine.write("changes", b"other content")
    machine.write("new", b"brand new")
    (machine.drop / "goes").unlink()
    (machine.drop / "moves").rename(machine.drop / "moved")
    machine.start()
    machine.settles()
    rows = machine.manifest()
    assert (rows["stays"]["file_uuid"], rows["moved"]["file_uuid"]) == tuple(kept.values())


@pytest.mark.long
def test_a_second_start_with_nothing_changed_makes_no_mutating_request(machine):
    machine.write("a", b"a")
    machine.start()
    machine.settles()
    machine.stop()
    sent = len(machine.mutations())
    machine.start()
    time.sleep(2)
    machine.stop()
    assert len(machine.mutations()) == sent


@pytest.mark.long
def test_a_daemon_killed_after_an_unanswered_upload_finds_it_and_sends_nothing_twice(machine):
    machine.write("first", b"lets the echo be learned")
    machine.start()
    machine.settles()
    machine.faults({"match": "POST /v2/files/-/uploads", "times": 1, "action": {"delay": 30}})
    machine.write("a", b"a" * 1000)
    machine.until(lambda: machine.status_of("a") == "uploading")
    machine.stop(signal.SIGKILL)
    machine.faults()
    machine.start()
    machine.settles()
    assert len([o for o in machine.ask("objects") if o["size"] == 1000]) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "action",
    [
        "drop_after",
        *(
            pytest.param(action, marks=pytest.mark.long)
            for action in ("drop_before", "garbage", "truncate")
        ),
    ],
)
def test_an_answer_that_never_comes_or_says_nothing_leads_to_exactly_one_copy(machine, action):
    machine.settings["SYNCD_UPLOAD__METHOD"] = "direct"
    machine.faults({"match": "POST /v2/files/-/uploads", "every": 2, "action": action})
    for number in range(6):
        machine.write(f"f{number}", os.urandom(500))
    machine.start()
    machine.settles(40)
    machine.stop()
    contents = [o["sha256"] for o in machine.objects().values()]
    assert len(contents) == len(set(contents)) == 6


@pytest.mark.long
def test_a_busy_service_is_obeyed_and_everything_arrives(machine):
    machine.settings["SYNCD_UPLOAD__METHOD"] = "direct"
    machine.faults(
        {
            "match": "POST /v2/files/-/uploads",
            "times": 2,
            "action": {"status": 429, "retry_after": 1},
        }
    )
    machine.write("a", b"a")
    machine.start()
    machine.settles()
    uploads = [r for r in machine.ask("requests") if r["path"].endswith("/uploads")]
    refused = [r for r in uploads if r["status"] == 429]
    assert refused
    assert uploads[-1]["status"] == 200


@pytest.mark.long
def test_one_bad_file_is_marked_with_the_reason_and_the_others_are_unharmed(machine):
    machine.settings["SYNCD_UPLOAD__DIRECT_MAX"] = "1KiB"
    machine.start()
    machine.write("first", b"first")
    machine.until(lambda: '"echo": "proven"' in machine.command("status", "--json").stdout)
    # Small files are sent directly and refused; the large one passes.
    machine.faults({"match": "POST /v2/files/-/uploads", "action": {"status": 422}})
    machine.write("bad", b"bad")
    machine.until(lambda: machine.manifest().get("bad", {}).get("error"))
    machine.write("good", b"good" * 1000)
    machine.until(lambda: machine.status_of("good") == "synced")
    machine.until(lambda: machine.status_of("bad") == "failed")
    machine.faults()
    why = machine.command("why", str(machine.drop / "bad"))
    assert "422" in why.stdout
    assert "failed" in why.stdout
    status = machine.command("status")
    assert status.returncode == 1
    machine.write("bad", b"better now")
    machine.settles()


@pytest.mark.long
def test_a_broken_video_fails_with_the_services_words_and_keeps_nothing_else_waiting(machine):
    machine.write("broken.mp4", b"\0\0\0\x10ftypisom" + b"cut off" * 100)
    machine.write("fine.txt", b"fine")
    machine.start()
    machine.until(lambda: machine.status_of("broken.mp4") == "failed")
    machine.until(lambda: machine.status_of("fine.txt") == "synced")
    assert "cannot be read" in str(machine.manifest()["broken.mp4"]["error"])


@pytest.mark.long
def test_a_wrong_key_holds_everything_and_loses_nothing(machine):
    machine.settings["AYMARA_AI_API_KEY"] = "wrong-key-canary"
    machine.write("a", b"a")
    machine.start()
    machine.until(lambda: machine.holds() == {("sending", "key_refused")})
    assert "key_refused" in machine.command("status", "--json").stdout
    assert machine.stop() == 0
    assert "wrong-key-canary" not in machine.log
    assert machine.command("once").returncode == 77
    machine.settings["AYMARA_AI_API_KEY"] = "e2e-key"
    machine.start()
    machine.settles()


@pytest.mark.long
def test_a_missing_root_deletes_nothing_and_its_return_causes_no_traffic(machine):
    machine.write("a", b"a")
    machine.write("b", b"b")
    machine.start()
    machine.settles()
    sent = len(machine.mutations())
    away = machine.tmp_path / "away"
    machine.drop.rename(away)
    machine.until(lambda: machine.holds() == {("deletions", "root_missing")})
    time.sleep(1.5)
    assert len(machine.objects()) == 2
    away.rename(machine.drop)
    machine.until(lambda: not machine.holds())
    machine.settles()
    assert len(machine.mutations()) == sent


@pytest.mark.long
def test_a_root_replaced_by_an_empty_folder_deletes_nothing(machine):
    machine.write("a", b"a")
    machine.start()
    machine.settles()
    machine.drop.rename(machine.tmp_path / "away")
    machine.drop.mkdir()
    machine.until(lambda: {stops for stops, _ in machine.holds()} == {"folder"})
    time.sleep(1.5)
    assert len(machine.objects()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_shown_and_never_taken_for_missing(machine):
    secret = machine.write("secret", b"s")
    machine.write("open", b"o")
    machine.start()
    machine.settles()
    secret.write_bytes(b"new words")
    secret.chmod(0)
    time.sleep(2.5)
    assert len(machine.objects()) == 2
    secret.chmod(stat.S_IRUSR)
    machine.settles(40)


@pytest.mark.long
def test_once_sends_everything_and_ends(machine, video):
    machine.write("a.txt", b"a")
    machine.write("clip.mp4", video)
    done = machine.command("once")
    assert done.returncode == 0, done.stderr
    assert machine.difference() == []


@pytest.mark.long
def test_a_pass_after_one_that_reached_nobody_tries_at_once(machine, emulator):
    # So many that the first round of them shows that nobody is there.
    for number in range(6):
        machine.write(f"{number}", b"%d" % number)
    emulator.stop()
    first = machine.command("once")
    assert first.returncode == 1
    assert "cannot be reached" in first.stderr
    emulator.start()
    assert machine.command("once").returncode == 0
    assert machine.difference() == []


@pytest.mark.long
def test_sigterm_in_the_middle_of_an_upload_leaves_no_half_file_and_no_doubt(machine):
    machine.settings["SYNCD_UPLOAD__DRAIN_SECONDS"] = "0.2"
    machine.settings["SYNCD_UPLOAD__METHOD"] = "direct"
    machine.faults({"match": "POST /v2/files/-/uploads", "times": 1, "action": {"delay": 3}})
    big = machine.drop / "big"
    with big.open("wb") as file:
        file.truncate(200_000_000)
    machine.start()
    machine.until(lambda: machine.status_of("big") == "uploading")
    began = time.monotonic()
    assert machine.stop() == 0
    assert time.monotonic() - began < 10
    machine.faults()
    machine.start()
    machine.settles(40)
    assert len(machine.ask("objects")) == 1
    assert machine.peak_memory_mb() < 100, "memory does not grow with the file"
