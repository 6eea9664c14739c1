"""How programs save, as scripts of system calls recorded from them (strace): one version each.

`slowly` lets more than the settle time pass between two calls.
"""

import os
import time

import pytest

from syncd import disk
from syncd.watch.writing import Writing

NEW = b"the new content, whole"


class Saving:
    """Plays a script in a watched folder, and keeps what was ever ready to be sent."""

    def __init__(self, place, slowly):
        self.place, self.slowly = place, slowly
        self.ready = {}
        self.open = {}

    def path(self, name):
        return self.place.root / name

    def note(self):
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

    def create(self, name, flags=0):
        self.open[name] = os.open(self.path(name), os.O_RDWR | os.O_CREAT | flags, 0o644)
        self.note()

    def write(self, name, content=NEW):
        os.write(self.open[name], content)
        self.note()

    def close(self, name):
        os.close(self.open.pop(name))
        self.note()

    def rename(self, old, new):
        self.path(old).rename(self.path(new))
        self.note()

    def link(self, old, new):
        os.link(self.path(old), self.path(new))
        self.note()

    def unlink(self, name):
        self.path(name).unlink()
        self.note()

    def chmod(self, name):
        self.path(name).chmod(0o600)
        self.note()

    def utime(self, name):
        os.utime(self.path(name), (1e9, 1e9))
        self.note()


def vim(s):
    """`:w` with backup: a probe, the old file moved aside, the new one made, the backup removed."""
    s.create(".a.txt.swp", os.O_EXCL)
    os.close(os.open(s.path("4913"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    s.unlink("4913")
    s.rename("a.txt", "a.txt~")
    s.create("a.txt")
    s.write("a.txt")
    s.close("a.txt")
    s.chmod("a.txt")
    s.unlink("a.txt~")
    s.close(".a.txt.swp")
    s.unlink(".a.txt.swp")


def emacs(s):
    """An auto-save and a lock, the backup by rename, the file written anew."""
    s.path(".#a.txt").symlink_to("user@host.1:1")
    s.create("#a.txt#")
    s.write("#a.txt#", b"auto-saved")
    s.close("#a.txt#")
    s.rename("a.txt", "a.txt~")
    s.create("a.txt", os.O_TRUNC)
    s.write("a.txt")
    s.close("a.txt")
    s.unlink("#a.txt#")
    s.unlink(".#a.txt")


def libreoffice(s):
    """A lock, the whole written to a temporary file, renamed over the old one."""
    s.create(".~lock.a.txt#")
    s.close(".~lock.a.txt#")
    s.create("lu81542k9pz.tmp", os.O_EXCL)
    s.write("lu81542k9pz.tmp")
    s.close("lu81542k9pz.tmp")
    s.rename("lu81542k9pz.tmp", "a.txt")
    s.unlink(".~lock.a.txt#")


def rsync(s):
    """A hidden temporary file, its times set, renamed over the old one."""
    s.create(".a.txt.Xy12Zk", os.O_EXCL)
    s.write(".a.txt.Xy12Zk", NEW[:9])
    s.write(".a.txt.Xy12Zk", NEW[9:])
    s.close(".a.txt.Xy12Zk")
    s.utime(".a.txt.Xy12Zk")
    s.chmod(".a.txt.Xy12Zk")
    s.rename(".a.txt.Xy12Zk", "a.txt")


def rsync_inplace(s):
    s.create("a.txt")
    s.write("a.txt", NEW[:9])
    s.write("a.txt", NEW[9:])
    os.ftruncate(s.open["a.txt"], len(NEW))
    s.close("a.txt")


def scp(s):
    """Written under its own name, in pieces, then cut to its length."""
    s.create("a.txt", os.O_TRUNC)
    s.write("a.txt", NEW[:4])
    s.write("a.txt", NEW[4:])
    os.ftruncate(s.open["a.txt"], len(NEW))
    s.close("a.txt")


def curl(s):
    """Made when the first bytes come, written as they come."""
    s.create("a.txt", os.O_TRUNC)
    for start in range(0, len(NEW), 6):
        s.write("a.txt", NEW[start : start + 6])
    s.close("a.txt")


def chromium(s):
    """Unconfirmed until it is whole, then renamed over what is there."""
    s.create("Unconfirmed 553274.crdownload", os.O_EXCL)
    s.write("Unconfirmed 553274.crdownload", NEW[:9])
    s.write("Unconfirmed 553274.crdownload", NEW[9:])
    s.close("Unconfirmed 553274.crdownload")
    s.rename("Unconfirmed 553274.crdownload", "a.txt")


def replaced_by_link(s):
    """Some editors: the new one beside, the old one kept as a link for a moment."""
    s.create("a.txt.tmp", os.O_EXCL)
    s.write("a.txt.tmp")
    s.close("a.txt.tmp")
    s.link("a.txt", "a.txt~")
    s.rename("a.txt.tmp", "a.txt")
    s.unlink("a.txt~")


PATTERNS = [
    vim, emacs, libreoffice, rsync, rsync_inplace, scp, curl, chromium, replaced_by_link
]  # fmt: skip


@pytest.mark.row(18)
@pytest.mark.parametrize("slowly", [False, True], ids=["at once", "slowly"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_saving_makes_one_new_version_and_sends_no_temporary_file(place, pattern, slowly):
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    place.synced(b"a.txt")
    place.watched.look_hints()
    place.ahead = 0.0
    old = (place.root / "a.txt").read_bytes()
    saving = Saving(place, slowly)
    pattern(saving)
    place.closed()
    for _ in range(2):
        place.later(60)
        saving.note()
        place.watched.look_due()
        place.scan()
    saving.note()
    assert saving.ready.keys() == {b"a.txt"}
    assert saving.ready[b"a.txt"] - {old} == {NEW}
    assert place.statuses() == {b"a.txt": "ready"}
    assert "retiring" not in place.copies()


@pytest.mark.row(18)
@pytest.mark.parametrize("slowly", [False, True], ids=["at once", "slowly"])
def test_a_tree_that_is_copied_in_is_sent_once_and_only_whole(place, slowly):
    """`cp -r`: directories made, each file made, written and closed in turn."""
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    saving = Saving(place, slowly)
    for directory in ("d", "d/e"):
        saving.path(directory).mkdir()
        time.sleep(0.05)
        for name in ("x", "y"):
            saving.create(f"{directory}/{name}", os.O_EXCL)
            saving.write(f"{directory}/{name}", NEW[:9])
            saving.write(f"{directory}/{name}", NEW[9:])
            saving.close(f"{directory}/{name}")
    place.closed()
    place.later(60)
    saving.note()
    place.watched.look_due()
    saving.note()
    assert saving.ready.keys() == {b"d/x", b"d/y", b"d/e/x", b"d/e/y"}
    assert all(versions == {NEW} for versions in saving.ready.values())


def test_taking_a_file_for_closed_that_is_open_is_seen(place, monkeypatch):
    """A negative control: with the settle rule alone, a slow writer's half goes out."""
    monkeypatch.setattr(Writing, "has", lambda *_: False)
    place.reopen(watch="native")
    place.watched.start()
    place.watched.scan_if_due()
    saving = Saving(place, slowly=True)
    curl(saving)
    assert len(saving.ready[b"a.txt"]) > 1
