"""The rules: which files of a folder are eligible, and which rule says so.

In this order, the first that has an opinion decides: `exclude` (gitignore syntax, so that a
`!pattern` there also takes up junk and hidden files), junk, hidden, `include`.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from syncd.exceptions import ConfigError
from syncd.watch.folder import WatchFolder

#: What programs leave behind on their way to a finished file, and what systems keep for themselves.
JUNK = (
    *("*.part", "*.crdownload", "*.tmp", "*.swp", "*~", ".~lock.*"),
    *(".DS_Store", "Thumbs.db", "@eaDir", ".stfolder", "._*", "lost+found"),
)
#: Directories whose verdict is remembered, for looks at single paths.
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a path is excluded, and the rule that decided; empty where none had an opinion."""

    excluded: bool
    rule: str = ""


_ELIGIBLE = Verdict(excluded=False)
_HIDDEN = Verdict(excluded=True, rule="hidden (its name begins with a dot)")
_NOT_INCLUDED = Verdict(excluded=True, rule="include (no pattern matches)")


class Rules:
    """The rules of one folder. ConfigError where a pattern cannot be read."""

    def __init__(self, folder: WatchFolder) -> None:
        self._hidden = folder.hidden
        self._include = _Patterns(folder, "include", folder.include)
        self._exclude = _Patterns(folder, "exclude", folder.exclude)
        self._of_directory = lru_cache(_REMEMBERED)(self._of_whole_directory)

    def verdict(self, path: bytes, *, is_dir: bool) -> Verdict:
        """Judge `path` with every directory above it: beneath an excluded one, all is excluded."""
        parent = path.rpartition(b"/")[0]
        if parent and (above := self._of_directory(parent)).excluded:
            return above
        return self.entry(path, is_dir=is_dir)

    def entry(self, path: bytes, *, is_dir: bool) -> Verdict:
        """Judge `path` alone, in a directory that is known to be eligible."""
        name = path.rpartition(b"/")[2]
        if self._exclude.are_any:
            matches, pattern = self._exclude.match(path, is_dir=is_dir)
            if matches is not None:
                return Verdict(matches, f"exclude {pattern}")
        if _JUNK.fullmatch(name):
            return Verdict(excluded=True, rule=f"junk {_junk_pattern(name)}")
        if not self._hidden and name.startswith(b"."):
            return _HIDDEN
        # A directory is never excluded for matching no `include`: what is beneath may match.
        if is_dir or not self._include.let_in:
            return _ELIGIBLE
        matches, pattern = self._include.match(path, is_dir=False)
        return Verdict(False, f"include {pattern}") if matches else _NOT_INCLUDED

    def _of_whole_directory(self, path: bytes) -> Verdict:
        return self.verdict(path, is_dir=True)


class _Patterns:
    """Lines in gitignore syntax, of which the last that matches decides."""

    def __init__(self, folder: WatchFolder, setting: str, lines: Iterable[str]) -> None:
        self._lines = list(lines)
        try:
            patterns = [GitIgnoreSpecPattern(line) for line in self._lines]
        except ValueError as error:
            raise ConfigError(
                f"folder {folder.name}: a pattern of {setting} = {self._lines} is not in gitignore "
                f"syntax: {error}"
            ) from error
        self.are_any = bool(patterns)
        #: whether a line can match at all: blanks, comments and `!lines` alone let nothing in
        self.let_in = any(pattern.include for pattern in patterns)
        self._spec = GitIgnoreSpec(patterns)

    def match(self, path: bytes, *, is_dir: bool) -> tuple[bool | None, str]:
        """Return whether `path` matches (None: no line says so, False: a `!line`), and the line."""
        # The `.*` of a compiled pattern would not go past a newline.
        text = os.fsdecode(path).replace("\n", "\ufffd")
        checked = self._spec.check_file(text + "/" if is_dir else text)
        return checked.include, "" if checked.index is None else self._lines[checked.index]


def _compiled(patterns: Iterable[str]) -> re.Pattern[bytes]:
    return re.compile(b"|".join(translate(pattern).encode() for pattern in patterns))


_JUNK = _compiled(JUNK)
_JUNK_ONE_BY_ONE = {pattern: _compiled([pattern]) for pattern in JUNK}


def _junk_pattern(name: bytes) -> str:
    return next(p for p, compiled in _JUNK_ONE_BY_ONE.items() if compiled.fullmatch(name))
