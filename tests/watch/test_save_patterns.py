"""How programs save, recorded from them by tests/rigs/saving_rig.py: one version each.

`slowly` lets more than the settle time pass after each step, except between a file's close and what
follows: there no program waits.
"""

import os
import time
from pathlib import Path

import pytest

from syncd import disk
from syncd.watch.open_files import OpenFiles

RECORDINGS = {path.stem: path for path in (Path(__file__).parent / "saves").glob("*.txt")}
FLAGS = {
    "create": os.O_CREAT,
    "exclusive": os.O_EXCL,
    "truncate": os.O_TRUNC,
    "append": os.O_APPEND,
}


class Saving:
    """Plays a script in a watched folder, and keeps what was ever ready to be sent."""

    def __init__(self, place, slowly):
        self.place, self.slowly = place, slowly
        self.ready = {}
        self.open = {}

    def path(self, name):
        return self.place.root / name

    def note(self):
        if self.slowly:
            self.place.caught_up()
        else:
            time.sleep(0.02)
        self.place.watched.look_hints()
        if self.slowly:
            self.place.later(6)
            self.place.watched.look_due()
            self.place.scan()
        for path, file in self.place.files().items():
            # The upload sends nothing but the file that the table tells of.
            if file.status == "ready" and file.fingerprint == self.on_disk(path):
                content = self.path(os.fsdecode(path)).read_bytes()
                self.ready.setdefault(path, set()).add(content)

    def on_disk(self, path):
        return disk.look(os.fsencode(self.place.root), [path])[path].fingerprint

    def play(self, recording):
        for line in recording.read_text("utf-8").splitlines():
            if line.startswith("#"):
                continue
            verb, *names = line.split("\t")
            verb, *words = verb.split()
            getattr(self, f"_{verb}")(*words, *map(self.path, names))
            if verb != "close":
                self.note()

    def _open(self, number, flags, path):
        chosen = sum(FLAGS[flag] for flag in flags.split(",") if flag != "-")
        self.open[number] = os.open(path, os.O_RDWR | chosen, 0o644)

    def _write(self, number, size):
        # No two handles write the same.
        os.write(self.open[number], f"of handle {number} ".encode().ljust(int(size), b"."))

    def _truncate(self, number, size):
        os.ftruncate(self.open[number], int(size))

    def _close(self, number):
        os.close(self.open.pop(number))

    def _rename(self, old, new):
        old.rename(new)

    def _unlink(self, path):
        path.unlink()

    def _symlink(self, path):
        path.symlink_to("user@host.1:1")

    def _mkdir(self, path):
        path.mkdir()

    def _chmod(self, what):
        os.chmod(self.open.get(what, what), 0o600)  # noqa: PTH101 a path or a descriptor

    def _utime(self, what):
        os.utime(self.open.get(what, what), (1e9, 1e9))


def saved_by(place, name, *, slowly):
    """Play what a program did; return what was ever ready to be sent, and what it left."""
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    recording = RECORDINGS[name]
    target = "a.odt" if name == "libreoffice" else "a.txt"
    if f"\t{target}" in recording.read_text("utf-8"):
        place.synced(target.encode())
    place.watched.look_hints()
    place.ahead = 0.0
    before = {path.name: path.read_bytes() for path in place.root.iterdir()}
    saving = Saving(place, slowly)
    saving.play(recording)
    place.closed()
    for _ in range(2):
        place.later(60)
        saving.note()
        place.watched.look_due()
        place.scan()
    saving.note()
    for old, content in before.items():
        saving.ready[os.fsencode(old)].discard(content)
    return saving.ready, before


@pytest.mark.row(18)
@pytest.mark.parametrize(
    "slowly", [False, pytest.param(True, marks=pytest.mark.long)], ids=["at once", "slowly"]
)
@pytest.mark.parametrize("name", sorted(RECORDINGS))
def test_saving_makes_one_new_version_and_sends_no_temporary_file(place, name, slowly):
    ready, before = saved_by(place, name, slowly=slowly)
    saved = {
        path.relative_to(place.root).as_posix(): path.read_bytes()
        for path in place.root.rglob("*")
        if path.is_file() and not path.name.endswith("~")
    }
    assert saved.keys() >= before.keys()
    assert all(saved[name] != content for name, content in before.items())
    assert {os.fsdecode(path): versions for path, versions in ready.items()} == {
        name: {content} for name, content in saved.items()
    }
    assert place.statuses() == {os.fsencode(name): "ready" for name in saved}
    assert "retiring" not in place.copies()


def test_every_program_that_the_readers_use_is_recorded():
    assert RECORDINGS.keys() >= {
        "vim", "emacs", "libreoffice", "rsync", "scp", "curl", "chromium", "cp-recursive"
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", ["curl", "wget", "vim"])
def test_taking_a_file_for_closed_that_is_open_is_seen(place, monkeypatch, name):
    """A negative control: with the settle rule alone, a slow writer's half goes out."""
    monkeypatch.setattr(OpenFiles, "has", lambda *_: False)
    ready, _ = saved_by(place, name, slowly=True)
    assert len(ready[b"a.txt"]) > 1
