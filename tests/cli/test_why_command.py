import json
import os
import subprocess

import pytest

from syncd.state import copies, holds
from syncd.state.ledger import Declined, Failure, Offer
from syncd.state.observations import Seen


def uuid(number):
    return f"00000000-0000-4000-8000-{number:012d}"


def test_it_tells_uuid_attempts_error_request_id_and_history(desk, syncd):
    desk.sync(b"x")
    copy = desk.begin(desk.see(b"x", mark=2, age=50.0), "b" * 64)
    failure = Failure("no route", request_id="req-9")
    desk.do(desk.ledger.not_sent, copy.id, desk.now, failure=failure, again_at=desk.now + 300)
    code, out, err = syncd("why", "f/x")
    assert (code, err) == (0, "")
    assert "x  is queued" in out
    assert "Its previous content is still live." in out
    assert "00000000-0000-4000-8000-000000000001" in out
    assert "no route (request req-9)" in out
    assert "next try    in 5 min" in out or "next try    in 4 min" in out
    assert "synced" in out
    # A command and a token are left whole.
    whole = ("  > ", "    token ")
    assert max(len(line) for line in out.splitlines() if not line.startswith(whole)) <= 80
    assert f"token       {desk.copy(copy).token}\n" in out


def test_a_file_is_found_by_the_uuid_of_its_copy_also_of_one_that_is_gone(desk, syncd_json, syncd):
    old = desk.sync(b"x", 1)
    desk.arrive(desk.begin(desk.see(b"x", 2), "b" * 64), 2)
    gone = desk.sync(b"gone", 3)
    desk.do(desk.deletions.begin_delete, [desk.copy(old)], desk.now)
    desk.do(desk.deletions.deleted, [desk.copy(old)], desk.now)
    desk.delete(b"gone", desk.copy(gone))
    for number, path in ((1, "x"), (2, "x"), (3, "gone")):
        code, told = syncd_json("why", uuid(number), "--json")
        assert (code, told["found"], told["path"]) == (0, True, path)
    assert syncd("why", uuid(4))[0] == 1
    (desk.home / "f" / uuid(1)).write_text("a file of that name comes first")
    assert syncd_json("why", f"f/{uuid(1)}", "--json")[1]["path"] == uuid(1)


def test_copies_are_told_the_newest_first_whatever_a_broken_attempt_left(desk, syncd):
    desk.sync(b"x", 1)
    copy = desk.begin(desk.see(b"x", mark=2), "b" * 64)
    desk.do(desk.ledger.reserved, copy.id, uuid(2))
    desk.now += 1
    desk.do(desk.ledger.not_sent, copy.id, desk.now, counts=False)
    told = syncd("why", "f/x")[1].partition("Copies, newest first\n")[2]
    shown = [line.split() for line in told.splitlines() if line.startswith("  ") and " ago" in line]
    assert [(words[0], words[1]) for words in shown] == [
        ("planned", "no"),
        ("retiring", uuid(2)),
        ("live", uuid(1)),
    ]


@pytest.mark.parametrize("given", ["f/x", "{home}/f/x", "x", "./f/../f/x"])
def test_a_path_is_found_absolute_or_relative_to_here_or_to_its_folder(desk, syncd_json, given):
    desk.sync(b"x")
    code, told = syncd_json("why", given.format(home=desk.home), "--json")
    assert code == 0
    assert (told["found"], told["folder"], told["path"]) == (True, "f", "x")


def test_a_path_is_found_through_a_link_above_its_folder(desk, syncd_json):
    desk.sync(b"x")
    (desk.home / "link").symlink_to(desk.home)
    assert syncd_json("why", desk.home / "link/f/x", "--json")[1]["path"] == "x"


def test_an_excluded_file_names_the_rule_and_its_line(desk, syncd, syncd_json):
    (desk.home / "f/drafts").mkdir()
    (desk.home / "f/drafts/a").touch()
    code, out, _ = syncd("why", "f/drafts/a")
    assert code == 0
    assert "a rule excludes it" in out
    assert "exclude drafts/" in out
    _, told = syncd_json("why", "f/drafts/a", "--json")
    assert told["rule"] == f"exclude drafts/ ({desk.home}/syncd.toml line 4)"


def test_a_rule_whose_line_cannot_be_told_is_named_by_its_number(desk, syncd_json, monkeypatch):
    file = desk.home / "syncd.toml"
    file.write_text(file.read_text() + 'exclude = ["*.x", "drafts/"]\n')
    (desk.home / "f/drafts").mkdir()
    (desk.home / "g/drafts").mkdir()
    rules = [syncd_json("why", f"{name}/drafts", "--json")[1]["rule"] for name in ("f", "g")]
    numbers = [f"number {number} of folder {name}" for number, name in ((1, "f"), (2, "g"))]
    assert rules == [f"exclude drafts/ ({number} in {file})" for number in numbers]
    monkeypatch.setenv("SYNCD_FOLDERS", '[{"path": "f", "exclude": ["drafts/"]}]')
    _, told = syncd_json("why", "f/drafts", "--json")
    assert told["rule"] == "exclude drafts/ (number 1 of folder f in SYNCD_FOLDERS)"


def test_a_hidden_file_names_the_rule(desk, syncd):
    (desk.home / "f/.x").touch()
    assert "its name begins with a dot" in syncd("why", "f/.x")[1]


def test_a_file_outside_all_folders_names_them(desk, syncd):
    code, out, _ = syncd("why", "/etc/hostname")
    assert code == 1
    assert "It is in no watch folder." in out


def test_a_file_that_is_neither_known_nor_there_says_so(desk, syncd):
    code, out, _ = syncd("why", desk.home / "f/nope")
    assert code == 1
    assert "There is no such file" in out


def test_a_file_that_was_not_noticed_yet_says_when_it_will_be(desk, syncd):
    (desk.home / "f/x").touch()
    code, out, _ = syncd("why", "f/x")
    assert code == 0
    assert "has not been noticed yet" in out
    assert "within 300 s" in out


def test_without_a_daemon_it_says_to_start_one(desk, syncd):
    desk.see(b"x")
    desk.store.close()
    assert "start the daemon (syncd run)" in syncd("why", "f/x")[1]


def test_a_link_a_directory_and_the_folder_itself_are_told_apart(desk, syncd):
    (desk.home / "f/link").symlink_to("x")
    (desk.home / "f/sub").mkdir()
    assert "no regular file" in syncd("why", "f/link")[1]
    assert "It is a directory" in syncd("why", "f/sub")[1]
    assert "It is a watch folder" in syncd("why", "f")[1]


def test_an_unreadable_file_says_what_would_help(desk, syncd):
    desk.see(b"x", seen=Seen.UNREADABLE, reason="cannot open: Permission denied")
    out = syncd("why", "f/x")[1]
    assert "cannot open: Permission denied" in out
    assert "make it readable" in out


def test_a_refused_file_says_when_it_is_tried_again(desk, syncd):
    desk.refuse(b"x")
    assert "tried again when its content changes" in syncd("why", "f/x")[1].replace("\n  ", " ")


def test_a_video_that_failed_says_what_would_help(desk, syncd):
    copy = desk.begin(desk.see(b"x"))
    desk.arrive(copy, status="pending")
    desk.do(desk.ledger.processing_failed, copy.id, Failure("no video stream"), desk.now)
    out = syncd("why", "f/x")[1]
    assert "no video stream" in out
    assert "replace it by a video that plays" in out
    assert f"type        {copy.content_type}" in out
    # The storage's word of before is not why it failed.
    desk.do(copies.update, copy.id, reason="taken by a storage")
    assert "taken by a storage" not in syncd("why", "f/x")[1]


def test_a_held_file_shows_the_hold_and_its_commands(desk, syncd):
    desk.see(b"x")
    desk.hold("sending", "*", "the key is refused", commands=["export AYMARA_AI_API_KEY=..."])
    out = syncd("why", "f/x")[1]
    assert "x  is held" in out
    assert out.count("export AYMARA_AI_API_KEY=...") == 1


def test_a_next_try_that_is_past_is_due_and_what_is_held_has_none(desk, syncd):
    copy = desk.begin(desk.see(b"x"))
    failure = Failure("no route")
    desk.do(desk.ledger.not_sent, copy.id, desk.now, failure=failure, again_at=desk.now - 10)
    assert "next try    due now" in syncd("why", "f/x")[1]
    desk.hold("sending", "*")
    assert "next try" not in syncd("why", "f/x")[1]


def test_a_deleted_file_still_has_its_history(desk, syncd):
    desk.delete(b"x", desk.sync(b"x"))
    out = syncd("why", "f/x")[1]
    assert "x  is deleted" in out
    assert "deleted" in out
    assert "seen twice" in out


@pytest.mark.parametrize("superseded", [False, True])
def test_the_old_path_of_a_renamed_file_says_where_it_went(desk, syncd, superseded):
    desk.sync(b"x")
    if superseded:
        copy = desk.begin(desk.see(b"x", mark=3, age=50.0), "b" * 64)
        desk.arrive(copy, 2)
    desk.miss(b"x")
    offer = desk.see(b"y", mark=3 if superseded else 1)
    sha256 = ("b" if superseded else "a") * 64
    moved = Offer(offer.id, offer.fingerprint, sha256, "text/plain", "direct", (1,))
    assert desk.do(desk.ledger.begin, moved, desk.now) is Declined.NEEDLESS
    code, out, _ = syncd("why", desk.home / "f/x")
    assert code == 0
    assert "It is gone here" in out
    assert "went with its content to f:y." in out.replace("\n  ", " ")
    assert "went with" not in syncd("why", "f/y")[1]


def test_it_answers_before_anything_has_run(tmp_path, monkeypatch, syncd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop/x").touch()
    monkeypatch.setenv("SYNCD_WATCH", "drop")
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(tmp_path / "state"))
    assert "has not been noticed yet" in syncd("why", "drop/x")[1]


def test_a_folder_that_came_with_the_command_line_has_its_rules_too(desk, syncd):
    (desk.home / "syncd.toml").write_text('state.directory = "state"\n')
    (desk.home / "f" / "x.part").touch()
    out = syncd("why", "f/x.part")[1]
    assert "a rule excludes it" in out
    assert "junk *.part" in out


@pytest.mark.row(60)
def test_names_are_escaped(desk, syncd):
    desk.see(b"\x1b]0;evil\x07\xff")
    out = syncd("why", desk.home / "f" / "\x1b]0;evil\x07\udcff")[1]
    assert "\\x1b]0;evil\\x07\\xff" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("name", [b"it's mine.txt", b"esc\x1b[31m\n.txt", b"bad\xff'.txt"])
def test_the_command_that_helps_is_one_for_bash_whatever_the_name(desk, syncd_json, name):
    desk.refuse(name)
    _, told = syncd_json("why", os.fsdecode(name), "--json")
    (command,) = [line for line in told["advice"] if line.startswith("syncd retry ")]
    command = command.removeprefix("syncd retry ").removesuffix(" (sends it once more as it is)")
    said = subprocess.run(["bash", "-c", f"printf %s {command}"], capture_output=True, check=True)
    assert said.stdout == os.fsencode(desk.home / "f") + b"/" + name


@pytest.mark.parametrize(
    ("stops", "scope", "reason", "unseen"),
    [
        ("deletions", "f", "root_missing", True),
        ("folder", "f", "root_replaced", True),
        ("folder", "f/disk", "root_replaced", True),
        ("deletions", "f/disk", "root_missing", True),
        # It is synced, and only what it lacks is held.
        ("deletions", "f", "root_replaced", False),
        ("folder", "f/dis", "root_replaced", False),
        ("folder", "f", "paused", False),
    ],
)
def test_of_a_file_whose_folder_is_away_the_disk_is_told_as_it_was_last_seen(
    desk, syncd, syncd_json, stops, scope, reason, unseen
):
    desk.sync(b"disk/x")
    hold = {"stops": stops, "scope": scope, "reason": reason}
    desk.do(holds.place, **hold, message="m", commands=["findmnt --target d"], now=desk.now)
    out = syncd("why", "f/disk/x")[1]
    assert "is synced" in out
    assert ("on disk" in out, "last seen" in out) == (not unseen, unseen)
    told = syncd_json("why", "f/disk/x", "--json")[1]
    assert (
        f"({reason}): what is told of the disk is what was last seen" in told["explanation"]
    ) is (unseen)
    assert ("findmnt --target d" in told["advice"]) is unseen


@pytest.mark.parametrize(
    ("stops", "scope", "reason"),
    [("sending", "*", "key_refused"), ("folder", "f", "paused")],
)
def test_of_a_held_file_the_hold_is_named(desk, syncd_json, stops, scope, reason):
    desk.see(b"waits")
    desk.do(holds.place, stops=stops, scope=scope, reason=reason, message="m", now=desk.now)
    named = {"stops": "deletions", "scope": "f", "reason": "many_missing"}
    desk.do(holds.place, **named, message="of others", now=desk.now)
    told = syncd_json("why", "f/waits", "--json")[1]
    assert told["status"] == "held"
    assert told["explanation"].startswith(f"It waits for the end of a hold: {reason}.")


def test_of_a_directory_and_a_glob_the_open_files_are_told(desk, syncd, syncd_json):
    desk.sync(b"sub/synced")
    for number in range(11):
        desk.refuse(b"sub/%02d" % number)
    desk.see(b"sub/waits")
    (desk.home / "f/sub").mkdir()
    code, out, _ = syncd("why", "f/sub")
    assert code == 0
    assert "It is a directory" in out
    assert "13 files: 11 failed, 1 queued" in out
    assert out.count("too large (status 413") >= 10
    assert "sub/09  is failed" in out
    assert "sub/10" not in out
    assert "and 2 more" in out
    code, told = syncd_json("why", "*/sub/1*", "--json")
    assert (code, told["files"], told["open"]) == (0, 1, {"failed": 1})
    assert [story["path"] for story in told["stories"]] == ["sub/10"]
    assert "1 file: all at rest" in syncd("why", "f/sub/s*")[1]


def test_each_path_is_told_and_one_that_is_nothing_makes_it_fail(desk, syncd):
    desk.sync(b"x")
    code, out, _ = syncd("why", "f/x", "f", "f/nope", "*.nope", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert (code, [story["found"] for story in told]) == (1, [True, True, False, False])
    assert [story.get("files") for story in told] == [None, 1, None, None]
    assert syncd("why", "f/x", "f")[0] == 0
