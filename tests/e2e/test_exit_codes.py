"""The exit codes of `once`, `verify` and `adopt`, their words, and the requests that they send."""

import json
import shutil
from contextlib import closing

import pytest

from syncd.emulator import Emulator
from syncd.files_api import FilesClient, NewFile

OURS, THEIRS = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
UPLOADS = "POST /v2/files*"


def tally(said):
    """Return a pass's exit code and the first line that it said."""
    code, out, _ = said
    return code, out.partition("\n")[0]


@pytest.fixture
def echo():
    return "name"


@pytest.fixture
def emulator(tmp_path, echo):
    keys = {"e2e-key": OURS, "rotated": OURS, "foreign": THEIRS}
    with Emulator(data=tmp_path / "emulator", api_keys=keys, echo=echo) as running:
        yield running


def others(machine, key):
    """A client of somebody else's."""
    return closing(FilesClient(base_url=machine.emulator.url, api_key=key))


def put(machine, key):
    with others(machine, key) as client:
        client.create([NewFile(local_file_path="by other means")])


def lose(machine):
    for part in machine.state.glob("state.db*"):
        part.unlink()


@pytest.mark.long
@pytest.mark.row(40)
def test_a_pass_that_meets_a_used_up_quota_gives_up_for_now_and_the_next_goes_on(machine, syncd):
    machine.faults({"match": UPLOADS, "times": 20, "action": {"status": 402}})
    machine.write("a", b"a")
    code, out, err = syncd("once")
    assert (code, out.splitlines()[0]) == (1, "0 synced, 1 waiting, 0 failed")
    assert "a quota is used up" in err
    assert machine.holds() == {("sending", "quota")}
    assert "> syncd retry" in syncd("status")[1]
    machine.faults()
    assert tally(syncd("once")) == (0, "1 synced, 0 waiting, 0 failed")
    assert machine.holds() == set()


@pytest.mark.long
def test_a_pass_is_told_by_status_until_a_daemon_starts(machine, syncd):
    machine.write("a", b"a")
    assert syncd("once")[0] == 0
    assert syncd("status")[:2][0] == 0
    machine.faults({"match": UPLOADS, "action": {"status": 401}})
    machine.write("b", b"b")
    assert syncd("once")[0] == 77
    code, out, _ = syncd("status")
    assert code == 1
    assert "the last pass left something undone: the Files API refuses the key" in out
    machine.faults()
    machine.start()
    machine.stop()
    assert "no daemon is running\n    > syncd run" in syncd("status")[1]


def test_adopt_where_nothing_is_lost_says_that_all_is_known(machine, syncd):
    machine.write("a", b"a")
    assert syncd("once")[0] == 0
    code, out, _ = syncd("adopt")
    assert code == 0
    assert out.splitlines() == [
        "1 remote object compared: 0 taken up, 0 kept beside the live ones, 0 gone",
        "1 of them in the ledger already",
    ]


@pytest.mark.long
@pytest.mark.row(40)
def test_a_pass_after_which_a_file_is_refused_for_good_exits_with_1(machine, syncd):
    machine.faults({"match": UPLOADS, "action": {"status": 422}})
    machine.write("refused", b"a")
    code, out, err = syncd("once")
    assert (code, out.splitlines()[0]) == (1, "0 synced, 0 waiting, 1 failed")
    assert "`syncd status`" in err


@pytest.mark.long
def test_a_pass_counts_the_files_that_are_held_and_each_file_once(machine, syncd):
    machine.settings["SYNCD_DELETIONS__HOLD_FILES"] = "3"
    machine.settings["SYNCD_DELETIONS__GRACE_SECONDS"] = "0"
    machine.write("kept", b"kept")
    for number in range(5):
        machine.write(f"d/{number}", b"%d" % number)
    assert tally(syncd("once")) == (0, "6 synced, 0 waiting, 0 failed")
    shutil.rmtree(machine.drop / "d")
    assert tally(syncd("once", "--wait-deletions")) == (1, "1 synced, 0 waiting, 0 failed, 5 held")


@pytest.mark.long
def test_a_pass_for_one_folder_waits_for_no_other(machine, syncd, tmp_path):
    """Files that wait in a folder that this pass was not given are left to the next one."""
    other = tmp_path / "other"
    other.mkdir()
    machine.write("a", b"a")
    (other / "b").write_bytes(b"b")
    assert syncd("once", str(machine.drop), key="nobody's")[0] == 77
    assert tally(syncd("once", str(other))) == (0, "1 synced, 0 waiting, 0 failed")
    assert tally(syncd("once", str(machine.drop))) == (0, "2 synced, 0 waiting, 0 failed")


@pytest.mark.row(38)
def test_a_pass_with_a_key_that_is_refused_exits_with_77_and_so_do_the_commands(machine, syncd):
    machine.write("a", b"a")
    assert syncd("once")[0] == 0
    sent = machine.mutations()
    machine.write("b", b"b")
    code, out, err = syncd("once", key="nobody's")
    assert (code, out.splitlines()[0]) == (77, "1 synced, 1 waiting, 0 failed")
    assert "refuses the key" in err
    assert err.count("(status 401") == 1, "why, once"
    assert machine.mutations() == sent
    assert [syncd(command, key="nobody's")[0] for command in ("verify", "adopt")] == [77, 77]
    assert syncd("once")[0] == 0


@pytest.mark.long
@pytest.mark.row(38)
def test_a_pass_with_a_key_that_proves_nothing_sends_nothing_and_exits_with_1(machine, syncd):
    machine.write("a", b"a")
    assert syncd("once")[0] == 0
    with others(machine, "rotated") as client:
        for file_uuid in machine.objects():
            client.delete(file_uuid)
    machine.write("b", b"b")
    sent = machine.mutations()
    code, _, err = syncd("once", key="rotated")
    assert code == 1
    assert "the key may be of another organization" in err
    assert machine.mutations() == sent
    for command in ("verify", "adopt"):
        code, _, err = syncd(command, key="rotated")
        assert (code, "put any one file" in err) == (1, True)
    put(machine, "rotated")
    code, _, err = syncd("once", key="rotated")
    # A recent copy is gone: the state may be an older one.
    assert (code, "nothing is sent before `syncd adopt` has run" in err) == (1, True)
    assert syncd("adopt", key="rotated")[0] == 0
    assert syncd("once", key="rotated")[1].startswith("2 synced")


@pytest.mark.long
@pytest.mark.row(38)
def test_a_pass_for_another_organization_or_service_exits_with_78_and_sends_nothing(machine, syncd):
    machine.write("a", b"a")
    assert syncd("once")[0] == 0
    put(machine, "foreign")
    machine.write("b", b"b")
    sent = machine.mutations()
    for words in ("once", "verify", "adopt"):
        code, _, err = syncd(words, key="foreign")
        assert (code, f"belongs to {OURS}" in err) == (78, True)
    code, _, err = syncd("once", SYNCD_API__BASE_URL="http://127.0.0.1:1")
    assert (code, "belongs to base url" in err) == (78, True)
    assert machine.mutations() == sent


@pytest.mark.long
def test_verify_says_what_differs_and_exits_with_1(machine, syncd):
    machine.write("a", b"a")
    assert syncd("once")[0] == 0
    assert syncd("verify")[:2] == (
        0,
        "1 remote object, 1 of them in our ledger\nall else is as the ledger has it\n",
    )
    (file_uuid,) = machine.objects()
    with others(machine, "rotated") as client:
        client.delete(file_uuid)
    code, out, _ = syncd("verify")
    assert code == 1
    assert f"1 gone remotely, and not by syncd:\n  {file_uuid}  drop/a\n" in out
    # It is recorded, and held for a person to decide on: no finding any more.
    assert syncd("verify")[0] == 0
    assert machine.holds() == {("sending", "remote_gone")}


@pytest.mark.long
@pytest.mark.row(27)
def test_videos_are_adopted_processed_or_failed_and_sent_no_second_time(machine, syncd, video):
    machine.write("clip.mp4", video)
    machine.write("broken.mp4", b"\0\0\0\x10ftypisom cut off")
    assert syncd("once")[0] == 1, "one of them cannot be processed"
    before = machine.manifest()
    sent = machine.mutations()
    lose(machine)
    code, out, _ = syncd("adopt", "--json")
    adopted = json.loads(out)
    assert (code, adopted["live"], adopted["unknown"], adopted["gone"]) == (0, 2, 0, 0)
    assert syncd("verify")[0] == 0, "what the service has yet to say is no finding"
    code, out, _ = syncd("once")
    assert (code, out.splitlines()[0]) == (1, "1 synced, 0 waiting, 1 failed")
    told = ("status", "file_uuid", "sha256", "frame_count", "processing_status", "error")
    after = machine.manifest()
    assert {name: [row[key] for key in told] for name, row in after.items()} == {
        name: [row[key] for key in told] for name, row in before.items()
    }
    assert machine.mutations() == sent
    assert syncd("verify")[0] == 0


@pytest.mark.long
@pytest.mark.row(27)
@pytest.mark.parametrize("echo", ["none"])
def test_where_nothing_is_echoed_adopt_takes_nothing_up_and_all_is_sent_anew(machine, syncd):
    for name in ("a", "b"):
        machine.write(name, name.encode())
    assert syncd("once")[0] == 0
    assert syncd("verify")[0] == 0
    first = set(machine.objects())
    sent = machine.mutations()
    lose(machine)
    assert syncd("once")[0] == 1
    assert machine.holds() == {("sending", "state_lost")}
    code, out, _ = syncd("adopt")
    assert code == 0
    assert "2 remote objects compared: 0 taken up" in out
    assert "none of them shows a name that syncd gave it" in out
    assert machine.mutations() == sent
    assert syncd("once")[0] == 0
    assert first < set(machine.objects()), "nothing that may be somebody else's is deleted"
    assert len(machine.objects()) == 4
    assert syncd("verify")[0] == 0


@pytest.mark.long
@pytest.mark.row(84)
def test_once_does_not_call_it_done_while_rules_that_cannot_be_used_keep_a_directory_back(
    machine, syncd
):
    (machine.drop / "sub").mkdir()
    (machine.drop / "sub" / ".syncdignore").write_text("[z-a]\n")
    (machine.drop / "sub" / "a").write_text("kept back")
    (machine.drop / "b").write_text("sent")
    code, _, errors = syncd("once")
    assert code == 1
    assert "sub/.syncdignore cannot be used: its line 1 holds a range" in errors
    code, shown, _ = syncd("status", "--json")
    assert code == 1
    assert "sub/.syncdignore cannot be used" in json.loads(shown)["reasons"][0]
    listed = [json.loads(line)["path"] for line in syncd("ls", "--json")[1].splitlines()]
    assert listed == ["b"]
    code, story, _ = syncd("why", str(machine.drop / "sub" / "a"))
    assert "sub/.syncdignore cannot be used" in story
    (machine.drop / "sub" / ".syncdignore").unlink()
    assert syncd("once")[0] == 0
    assert syncd("status")[0] == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"after_upload": "move", "move_to": "blocked/in"}, "files are not taken away after"),
        ({"receipts": "blocked/in"}, "receipts cannot be written"),
    ],
    ids=["move_to", "receipts"],
)
def test_a_pass_that_cannot_do_what_follows_an_upload_exits_with_1_each_time(
    machine, syncd, tmp_path, settings, said
):
    (tmp_path / "blocked").touch()
    (folder,) = json.loads(machine.settings["SYNCD_FOLDERS"])
    places = {
        key: value.replace("blocked", f"{tmp_path}/blocked") for key, value in settings.items()
    }
    machine.settings["SYNCD_FOLDERS"] = json.dumps([folder | places])
    machine.write("a", b"a")
    for _ in range(2):
        code, _, err = syncd("once")
        assert (code, said in err) == (1, True)
    (tmp_path / "blocked").unlink()
    assert syncd("once")[0] == 0


@pytest.mark.row(84)
def test_a_pattern_that_cannot_be_read_is_named_and_ends_with_78(machine, syncd):
    (folder,) = json.loads(machine.settings["SYNCD_FOLDERS"])
    folders = json.dumps([folder | {"exclude": ["[z-a]"]}])
    code, _, errors = syncd("once", SYNCD_FOLDERS=folders)
    assert code == 78
    assert "the pattern '[z-a]' of exclude is not in gitignore syntax" in errors
