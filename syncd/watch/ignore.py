"""The rules: which files of a folder are eligible, and which rule says so.

In this order, the first that has an opinion decides: `exclude` (gitignore syntax, so that a
`!pattern` there also takes up junk and hidden files), the `.syncdignore` files of the directory and
of those above it, the nearest first, junk, hidden, `include`. A file that is eligible may still be
too large.
"""

import logging
import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from syncd import disk, relocation
from syncd.descent import Descent
from syncd.exceptions import ConfigError, UnreadableError
from syncd.watch.folder import WatchFolder

log = logging.getLogger(__name__)

#: What programs leave behind on their way to a finished file, and what systems keep for themselves.
JUNK = (
    *("*.part", "*.part-Frag*", "*.partial", "*.filepart", "*.crdownload", "*.aria2", "*.!qB"),
    *("*.tmp", "*.swp", "*~", "~$*", "#*#", ".~lock.*"),
    *(".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir", ".stfolder", "._*", "lost+found"),
    *("#recycle", "@Recycle", "@Recently-Snapshot", "$RECYCLE.BIN", "RECYCLER", ".Trash*"),
    *("System Volume Information",),
)
#: Rules that people keep beside the files; itself never uploaded.
IGNORE_FILE = ".syncdignore"
_IGNORE_NAME = IGNORE_FILE.encode()
#: A larger one is a mistake, and is refused.
_IGNORE_BYTES = 1 << 20
#: Directories whose rules are remembered, for looks at single paths.
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a path is excluded, and the rule that decided; empty where none had an opinion."""

    excluded: bool
    rule: str = ""
    #: where in the configuration the rule stands: its setting, and which of its patterns, from 0
    place: tuple[str, int] | None = None


_ELIGIBLE = Verdict(excluded=False)
_HIDDEN = Verdict(excluded=True, rule="hidden (its name begins with a dot)")
_NOT_INCLUDED = Verdict(excluded=True, rule="include (no pattern matches)")
_IGNORE_ITSELF = Verdict(excluded=True, rule=f"{IGNORE_FILE} (rules, and no content)")

_SET_ASIDE = Verdict(excluded=True, rule="set aside by syncd, to be taken away")


class Rules:
    """The rules of one folder. ConfigError where a pattern of its configuration cannot be read.

    Thread-safe. `.syncdignore` files are read when they are first needed, and again after `forget`.
    """

    def __init__(self, folder: WatchFolder) -> None:
        self._folder = folder
        self._hidden = folder.hidden
        self._max_size = folder.max_size
        self._include = _configured(folder, "include", folder.include)
        self._exclude = _configured(folder, "exclude", folder.exclude)
        self._lock = threading.Lock()
        self._above: dict[bytes, _Above] = {}
        #: what is wrong in `.syncdignore` files, by their path
        self.complaints: dict[bytes, str] = {}
        #: those that the log has, so that not every scan repeats them
        self._logged: dict[bytes, str] = {}

    def forget(self) -> None:
        """Read every `.syncdignore` file anew from now on."""
        with self._lock:
            self._above = {}
            self.complaints = {}

    def knows(self, directory: bytes) -> bool:
        """Say whether the rules of `directory` are remembered."""
        return directory in self._above

    def verdict(self, path: bytes, *, is_dir: bool) -> Verdict:
        """Judge `path` with every directory above it: beneath an excluded one, all is excluded.

        UnreadableError where a `.syncdignore` file may have an opinion and cannot be read.
        """
        above = self._directory(path.rpartition(b"/")[0])
        if above.verdict.excluded:
            return above.verdict
        return self.entry(path, is_dir=is_dir, files=above.files)

    def entry(self, path: bytes, *, is_dir: bool, files: "IgnoreFiles" = ()) -> Verdict:
        """Judge `path` alone, in a directory that is known to be eligible.

        `files` are the `.syncdignore` files that bear on it, as `read` returns them.
        """
        name = path.rpartition(b"/")[2]
        if name == _IGNORE_NAME:
            return _IGNORE_ITSELF
        if relocation.is_aside(name):
            return _SET_ASIDE
        if self._exclude.are_any:
            matches, index = self._exclude.find(path, is_dir=is_dir)
            if matches is not None and index is not None:
                pattern = self._exclude.lines[index]
                return Verdict(matches, f"exclude {pattern}", ("exclude", index))
        for file in reversed(files):
            matches, pattern = file.match(path, is_dir=is_dir)
            if matches is not None:
                return Verdict(matches, pattern)
        if _JUNK.fullmatch(name):
            return Verdict(excluded=True, rule=f"junk {_junk_pattern(name)}")
        if not self._hidden and name.startswith(b"."):
            return _HIDDEN
        # A directory is never excluded for matching no `include`: what is beneath may match.
        if is_dir or not self._include.let_in:
            return _ELIGIBLE
        matches, index = self._include.find(path, is_dir=False)
        if not matches or index is None:
            return _NOT_INCLUDED
        return Verdict(False, f"include {self._include.lines[index]}", ("include", index))

    def of_size(self, size: int) -> Verdict:
        """Judge an eligible file by its size in bytes."""
        if self._max_size is None or size <= self._max_size:
            return _ELIGIBLE
        return Verdict(True, f"max_size {self._max_size} (it has {size} bytes)")

    def excludes_directory(self, directory: bytes) -> bool:
        """Say whether `directory`, or one above it, is excluded; UnreadableError as `verdict`."""
        return bool(directory) and self.verdict(directory, is_dir=True).excluded

    def above(self, directory: bytes) -> "IgnoreFiles":
        """Return the `.syncdignore` files that stand above `directory`."""
        return self._directory(directory.rpartition(b"/")[0]).files if directory else ()

    def read(self, descriptor: int, directory: bytes, above: "IgnoreFiles") -> "IgnoreFiles":
        """Return the files that bear on what is in the open `directory`: its own after those above.

        UnreadableError where there is one that cannot be read: nothing may be said of what is in
        the directory then, for what should stay here might be sent.
        """
        path = directory + b"/" + _IGNORE_NAME if directory else _IGNORE_NAME
        try:
            content = disk.read_small(descriptor, _IGNORE_NAME, _IGNORE_BYTES)
        except UnreadableError as error:
            raise UnreadableError(f"{os.fsdecode(path)} cannot be read: {error}") from error
        if content is None:
            return above
        file, bad = _parsed(path, directory, content)
        if bad:
            complaint = f"{os.fsdecode(path)} {bad}: not in gitignore syntax, it has no effect"
            if self._logged.get(path) != complaint:
                log.warning("%s: %s", self._folder.name, complaint)
            self.complaints[path] = self._logged[path] = complaint
        return (*above, file)

    def _directory(self, path: bytes) -> "_Above":
        """Return what is known of a directory's rules, read where it is not."""
        remembered = self._above
        waiting = []
        # Up to the nearest that is remembered and down again, for a tree may be of any depth.
        while (above := remembered.get(path)) is None:
            waiting.append(path)
            if not path:
                break
            path = path.rpartition(b"/")[0]
        with Descent(self._folder.path) as descent:
            while waiting:
                path = waiting.pop()
                above = self._look_up(path, above, descent)
                with self._lock:
                    if len(remembered) >= _REMEMBERED:
                        remembered.clear()
                    # After `forget` this is a dictionary that nobody asks any more.
                    remembered[path] = above
        if above is None:
            raise AssertionError(path)
        return above

    def _look_up(self, path: bytes, parent: "_Above | None", descent: Descent) -> "_Above":
        above: IgnoreFiles = ()
        if parent is not None:
            if parent.verdict.excluded:
                return parent
            verdict = self.entry(path, is_dir=True, files=parent.files)
            if verdict.excluded:
                return _Above(verdict)
            above = parent.files
        try:
            return _Above(_ELIGIBLE, self.read(descent.enter(path), path, above))
        except OSError:
            # Not there, or not to be entered: then nothing in it can be found eligible either.
            return _Above(_ELIGIBLE, above)


@dataclass(frozen=True, slots=True)
class _Above:
    """What a directory's rules are: its own verdict, and the files that bear on what is in it."""

    verdict: Verdict
    files: "IgnoreFiles" = ()


@dataclass(slots=True)
class _Patterns:
    """Lines in gitignore syntax, of which the last that matches decides."""

    lines: list[str]
    patterns: list[GitIgnoreSpecPattern]
    #: whether a line can match at all: blanks, comments and `!lines` alone let nothing in
    let_in: bool = field(init=False)
    _spec: GitIgnoreSpec = field(init=False)

    def __post_init__(self) -> None:
        self.let_in = any(pattern.include for pattern in self.patterns)
        self._spec = GitIgnoreSpec(self.patterns)

    @property
    def are_any(self) -> bool:
        return bool(self.patterns)

    def find(self, path: bytes, *, is_dir: bool) -> tuple[bool | None, int | None]:
        """Return whether `path` matches (None: no line says so, False: a `!line`), by which line.

        The line is an index of `lines`.
        """
        # The `.*` of a compiled pattern would not go past a newline.
        text = os.fsdecode(path).replace("\n", "\ufffd")
        checked = self._spec.check_file(text + "/" if is_dir else text)
        return checked.include, checked.index


@dataclass(frozen=True, slots=True)
class _IgnoreFile:
    """A `.syncdignore` file, read: it bears on what is beneath `base`."""

    path: bytes
    base: bytes
    patterns: _Patterns

    def match(self, path: bytes, *, is_dir: bool) -> tuple[bool | None, str]:
        """Return whether it has an opinion of `path`, and its rule with file and line."""
        inside = path[len(self.base) + 1 :] if self.base else path
        matches, index = self.patterns.find(inside, is_dir=is_dir)
        if index is None:
            return None, ""
        line = self.patterns.lines[index]
        return matches, f"{os.fsdecode(self.path)} line {index + 1}: {line}"


#: The `.syncdignore` files that bear on a directory, from the root down.
IgnoreFiles = tuple[_IgnoreFile, ...]


def _configured(folder: WatchFolder, setting: str, lines: Iterable[str]) -> _Patterns:
    lines = list(lines)
    try:
        return _Patterns(lines, [GitIgnoreSpecPattern(line) for line in lines])
    except ValueError as error:
        raise ConfigError(
            f"folder {folder.name}: a pattern of {setting} = {lines} is not in gitignore "
            f"syntax: {error}"
        ) from error


def _parsed(path: bytes, base: bytes, content: bytes) -> tuple[_IgnoreFile, str]:
    """Return a `.syncdignore` file, and which of its lines cannot be read, if any."""
    text = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    patterns, bad = [], []
    for number, line in enumerate(lines, start=1):
        try:
            patterns.append(GitIgnoreSpecPattern(line))
        except ValueError:
            bad.append(f"line {number}")
            patterns.append(GitIgnoreSpecPattern(""))
    return _IgnoreFile(path, base, _Patterns(lines, patterns)), ", ".join(bad)


def _compiled(patterns: Iterable[str]) -> re.Pattern[bytes]:
    # In any case: the programs that leave them do not agree on one.
    alternatives = b"|".join(translate(pattern).encode() for pattern in patterns)
    return re.compile(alternatives, re.IGNORECASE)


_JUNK = _compiled(JUNK)
_JUNK_ONE_BY_ONE = {pattern: _compiled([pattern]) for pattern in JUNK}


def _junk_pattern(name: bytes) -> str:
    return next(p for p, compiled in _JUNK_ONE_BY_ONE.items() if compiled.fullmatch(name))
