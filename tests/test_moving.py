import errno
import os
from hashlib import sha256

import pytest

from syncd import disk, moving
from syncd.exceptions import FileChangedError


class Yard:
    def __init__(self, tmp_path):
        self.root, self.target = tmp_path / "in", tmp_path / "out"
        self.root.mkdir()

    def drop(self, name, content=b"content"):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def move(self, name, content=b"content"):
        root, path = os.fsencode(self.root), os.fsencode(name)
        digest = sha256(content).hexdigest()
        with disk.open_beneath(root, path) as descriptor:
            return moving.move(
                root, path, descriptor, target=os.fsencode(self.target), digest=digest
            )

    def there(self):
        found = (path for path in self.target.rglob("*") if path.is_file())
        return {str(path.relative_to(self.target)): path.read_bytes() for path in found}

    def here(self):
        return [path for path in self.root.rglob("*") if path.is_file()]


@pytest.fixture(params=["rename", "another filesystem"])
def yard(request, tmp_path, monkeypatch):
    if request.param != "rename":
        rename = moving._rename

        def crossing(source, name, target, new):
            if os.fstat(source).st_ino != os.fstat(target).st_ino:
                raise OSError(errno.EXDEV, "another filesystem")
            rename(source, name, target, new)

        monkeypatch.setattr(moving, "_rename", crossing)
    return Yard(tmp_path)


def test_a_file_is_moved_with_its_path_mode_and_time(yard):
    path = yard.drop("a/b/clip.mp4")
    path.chmod(0o640)
    (yard.root / "a").chmod(0o751)
    os.utime(path, ns=(1, 2_000_000_000))
    assert yard.move("a/b/clip.mp4") == b"a/b/clip.mp4"
    assert (yard.here(), yard.there()) == ([], {"a/b/clip.mp4": b"content"})
    status = (yard.target / "a/b/clip.mp4").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, 2_000_000_000)
    assert (yard.target / "a").stat().st_mode & 0o777 == 0o751


def test_nothing_is_overwritten(yard):
    for number, content in enumerate((b"one", b"two", b"three")):
        yard.drop("report.csv", content)
        yard.drop(".hidden", content)
        suffix = f"-{number + 1}" if number else ""
        assert yard.move("report.csv", content) == f"report{suffix}.csv".encode()
        assert yard.move(".hidden", content) == f".hidden{suffix}".encode()
    assert set(yard.there().values()) == {b"one", b"two", b"three"}
    assert len(yard.there()) == 6


def test_a_move_that_was_cut_is_done_again_to_the_same_end(yard):
    """Cut after the target was there: the same content is not put there twice."""
    yard.drop("a")
    yard.target.mkdir()
    (yard.target / "a").write_bytes(b"content")
    (yard.target / ".syncd-move.part").write_bytes(b"half a dra")
    assert yard.move("a") == b"a"
    assert yard.here() == []
    assert yard.there()["a"] == b"content"


def test_a_file_that_was_replaced_meanwhile_stays(yard):
    path = yard.drop("a")
    root = os.fsencode(yard.root)
    with disk.open_beneath(root, b"a") as descriptor:
        path.unlink()
        yard.drop("a", b"new one")
        with pytest.raises(FileChangedError):
            moving.remove(root, b"a", descriptor)
        with pytest.raises(FileChangedError):
            moving.move(root, b"a", descriptor, target=os.fsencode(yard.target), digest="0" * 64)
    assert path.read_bytes() == b"new one"
    assert yard.there() == {}


def test_a_file_that_changes_under_the_move_is_put_back(yard, monkeypatch):
    path = yard.drop("a")
    require, looks = moving._require, []

    def written_to(*arguments):
        require(*arguments)
        if not looks:
            with path.open("ab") as file:
                file.write(b", and more")
        looks.append(1)

    monkeypatch.setattr(moving, "_require", written_to)
    with pytest.raises(FileChangedError):
        yard.move("a")
    assert path.read_bytes() == b"content, and more"
    assert b"content, and more" not in yard.there().values()


def test_a_target_that_is_a_link_is_not_followed(yard, tmp_path):
    yard.drop("d/a")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    yard.target.mkdir()
    (yard.target / "d").symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        yard.move("d/a")
    assert list(elsewhere.iterdir()) == []
    assert len(yard.here()) == 1
