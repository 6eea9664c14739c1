"""The rules: which files of a folder are eligible, and which rule says so.

The first that has an opinion decides: `exclude` (a `!pattern` there also takes up junk and hidden
files), junk, hidden, `include`. What they let in, the `.syncdignore` files of its directory and of
those above it can still leave out, the nearest first; they never bring anything back. A file that
is eligible may still be too large.
"""

import os
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import cache

from syncd import disk, relocation
from syncd.descent import Descent
from syncd.exceptions import ConfigError, UnreadableError
from syncd.watch.folder import WatchFolder
from syncd.watch.gitignore import PatternError, Patterns

#: Leftovers of programs on their way to a finished file, and files that systems keep.
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
#: Limits of one such file, and of how many may be nested. Anyone who may write into the folder can
#: write them, so they must not cost more time or memory than this.
IGNORE_BYTES, IGNORE_RULES, IGNORE_DEPTH = 64 << 10, 1000, 8
#: The bytes that all such files of a folder may hold, each content counted once, for reading rules
#: is dear; and the most bytes of rules times bytes of a path, for matching costs that at worst.
FOLDER_BYTES, MATCH_BYTES = 512 << 10, 16 << 20
#: Directories whose rules are remembered, for looks at single paths; and the size of their files.
_REMEMBERED, _REMEMBERED_BYTES = 4096, 512 << 10
#: The most bytes that a name may have.
NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """Whether a path is excluded, and the rule that decided; empty if none had an opinion."""

    excluded: bool
    rule: str = ""
    #: where in the configuration the rule stands: its setting, and which of its patterns, from 0
    place: tuple[str, int] | None = None


_ELIGIBLE = RuleVerdict(excluded=False)
_HIDDEN = RuleVerdict(excluded=True, rule="hidden (its name begins with a dot)")
_NOT_INCLUDED = RuleVerdict(excluded=True, rule="include (no pattern matches)")
_IGNORE_ITSELF = RuleVerdict(excluded=True, rule=f"{IGNORE_FILE} (holds rules, not content)")
_SET_ASIDE = RuleVerdict(excluded=True, rule="set aside by syncd, to be taken away")


class Rules:
    """The rules of one folder. Raise ConfigError when a configured pattern cannot be read.

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
        self._remembered_bytes = 0
        #: the rules of `.syncdignore` files by content, and those used since the last scan began
        self._parsed: dict[bytes, _Parsed] = {}
        self._used: set[bytes] = set()

    def forget(self, *, all_are_read: bool = False) -> None:
        """Read every `.syncdignore` file anew from now on; with `all_are_read`, a scan begins."""
        with self._lock:
            self._above = {}
            self._remembered_bytes = 0
            if all_are_read:
                self._used = set()

    def knows(self, directory: bytes) -> bool:
        """Return whether the rules of `directory` are remembered."""
        return directory in self._above

    def verdict(self, path: bytes, *, is_dir: bool) -> RuleVerdict:
        """Judge `path` with every directory above it: beneath an excluded one, all is excluded.

        UnreadableError if a `.syncdignore` file may have an opinion and cannot be read.
        """
        above = self._directory(path.rpartition(b"/")[0])
        if above.verdict.excluded:
            return above.verdict
        return self.entry(path, is_dir=is_dir, files=above.files)

    def entry(self, path: bytes, *, is_dir: bool, files: "IgnoreFiles" = ()) -> RuleVerdict:
        """Judge `path` alone, in a directory that is known to be eligible.

        `files` are the `.syncdignore` files that bear on it, as `read` returns them.
        """
        configured = self._configured(path, is_dir=is_dir)
        if configured.excluded or (configured.place and configured.place[0] == "exclude"):
            return configured
        for file in reversed(files):
            matches, rule = file.match(path, is_dir=is_dir)
            if matches is not None:
                return configured if configured.rule and not matches else RuleVerdict(matches, rule)
        return configured

    def _configured(self, path: bytes, *, is_dir: bool) -> RuleVerdict:
        """Judge `path` by the configuration, whatever the `.syncdignore` files say."""
        name = path.rpartition(b"/")[2]
        if name == _IGNORE_NAME:
            return _IGNORE_ITSELF
        if relocation.is_aside(name):
            return _SET_ASIDE
        matches, index = self._exclude.patterns.find(path, is_dir=is_dir)
        if matches is not None:
            return RuleVerdict(matches, f"exclude {self._exclude.lines[index]}", ("exclude", index))
        if _JUNK.fullmatch(name):
            return RuleVerdict(excluded=True, rule=f"junk {_junk_pattern(name)}")
        if not self._hidden and name.startswith(b"."):
            return _HIDDEN
        # A directory is never excluded for matching no `include`: a file beneath it may match.
        if is_dir or not self._include.patterns.let_in:
            return _ELIGIBLE
        matches, index = self._include.patterns.find_within(path)
        if not matches:
            return _NOT_INCLUDED
        return RuleVerdict(False, f"include {self._include.lines[index]}", ("include", index))

    def of_size(self, size: int) -> RuleVerdict:
        """Judge an eligible file by its size in bytes."""
        if self._max_size is None or size <= self._max_size:
            return _ELIGIBLE
        return RuleVerdict(True, f"max_size {self._max_size} (it has {size} bytes)")

    def surely_let_in(
        self, prefix: bytes, paths: Iterable[bytes], sizes: Iterable[int], files: "IgnoreFiles"
    ) -> bool:
        """Return whether it is certain that these files of one directory are eligible.

        Their paths begin with `prefix`. Where it is not certain, each is judged.
        """
        if files or self._exclude.lines or self._include.lines:
            return False
        if self._max_size is not None and max(sizes) > self._max_size:
            return False
        text = b"\0".join((b"", *paths, b"")).replace(b"\0" + prefix, b"\0").lower()
        return _suspects(hidden=self._hidden).search(text) is None

    def excludes_directory(self, directory: bytes) -> bool:
        """Return whether `directory` or one above is excluded; UnreadableError as `verdict`."""
        return bool(directory) and self.verdict(directory, is_dir=True).excluded

    def above(self, directory: bytes) -> "IgnoreFiles":
        """Return the `.syncdignore` files that stand above `directory`."""
        return self._directory(directory.rpartition(b"/")[0]).files if directory else ()

    def read(self, descriptor: int, directory: bytes, above: "IgnoreFiles") -> "IgnoreFiles":
        """Return the files that bear on what is in the open `directory`: its own after those above.

        Raise UnreadableError when its own cannot be obeyed: something that it keeps here might be
        sent otherwise.
        """
        if not self._folder.syncdignore:
            return ()
        path = directory + b"/" + _IGNORE_NAME if directory else _IGNORE_NAME
        for file in above:
            file.refuse_too_deep(directory)
        try:
            content = disk.read_small(descriptor, _IGNORE_NAME, IGNORE_BYTES)
        except UnreadableError as error:
            raise UnreadableError(f"{os.fsdecode(path)} cannot be read: {error}") from error
        if content is None:
            return above
        if len(above) == IGNORE_DEPTH:
            raise _unusable(path, f"there are {IGNORE_DEPTH} such files above it already")
        lines, patterns = self._parse(path, content)
        if isinstance(patterns, str):
            raise _unusable(path, patterns)
        return (*above, _IgnoreFile(path, directory, len(content), lines, patterns))

    def _parse(self, path: bytes, content: bytes) -> "_Parsed":
        with self._lock:
            parsed = self._parsed.get(content)
            if parsed is None:
                if not self._has_room_for(content):
                    most = f"{FOLDER_BYTES >> 10} KiB"
                    raise _unusable(path, f"all such files of the folder hold more than {most}")
                parsed = self._parsed[content] = _read(content)
            self._used.add(content)
            return parsed

    def _has_room_for(self, content: bytes) -> bool:
        """Return whether one more content can be parsed; if need be, drop what nobody used."""
        most = FOLDER_BYTES - len(content)
        if sum(map(len, self._parsed)) > most:
            self._parsed = {used: self._parsed[used] for used in self._used}
        return sum(map(len, self._parsed)) <= most

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
                self._remember(remembered, path, above)
        if above is None:
            raise AssertionError(path)
        return above

    def _remember(self, remembered: "dict[bytes, _Above]", path: bytes, above: "_Above") -> None:
        with self._lock:
            if remembered is not self._above:
                # The files were read before `forget`.
                return
            self._remembered_bytes += sum(file.size for file in above.files if file.base == path)
            if len(remembered) >= _REMEMBERED or self._remembered_bytes > _REMEMBERED_BYTES:
                remembered.clear()
                self._remembered_bytes = 0
            remembered[path] = above

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
    """The rules of a directory: its own verdict, and the rule files that apply to its contents."""

    verdict: RuleVerdict
    files: "IgnoreFiles" = ()


@dataclass(frozen=True, slots=True)
class _Configured:
    """The patterns of a setting, as they stand there and as they are matched."""

    lines: tuple[str, ...]
    patterns: Patterns


@dataclass(frozen=True, slots=True)
class _IgnoreFile:
    """A `.syncdignore` file, read: it bears on what is beneath `base`."""

    path: bytes
    base: bytes
    #: in bytes
    size: int
    lines: tuple[bytes, ...]
    patterns: Patterns

    def refuse_too_deep(self, directory: bytes) -> None:
        """Raise UnreadableError where matching names in `directory` may take too long."""
        if (len(directory) - len(self.base) + NAME_BYTES) * self.size > MATCH_BYTES:
            raise _unusable(
                self.path,
                f"{os.fsdecode(directory[:80])}... is too deep for {self.size:,} bytes of rules",
            )

    def match(self, path: bytes, *, is_dir: bool) -> tuple[bool | None, str]:
        """Return whether `path` matches (None: no line says so), and the rule with its line."""
        inside = path[len(self.base) + 1 :] if self.base else path
        matches, index = self.patterns.find(inside, is_dir=is_dir)
        if matches is None:
            return None, ""
        line = os.fsdecode(self.lines[index])
        return matches, f"{os.fsdecode(self.path)} line {index + 1}: {line}"


#: The `.syncdignore` files that bear on a directory, from the root down.
IgnoreFiles = tuple[_IgnoreFile, ...]


def _configured(folder: WatchFolder, setting: str, lines: tuple[str, ...]) -> _Configured:
    for line in lines:
        try:
            Patterns([os.fsencode(line)])
        except (PatternError, UnicodeError) as error:
            problem = str(error).removeprefix("line 1 ")
            raise ConfigError(
                f"folder {folder.name}: the pattern {line!r} of {setting} is not in gitignore "
                f"syntax: it {problem}"
            ) from error
    return _Configured(lines, Patterns(map(os.fsencode, lines)))


def _unusable(path: bytes, why: str) -> UnreadableError:
    return UnreadableError(f"{os.fsdecode(path)} cannot be used: {why}")


#: The lines of a `.syncdignore` file and its rules, or why it has none.
_Parsed = tuple[tuple[bytes, ...], Patterns | str]


def _read(content: bytes) -> _Parsed:
    """Return the lines of a `.syncdignore` file and its rules, or why it has none."""
    text = content.removeprefix(b"\xef\xbb\xbf")
    lines = tuple(line.removesuffix(b"\r") for line in text.split(b"\n"))
    rules = sum(1 for line in lines if line.strip(b" ") and not line.startswith(b"#"))
    if rules > IGNORE_RULES:
        return (), f"it holds {rules:,} rules, and at most {IGNORE_RULES:,} are allowed"
    try:
        return lines, Patterns(lines)
    except PatternError as error:
        return (), f"its {error}"


def _compiled(patterns: Iterable[str]) -> re.Pattern[bytes]:
    # In any case: the programs that leave them do not agree on one.
    alternatives = b"|".join(translate(pattern).encode() for pattern in patterns)
    return re.compile(alternatives, re.IGNORECASE)


_JUNK = _compiled(JUNK)


def _suspect(pattern: str) -> list[str]:
    """Return an expression, in its parts, for names in lower case between NULs.

    It finds at least each match.
    """
    begins = [] if pattern.startswith("*") else ["\0"]
    ends = [] if pattern.endswith("*") else ["\0"]
    first, *others = (
        [re.escape(sign) for sign in literal] for literal in pattern.lower().strip("*").split("*")
    )
    return [*begins, *first, *(part for more in others for part in (r"[^\0]*", *more)), *ends]


def _any_of(expressions: Iterable[list[str]]) -> str:
    """Return the expression that finds each, with what they begin with in common said once.

    One after another they would all be tried at each name of a folder.
    """
    rests: dict[str, list[list[str]]] = {}
    for expression in expressions:
        if not expression:
            return ""
        rests.setdefault(expression[0], []).append(expression[1:])
    return "(?:" + "|".join(first + _any_of(rest) for first, rest in rests.items()) + ")"


@cache
def _suspects(*, hidden: bool) -> re.Pattern[bytes]:
    """Return what finds names that may be junk or ours; or hidden, unless those are wanted."""
    dotted = [IGNORE_FILE, ".syncd-*"] if hidden else [".*"]
    return re.compile(_any_of(map(_suspect, (*JUNK, *dotted))).encode())


def _junk_pattern(name: bytes) -> str:
    return next(pattern for pattern in JUNK if _compiled([pattern]).fullmatch(name))
