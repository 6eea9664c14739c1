import json

import pytest

pytestmark = pytest.mark.long


@pytest.fixture
def two_folders(machine):
    """A machine with a second folder of the same workspace."""
    other = machine.tmp_path / "other"
    other.mkdir()
    folders = json.loads(machine.settings["SYNCD_FOLDERS"])
    folders.append(folders[0] | {"path": str(other)})
    machine.settings["SYNCD_FOLDERS"] = json.dumps(folders)
    machine.other = other
    return machine


def uuids(machine):
    return {path: row["file_uuid"] for path, row in machine.manifest().items()}


@pytest.mark.parametrize("running", [True, False], ids=["seen by events", "found by scans"])
def test_a_tree_moved_within_and_across_folders_makes_no_traffic(two_folders, running):
    machine = two_folders
    for number in range(5):
        machine.write(f"tree/d/{number}", b"content %d" % number)
        machine.write(f"within/{number}", b"and within %d" % number)
    machine.start()
    machine.until(lambda: len(machine.objects()) == 10 and not machine.difference())
    before, sent = uuids(machine), len(machine.mutations())
    if not running:
        machine.stop()
    (machine.drop / "tree").rename(machine.other / "moved")
    (machine.drop / "within").rename(machine.drop / "renamed")
    if not running:
        machine.start()
    wanted = {
        path.replace("tree/", "moved/").replace("within/", "renamed/"): uuid
        for path, uuid in before.items()
    }
    machine.until(lambda: uuids(machine) == wanted)
    machine.until(lambda: {row["status"] for row in machine.manifest().values()} == {"synced"})
    assert len(machine.mutations()) == sent
    told = json.loads(machine.command("why", str(machine.other / "moved/d/3"), "--json").stdout)
    assert [line["event"] for line in told["history"]] == ["moved"]
    machine.stop()


def test_names_that_would_steer_a_terminal_are_shown_escaped(machine):
    hostile = [
        b"a\x1b]0;owned\x07",
        b"b\nsecond line",
        b"c\xe2\x80\xaergb",
        b"d\xff",
        b"e\r\x1b[2J",
    ]
    for name in hostile:
        (machine.drop / name.decode("utf-8", "surrogateescape")).write_bytes(b"of " + name)
    shown = [machine.command("once"), machine.command("ls"), machine.command("status")]
    for name in hostile:
        path = machine.drop / name.decode("utf-8", "surrogateescape")
        shown.append(machine.command("why", str(path)))
    assert len(machine.objects()) == len(hostile)
    for done in shown:
        for text in (done.stdout, done.stderr):
            assert text.replace("\n", "").isprintable(), text
    assert len(shown[1].stdout.splitlines()) == len(hostile)
