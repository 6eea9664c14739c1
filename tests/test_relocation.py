import errno
import mmap
import os
import stat
from hashlib import sha256

import pytest

from syncd import disk, lease, relocation
from syncd.exceptions import FileChangedError


class Yard:
    """A watch folder, a target, and the moves between them."""

    def __init__(self, tmp_path):
        self.root, self.target = tmp_path / "in", tmp_path / "out"
        self.root.mkdir()
        self.aside = relocation.new_aside()

    def drop(self, name, content=b"content"):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def set_aside(self, name):
        root, path = os.fsencode(self.root), os.fsencode(name)
        with disk.open_beneath(root, path) as descriptor:
            relocation.set_aside(root, path, descriptor, self.aside)

    def opened(self, name):
        return relocation.opened(os.fsencode(self.root), os.fsencode(name), self.aside)

    def move(self, name, content=b"content"):
        self.set_aside(name)
        with self.opened(name) as place:
            target, digest = os.fsencode(self.target), sha256(content).hexdigest()
            return place.move(target, len(content), digest)

    def there(self):
        found = (path for path in self.target.rglob("*") if path.is_file())
        return {str(path.relative_to(self.target)): path.read_bytes() for path in found}

    def here(self):
        return list(self.root.rglob("*"))


@pytest.fixture(params=["rename", "another filesystem", "no flags"])
def yard(request, tmp_path, monkeypatch):
    rename = relocation._rename_noreplace

    def crossing(source, name, target, new):
        if request.param == "no flags":
            raise OSError(errno.EINVAL, "this filesystem knows no flags")
        if not name.endswith(b".part") and os.fstat(target).st_ino != top.st_ino:
            raise OSError(errno.EXDEV, "another filesystem")
        rename(source, name, target, new)

    yard = Yard(tmp_path)
    top = yard.root.stat()
    if request.param != "rename":
        monkeypatch.setattr(relocation, "_rename_noreplace", crossing)
    return yard


@pytest.fixture
def plain(tmp_path):
    return Yard(tmp_path)


def test_a_moved_file_keeps_its_path_and_time(yard):
    path = yard.drop("a/b/clip.mp4")
    os.utime(path, ns=(1, 2_000_000_000))
    assert yard.move("a/b/clip.mp4") == b"a/b/clip.mp4"
    assert yard.there() == {"a/b/clip.mp4": b"content"}
    assert (yard.target / "a/b/clip.mp4").stat().st_mtime_ns == 2_000_000_000
    assert [path.name for path in yard.here()] == ["a", "b"], "no private directory is left"


def test_loose_modes_in_the_watch_folder_do_not_reach_the_target(tmp_path, monkeypatch):
    yard = Yard(tmp_path)
    monkeypatch.setattr(relocation, "_rename_noreplace", _never_across(yard))
    yard.target.mkdir(mode=0o700)
    (yard.drop("shared/a")).chmod(0o6777)
    (yard.root / "shared").chmod(0o777)
    yard.move("shared/a")
    modes = [stat.S_IMODE((yard.target / path).stat().st_mode) for path in ("shared", "shared/a")]
    assert modes == [0o700, 0o644]


def _never_across(yard):
    rename, top = relocation._rename_noreplace, yard.root.stat().st_ino

    def crossing(source, name, target, new):
        if not name.endswith(b".part") and os.fstat(target).st_ino != top:
            raise OSError(errno.EXDEV, "another filesystem")
        rename(source, name, target, new)

    return crossing


def test_a_move_overwrites_nothing(yard):
    for number, content in enumerate((b"one", b"two", b"three")):
        yard.drop("report.csv", content)
        yard.drop(".hidden", content)
        suffix = f"-{number + 1}" if number else ""
        assert yard.move("report.csv", content) == f"report{suffix}.csv".encode()
        assert yard.move(".hidden", content) == f".hidden{suffix}".encode()
    assert set(yard.there().values()) == {b"one", b"two", b"three"}
    assert len(yard.there()) == 6


def test_an_interrupted_move_can_be_repeated(yard):
    """A crash after the target was written does not put the same content there twice."""
    yard.drop("a")
    yard.target.mkdir()
    (yard.target / "a").write_bytes(b"content")
    assert yard.move("a") == b"a"
    assert yard.here() == []
    assert yard.there() == {"a": b"content"}


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_a_file_swapped_in_at_the_last_moment_stays(plain, kind):
    """The checked file is open, but its name now belongs to another file."""
    root, path = os.fsencode(plain.root), plain.drop("a")
    outside = plain.root.parent / "precious"
    outside.write_bytes(b"precious")
    with disk.open_beneath(root, b"a") as descriptor:
        path.rename(plain.root / "elsewhere")
        if kind == "file":
            plain.drop("a", b"never sent")
        elif kind == "link":
            path.symlink_to(outside)
        else:
            plain.drop("a/b", b"never sent")
        with pytest.raises(FileChangedError):
            relocation.set_aside(root, b"a", descriptor, plain.aside)
    assert outside.read_bytes() == b"precious"
    assert {
        "file": lambda: path.read_bytes() == b"never sent",
        "link": path.is_symlink,
        "directory": lambda: (path / "b").read_bytes() == b"never sent",
    }[kind]()
    assert {entry.name for entry in plain.root.iterdir()} == {"a", "elsewhere"}


def test_a_file_goes_back_under_a_new_name_when_its_own_is_taken(yard):
    yard.drop("a.txt", b"old")
    yard.set_aside("a.txt")
    yard.drop("a.txt", b"new")
    with yard.opened("a.txt") as place:
        assert place.give_back() == b"a-2.txt"
    names = {path.name: path.read_bytes() for path in yard.root.iterdir()}
    assert names == {"a.txt": b"new", "a-2.txt": b"old"}


def test_only_the_owner_can_reach_a_file_set_aside(plain):
    plain.drop("a")
    plain.root.chmod(0o777)
    plain.set_aside("a")
    (private,) = plain.root.iterdir()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert relocation.is_aside(os.fsencode(private.name))


@pytest.mark.skipif(os.geteuid() != 0, reason="making a directory another user's takes root")
def test_a_private_directory_of_another_user_is_not_used(plain):
    plain.drop("a")
    (plain.root / plain.aside).mkdir()
    os.chown(plain.root / plain.aside, 65534, 65534)
    with pytest.raises(PermissionError):
        plain.set_aside("a")
    assert (plain.root / "a").read_bytes() == b"content"


def test_concurrent_moves_to_one_target_do_not_share_a_draft(tmp_path, monkeypatch):
    """Each copy has its own draft, and is read back before the original is deleted."""
    yard = Yard(tmp_path)
    monkeypatch.setattr(relocation, "_rename_noreplace", _never_across(yard))
    yard.drop("a", b"A" * 5000)
    write, drafts = os.write, []

    def meddled(descriptor, chunk):
        drafts.extend(path.name for path in yard.target.iterdir())
        for path in yard.target.iterdir():
            path.write_bytes(b"B" * 9000)
        return write(descriptor, chunk)

    monkeypatch.setattr(os, "write", meddled)
    with pytest.raises(FileChangedError):
        yard.move("a", b"A" * 5000)
    monkeypatch.undo()
    with yard.opened("a") as place:
        assert place.give_back() == b"a"
    assert (yard.root / "a").read_bytes() == b"A" * 5000
    assert yard.there() == {}
    assert drafts[0] != ".syncd-move.part"


def test_a_draft_does_not_reuse_an_existing_name(plain, monkeypatch):
    monkeypatch.setattr(relocation, "_rename_noreplace", _never_across(plain))
    monkeypatch.setattr(relocation.secrets, "token_hex", lambda n: "0" * (2 * n))
    plain.drop("a")
    plain.target.mkdir()
    victim = plain.root.parent / "victim"
    victim.write_bytes(b"precious")
    os.link(victim, plain.target / f".syncd-{'0' * 16}.part")
    with pytest.raises(FileExistsError):
        plain.move("a")
    assert victim.read_bytes() == b"precious"


def test_a_target_that_is_a_link_is_not_followed(yard, tmp_path):
    yard.drop("d/a")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    yard.target.mkdir()
    (yard.target / "d").symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        yard.move("d/a")
    assert list(elsewhere.iterdir()) == []


def test_a_name_that_appears_during_a_move_is_not_replaced(plain, monkeypatch):
    """Checking that a name is free is not enough: the rename itself must refuse."""
    plain.drop("a")
    holds = relocation._holds

    def late(there, name, *content):
        found = holds(there, name, *content)
        if not (plain.target / os.fsdecode(name)).exists():
            (plain.target / os.fsdecode(name)).write_bytes(b"late")
        return found

    monkeypatch.setattr(relocation, "_holds", late)
    monkeypatch.setattr(relocation, "_names", lambda _: iter((b"a", b"a")))
    with pytest.raises(AssertionError):
        plain.move("a")
    assert plain.there() == {"a": b"late"}


def test_a_memory_map_counts_as_an_open_writer_and_a_reader_does_not(plain):
    path = plain.drop("a", b"a" * 4096)
    with disk.open_beneath(os.fsencode(plain.root), b"a") as descriptor:
        assert lease.is_open_for_writing(descriptor) is False
        with path.open("rb"):
            assert lease.is_open_for_writing(descriptor) is False
        with path.open("ab"):
            assert lease.is_open_for_writing(descriptor) is True
        with path.open("r+b") as writer:
            mapped = mmap.mmap(writer.fileno(), 4096)
        assert lease.is_open_for_writing(descriptor) is True, "a map outlives its descriptor"
        mapped.close()
        assert lease.is_open_for_writing(descriptor) is False


def test_a_target_whose_mount_is_missing_is_an_obstacle(plain, monkeypatch):
    root, target = os.fsencode(plain.root), os.fsencode(plain.target / "not there yet")
    mounted_on = relocation.mount_point(target)
    assert relocation.obstacle(root, target, mounted_on) == ""
    assert relocation.obstacle(root, target, None) == ""
    gone = os.fsencode(plain.target)
    if len(gone) > len(mounted_on):
        assert "mount it" in relocation.obstacle(root, target, gone)
    assert not plain.target.exists()
