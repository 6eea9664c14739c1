"""The folder on the disk, as people and programs change it; times and inodes are ours.

The files are real. What a filesystem would stamp on them is simulated, so that a freed inode is
given out again at once and nothing depends on the real clock.
"""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from syncd.disk import Fingerprint

NAMES = ("a.txt", "b.txt", "d/c.txt", "v.mp4")
#: All of one size, so that size never tells them apart; long enough for several chunks.
CONTENTS = tuple(f"content {number} of some length".encode() for number in range(4))


@dataclass(slots=True)
class Absences:
    """When a path held no regular file: pairs of (event number, time), the end None if it lasts."""

    spans: list[list[tuple[int, float] | None]] = field(default_factory=list)

    @property
    def absent(self) -> bool:
        return bool(self.spans) and self.spans[-1][1] is None


@dataclass(slots=True)
class World:
    """One watch folder, and what is done to it."""

    base: Path
    rng: random.Random
    clock: Callable[[], float]
    tell: Callable[[str], None]
    hint: Callable[[bytes, bool], None]
    unique: int = 0
    event: int = 0
    mounted: bool = True
    #: every regular file with its content
    files: dict[str, bytes] = field(default_factory=dict)
    #: paths at which something stands that is no file
    links: dict[str, None] = field(default_factory=dict)
    #: paths at which ever something stood that is no file
    linked: set[str] = field(default_factory=set)
    _stamps: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)
    _next_inode: int = 1000
    #: paths that were vacant for a moment at least since somebody last asked
    vacated: set[str] = field(default_factory=set)
    absences: dict[str, Absences] = field(default_factory=dict)
    unmounted_events: list[tuple[int, bool]] = field(default_factory=lambda: [(0, True)])

    @property
    def root(self) -> Path:
        """Where the folder is watched."""
        return self.base / "root"

    @property
    def disk(self) -> Path:
        """Where its files are now: beside, while it is not mounted."""
        return self.base / ("root" if self.mounted else "aside")

    def begin(self) -> None:
        """Make the folder, empty."""
        shutil.rmtree(self.base / "aside", ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)
        (self.root / "d").mkdir(parents=True)
        for name in NAMES:
            self.absences[name] = Absences([[(0, 0.0), None]])

    def fingerprint(self, status: os.stat_result) -> Fingerprint:
        """Stands for `Fingerprint.of`."""
        inode, mtime, ctime = self._stamps[status.st_ino]
        return Fingerprint(inode, status.st_size, mtime, ctime)

    # Events

    def change(self) -> None:
        """Do one random thing to the files."""
        rng = self.rng
        there = sorted(self.files)
        vacant = [name for name in NAMES if name not in self.files | self.links]
        what = rng.choice(
            ("create", "create", "rewrite", "rewrite", "replace", "touch", "stealth", "delete",
             "delete", "rename", "rename", "swap", "grow", "stand-in", "truncate")
        )  # fmt: skip
        self.event += 1
        if what == "create" and vacant:
            self.create(rng.choice(vacant), self.content())
        elif what == "stand-in" and vacant:
            self._stand_in(rng.choice(vacant))
        elif not there:
            return
        elif what == "rewrite":
            self.rewrite(rng.choice(there), self.content())
        elif what == "replace":
            self._replace(rng.choice(there), self.content())
        elif what == "grow":
            name = rng.choice(there)
            self.rewrite(name, self.files[name] + b"+")
        elif what == "truncate":
            name = rng.choice(there)
            self.rewrite(name, self.files[name][: rng.choice((0, 8))])
        elif what == "touch":
            self._touch(rng.choice(there))
        elif what == "stealth":
            self._rewrite_keeping_mtime(rng.choice(there))
        elif what == "delete":
            self.delete(rng.choice(there))
        elif what == "rename":
            self.rename(rng.choice(there), rng.choice(NAMES))
        elif what == "swap":
            self._swap(rng.choice(there), rng.choice(there))

    def content(self) -> bytes:
        """Return some content: often one that is known already."""
        if self.rng.random() < 0.6:
            return self.rng.choice(CONTENTS)
        self.unique += 1
        return f"unique  {self.unique:03d}of some length".encode()

    def create(self, name: str, content: bytes) -> None:
        path = self.disk / name
        path.write_bytes(content)
        self.files[name] = content
        self._stamp(path, fresh=True)
        self._note(name, f"create {name} {content[:12]!r}", seen=False)

    def rewrite(self, name: str, content: bytes) -> None:
        (self.disk / name).write_bytes(content)
        self.files[name] = content
        self._stamp(self.disk / name)
        self._note(name, f"rewrite {name} {content[:12]!r}", seen=False)

    def delete(self, name: str) -> None:
        self._release(self.disk / name)
        (self.disk / name).unlink()
        del self.files[name]
        self._note(name, f"delete {name}", seen=True)

    def rename(self, old: str, new: str) -> None:
        target = self.disk / new
        if old == new or new in self.links:
            return
        if new in self.files:
            self._release(target)
        (self.disk / old).rename(target)
        self.files[new] = self.files.pop(old)
        self._stamp(target, content=False)
        self._note(old, f"rename {old} to {new}", seen=True)
        self._note(new, "", seen=False)

    def _swap(self, one: str, other: str) -> None:
        if one == other:
            return
        aside = self.base / "swap"
        (self.disk / one).rename(aside)
        (self.disk / other).rename(self.disk / one)
        aside.rename(self.disk / other)
        self.files[one], self.files[other] = self.files[other], self.files[one]
        for name in (one, other):
            self._stamp(self.disk / name, content=False)
            self._note(name, f"swap {one} and {other}", seen=False)

    def _replace(self, name: str, content: bytes) -> None:
        draft = self.base / "draft"
        draft.write_bytes(content)
        self._stamp(draft, fresh=True)
        self._release(self.disk / name)
        draft.rename(self.disk / name)
        self.files[name] = content
        self._note(name, f"replace {name} by {content[:12]!r}", seen=False)

    def _touch(self, name: str) -> None:
        self._stamp(self.disk / name)
        self._note(name, f"touch {name}", seen=False)

    def _rewrite_keeping_mtime(self, name: str) -> None:
        path = self.disk / name
        size = len(self.files[name])
        self.files[name] = self.content()[:size].ljust(size, b".")
        path.write_bytes(self.files[name])
        self._stamp(path, content=False)
        self._note(name, f"rewrite {name}, its mtime kept", seen=False)

    def _stand_in(self, name: str) -> None:
        """Something that is no file takes the place; the next creation there finds it gone."""
        (self.disk / name).symlink_to("nowhere")
        self.links[name] = None
        self.linked.add(name)
        self._note(name, f"a link stands at {name}", seen=False)

    def take_note_of_what_is_gone(self) -> list[tuple[str, bytes]]:
        """Return the files that syncd took away since this was last asked, with their content."""
        gone = [
            (name, content)
            for name, content in self.files.items()
            if not os.path.lexists(self.disk / name)
        ]
        for name, _ in gone:
            del self.files[name]
            self._note(name, f"{name} was taken away", seen=True)
        return gone

    def clear_links(self) -> None:
        """Take away what is no file."""
        for name in list(self.links):
            (self.disk / name).unlink()
            del self.links[name]
            self._note(name, f"the link at {name} is gone", seen=True)

    def mount(self, there: bool, *, with_directory: bool = True) -> None:
        """Take the folder away, or bring it back."""
        if there == self.mounted:
            return
        self.event += 1
        aside = self.base / "aside"
        if there:
            shutil.rmtree(self.root, ignore_errors=True)
            aside.rename(self.root)
        else:
            self.root.rename(aside)
            if with_directory:
                self.root.mkdir()
        self.mounted = there
        self.unmounted_events.append((self.event, there))
        self.tell("the folder is back" if there else "the folder is unmounted")

    # Stamps and notes

    def _note(self, name: str, what: str, *, seen: bool) -> None:
        if what:
            self.tell(what)
        spans, here = self.absences[name], (self.event, self.clock())
        absent = name not in self.files
        if absent:
            self.vacated.add(name)
        if absent and not spans.absent:
            spans.spans.append([here, None])
        elif not absent and spans.absent:
            spans.spans[-1][1] = here
        if self.mounted:
            self.hint(name.encode(), seen)

    def _stamp(self, path: Path, *, fresh: bool = False, content: bool = True) -> None:
        real, now = path.stat().st_ino, int(self.clock() * 1e9)
        if fresh:
            if self._free and self.rng.random() < 0.8:
                inode = self._free.pop()
            else:
                self._next_inode += 1
                inode = self._next_inode
            self._stamps[real] = (inode, now, now)
            return
        inode, mtime, _ = self._stamps[real]
        self._stamps[real] = (inode, now if content else mtime, now)

    def _release(self, path: Path) -> None:
        self._free.append(self._stamps[path.stat().st_ino][0])

    # Evidence for a deletion

    def was_absent(self, name: str, *, since_event: int, grace_seconds: float) -> bool:
        """Say whether the path was seen vacant lately and could be so a grace ago, at the root."""
        spans, now = self.absences[name].spans, self.clock()
        lately = any(end is None or end[0] >= since_event for _, end in spans)
        before = any(begin is not None and begin[1] <= now - grace_seconds for begin, _ in spans)
        last = [there for event, there in self.unmounted_events if event <= since_event][-1]
        mounted = last or any(
            there for event, there in self.unmounted_events if event > since_event
        )
        return lately and before and mounted
