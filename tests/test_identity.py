"""The identity of a root, on every type of filesystem that can be made here."""

import os
import shutil
import subprocess
from dataclasses import replace

import pytest

from syncd import identity
from syncd.identity import RootIdentity, identify

KINDS = ("ext4", "xfs", "btrfs", "vfat")


def run(*command):
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )


class Disks:
    """Disk images, loop devices and mounts, all removed at the end."""

    def __init__(self, home):
        self.home = home
        self.root = home / "mnt"
        self.root.mkdir()
        self.devices = set()

    def done(self, *command):
        outcome = run(*command)
        if outcome.returncode:
            pytest.skip(f"{command[0]} cannot be had here: {outcome.stderr.strip()}")
        return outcome.stdout.strip()

    def image(self, kind, name):
        maker = shutil.which(f"mkfs.{kind}", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if maker is None:
            pytest.skip(f"there is no mkfs.{kind}")
        image = self.home / name
        with image.open("wb") as file:
            file.truncate(320 << 20)
        self.done(maker, image)
        return image

    def attach(self, image, device=None):
        made = self.done("losetup", *([device] if device else ["-f", "--show"]), image) or device
        self.devices.add(made)
        return made

    def detach(self, device):
        self.done("losetup", "-d", device)
        self.devices.discard(device)

    def mount(self, *arguments):
        self.done("mount", *arguments, self.root)

    def umount(self):
        self.done("umount", self.root)

    def identify(self):
        return identify(os.fsencode(self.root))

    def end(self):
        while run("umount", "-l", self.root).returncode == 0:
            pass
        for device in self.devices:
            run("losetup", "-d", device)


@pytest.fixture
def disks(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    made = Disks(tmp_path)
    yield made
    made.end()


@pytest.mark.row(65)
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_is_recognized_on_any_device_and_another_disk_is_not(disks, kind):
    images = [disks.image(kind, name) for name in ("one", "other")]
    device = disks.attach(images[0])
    disks.mount(device)
    first = disks.identify()
    disks.umount()
    disks.detach(device)
    disks.attach(images[1], device)
    disks.mount(device)
    assert disks.identify() != first
    disks.umount()
    second = disks.attach(images[0])
    assert second != device
    disks.mount(second)
    assert disks.identify() == first
    assert first.is_stable


@pytest.mark.row(65)
def test_subvolumes_of_one_btrfs_differ(disks):
    disks.mount(disks.attach(disks.image("btrfs", "one")))
    for name in ("a", "b"):
        disks.done("btrfs", "subvolume", "create", disks.root / name)
    a, b = (identify(os.fsencode(disks.root / name)) for name in ("a", "b"))
    assert a.inode == b.inode
    assert a.filesystem.partition(",")[0] != b.filesystem.partition(",")[0]


@pytest.mark.row(65)
def test_two_tmpfs_differ(disks):
    disks.mount("-t", "tmpfs", "tmpfs")
    first = disks.identify()
    assert disks.identify() == first
    disks.umount()
    disks.mount("-t", "tmpfs", "tmpfs")
    assert disks.identify() != first
    assert first.is_stable


@pytest.mark.row(65)
def test_an_overlay_is_identified_by_its_upper_layer(disks):
    layers = disks.home / "layers"
    layers.mkdir()
    disks.root = layers
    disks.mount("-t", "tmpfs", "tmpfs")
    for name in ("l", "u1", "w1", "u2", "w2", "m"):
        (layers / name).mkdir()
    (layers / "l/drop").mkdir()

    def identified(number):
        options = f"lowerdir={layers}/l,upperdir={layers}/u{number},workdir={layers}/w{number}"
        disks.done("mount", "-t", "overlay", "overlay", "-o", options, layers / "m")
        # The first write copies the directory up, which must not change its identity.
        before = identify(os.fsencode(layers / "m/drop"))
        (layers / "m/drop/x").touch()
        assert identify(os.fsencode(layers / "m/drop")) == before
        disks.done("umount", layers / "m")
        return before

    first = identified(1)
    assert identified(2) != first
    assert identified(1) == first
    assert first.is_stable


@pytest.mark.row(65)
def test_a_fuse_mount_is_identified_by_its_source(disks):
    if shutil.which("bindfs") is None:
        pytest.skip("there is no bindfs")
    seen = []
    for name in ("a", "b", "a"):
        (disks.home / name).mkdir(exist_ok=True)
        disks.done("bindfs", disks.home / name, disks.root)
        seen.append(disks.identify())
        disks.umount()
    assert seen[0] == seen[2] != seen[1]
    assert (seen[0].inode, seen[0].is_stable) == (0, True)


def test_a_marker_identifies_a_root_when_nothing_else_is_stable(tmp_path, monkeypatch):
    (tmp_path / ".here").touch()
    monkeypatch.setattr(identity, "_evidence_of", lambda _: ())
    assert not identify(os.fsencode(tmp_path)).is_stable
    assert identify(os.fsencode(tmp_path), b".here").is_stable


def test_a_new_directory_with_a_reused_inode_differs(disks, monkeypatch):
    disks.mount("-t", "tmpfs", "tmpfs")
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result((0o40755, 7, 1, 2, 0, 0, 0, 0, 0, 0)))
    path = disks.root / "in"
    path.mkdir()
    first = identify(os.fsencode(path))
    path.rmdir()
    path.mkdir()
    second = identify(os.fsencode(path))
    assert second.inode == first.inode
    assert second != first


@pytest.mark.row(76)
def test_a_directory_removed_beneath_its_bind_mount_is_missing(disks):
    source = disks.home / "source"
    source.mkdir()
    disks.mount("--bind", source)
    disks.identify()
    source.rmdir()
    with pytest.raises(FileNotFoundError):
        disks.identify()


def test_an_identity_from_version_0_1_0_matches_only_if_its_fsid_is_a_uuid():
    known = RootIdentity(str(0x5F), 2)
    assert RootIdentity("fsid 5f, born 1.0", 2).is_same(known)
    assert not RootIdentity("fsid 5f, born 1.0", 3).is_same(known)
    assert not RootIdentity("uuid 5f, born 1.0", 2).is_same(known)


@pytest.fixture
def looks(monkeypatch):
    """Return the roots that were looked at whole."""
    view, roots = identity.view, []

    def noted(root, *how):
        roots.append(root)
        return view(root, *how)

    monkeypatch.setattr(identity, "view", noted)
    return roots


def test_a_root_is_looked_at_whole_only_where_something_moved(tmp_path, looks):
    root = tmp_path / "root"
    root.mkdir()
    seen = [identity.glance(bytes(root)) for _ in range(3)]
    assert seen[0] == seen[1] == seen[2]
    assert len(looks) == 1
    root.rename(tmp_path / "old")
    root.mkdir()
    assert identity.glance(bytes(root)) != seen[0]
    root.rmdir()
    assert identity.glance(bytes(root)).parts == {b"": None}
    (tmp_path / "old").rename(root)
    assert identity.glance(bytes(root)) == seen[0]


def test_a_marker_that_goes_is_missed_at_once(tmp_path, looks):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "marker").touch()
    assert identity.glance(bytes(tmp_path), b"below/marker").parts[b""]
    assert identity.glance(bytes(tmp_path), b"below/marker").parts[b""]
    assert len(looks) == 1
    (tmp_path / "below" / "marker").unlink()
    assert identity.glance(bytes(tmp_path), b"below/marker").parts == {b"": None}


def test_a_quick_look_that_failed_is_made_again(tmp_path, monkeypatch):
    failed = replace(identity.view(bytes(tmp_path)), errors={b"": "Input/output error"})
    with monkeypatch.context() as broken:
        broken.setattr(identity, "view", lambda *_: failed)
        identity.glance(bytes(tmp_path))
    assert not identity.glance(bytes(tmp_path)).errors
