"""Races with the removal of a file: nothing is lost, and nothing outside is touched.

`SYNCD_RACES=10000 pytest tests/test_relocation_races.py` tries it at length.
"""

import multiprocessing
import os
import random
from contextlib import suppress
from hashlib import sha256

import pytest

from syncd import disk, lease, relocation
from syncd.exceptions import DiskError, FileChangedError

ROUNDS = int(os.environ.get("SYNCD_RACES", "150"))
SENT = b"bait that was sent"


EXCHANGE = 2


def swap(one, other):
    """Exchange two names atomically by renameat2(2), which itself loses nothing."""
    relocation._libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), EXCHANGE)


def attack(folder, over, last):
    """Replace the name by other things, as another user who may write to the folder would."""
    chance = random.Random(1)
    while not over.wait(chance.random() / 1000):
        swap(folder / "a", folder / chance.choice(["other", "link", "directory"]))


def edit(folder, over, last):
    """Save as editors do: rename new content over the old, or write in place."""
    chance, number = random.Random(1), 0
    while not over.wait(chance.random() / 500):
        number += 1
        content = b"saved %d" % number
        with suppress(FileNotFoundError):
            (folder / "a").stat()
            if chance.random() < 0.5:
                (folder / "a.part").write_bytes(content)
                (folder / "a.part").rename(folder / "a")
            else:
                with (folder / "a").open("r+b") as file:
                    file.truncate()
                    file.write(content)
            last.value = number


def take(root, target):
    """Remove a file as the daemon does; return whether it succeeded."""
    aside = relocation.new_aside()
    digest = sha256(SENT).hexdigest()
    try:
        with disk.open_beneath(root, b"a") as descriptor:
            if (
                lease.is_open_for_writing(descriptor)
                or disk.sha256(descriptor, len(SENT)) != digest
            ):
                return False
            relocation.set_aside(root, b"a", descriptor, aside)
        with relocation.opened(root, b"a", aside) as place:
            whole = place.is_whole(len(SENT), digest, lambda: False)
            if lease.is_open_for_writing(place.descriptor) or not whole:
                place.give_back()
                return False
            place.move(target, len(SENT), digest) if target else place.delete()
            return True
    except (FileChangedError, DiskError, FileNotFoundError):
        return False


def drop(folder):
    """Create a file unless one exists."""
    with suppress(FileExistsError), (folder / "draft").open("xb") as draft:
        draft.write(SENT)
    with suppress(FileExistsError):
        (folder / "a").hardlink_to(folder / "draft")
    (folder / "draft").unlink()


def contents(directory):
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file()]


@pytest.mark.row(69)
@pytest.mark.parametrize("rival", [attack, edit])
@pytest.mark.parametrize("way", ["move", "delete"])
def test_a_race_never_takes_away_content_that_was_not_sent(tmp_path, rival, way):
    folder, target, outside = (tmp_path / name for name in ("in", "out", "outside"))
    (folder / "directory").mkdir(parents=True)
    (folder / "directory" / "file").write_bytes(b"never sent")
    (folder / "other").write_bytes(b"never sent")
    (folder / "link").symlink_to(outside)
    outside.write_bytes(b"precious")
    over, last = multiprocessing.Event(), multiprocessing.Value("i", 0)
    process = multiprocessing.Process(target=rival, args=(folder, over, last))
    process.start()
    went = 0
    try:
        for _ in range(ROUNDS):
            drop(folder)
            went += take(os.fsencode(folder), os.fsencode(target) if way == "move" else None)
    finally:
        over.set()
        process.join()
    assert outside.read_bytes() == b"precious"
    left = contents(folder)
    assert left.count(b"never sent") == 2
    if last.value:
        assert b"saved %d" % last.value in left, "what was saved last is still there"
    moved = set(contents(target)) if target.exists() else set()
    assert moved <= {SENT}, "only what was sent is moved"
    assert not list(folder.rglob("*.aside")), "nothing stays set aside"
    assert went or ROUNDS < 1000, "the race was won at times"
