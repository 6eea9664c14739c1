"""Folders that are swapped, re-ordered or made anew between two passes of a real syncd."""

import json
import shutil

import pytest

#: A pass of `once` takes a second, and half a minute on a machine that is busy.
pytestmark = pytest.mark.timeout(300)


def folders(machine, *paths, **more):
    settings = {"settle_seconds": 0, "grace_seconds": 0.2} | more
    machine.settings["SYNCD_FOLDERS"] = json.dumps([{"path": str(p), **settings} for p in paths])


def swapped(machine):
    """Put a new, empty folder in the place of the drop; return where the right one is."""
    right = machine.drop.with_name("right")
    machine.drop.rename(right)
    machine.drop.mkdir()
    return right


@pytest.mark.long
@pytest.mark.row(65)
def test_another_disk_with_the_same_names_replaces_and_deletes_nothing(machine):
    folders(machine, machine.drop)
    for number in range(30):
        machine.write(f"IMG_{number:04}.JPG", b"holiday %d" % number)
    assert machine.command("once").returncode == 0
    before = machine.objects()
    asked = len(machine.mutations())
    right = swapped(machine)
    for number in range(30):
        machine.write(f"IMG_{number:04}.JPG", b"a picture of another camera, %d" % number)
    assert machine.command("once").returncode == 1
    assert machine.holds() == {("folder", "root_replaced")}
    shutil.rmtree(machine.drop)
    right.rename(machine.drop)
    assert machine.command("once").returncode == 0
    assert (machine.objects(), len(machine.mutations())) == (before, asked)


@pytest.mark.long
@pytest.mark.row(65)
def test_an_emptied_folder_takes_nothing_away_from_another_in_its_place(machine):
    folders(machine, machine.drop, after_upload="delete")
    machine.write("a", b"a")
    assert machine.command("once").returncode == 0
    assert not list(machine.drop.iterdir())
    swapped(machine)
    secret = machine.write("secret", b"of somebody")
    assert machine.command("once").returncode == 1
    assert secret.exists()
    assert len(machine.objects()) == 1


@pytest.mark.row(70)
@pytest.mark.long
def test_folders_of_one_name_are_who_they_were_in_whatever_order_they_stand(machine):
    one, other = machine.tmp_path / "a/drop", machine.tmp_path / "b/drop"
    for number, path in enumerate((one, other)):
        path.mkdir(parents=True)
        (path / "x").write_bytes(b"%d" % number)
    folders(machine, one, other)
    assert machine.command("once").returncode == 0
    before, asked = machine.objects(), len(machine.mutations())
    for paths in ((other,), (other, one), (one,), (one, other)):
        folders(machine, *paths)
        assert machine.command("once").returncode == 0
    assert (machine.objects(), len(machine.mutations())) == (before, asked)


@pytest.mark.row(65)
@pytest.mark.long
def test_a_scratch_volume_is_another_one_each_time_and_everything_is_sent_and_kept(machine):
    folders(machine, machine.drop, root="any")
    for pod in range(3):
        for number in range(25):
            machine.write(f"{number}", b"%d of pod %d" % (number, pod))
        machine.write("same", b"the same in all")
        assert machine.command("once").returncode == 0
        assert machine.holds() == set()
        machine.drop.rename(machine.tmp_path / f"old-{pod}")
        machine.drop.mkdir()
    assert len(machine.objects()) == 3 * 25 + 1
    assert machine.objects("deleted") == {}
