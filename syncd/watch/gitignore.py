"""Rules in gitignore syntax, with git's own meaning, matched without backtracking.

A rule becomes a regular expression over bytes in which each `*` and `**` takes the first place that
fits and never tries another (atomic groups). For these patterns the first place is as good as any
later one. Matching therefore takes at most time proportional to the name times the rule, whatever
either of them holds.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: No path is longer, so a longer rule is a mistake.
RULE_BYTES = 4096
#: The bytes that begin something other than themselves.
_SPECIAL = b"*?[\\"
_CLASSES: dict[bytes, bytes] = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb"\x20\t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": rb"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    b"space": rb"\x20\t\n\v\f\r",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}


class PatternError(ValueError):
    """A rule is not in gitignore syntax, or could never match."""


#: Tokens beside the expressions that take one byte each: a star, and one that crosses directories.
_STAR, _DEEP = b"*", b"**"
_SLASH = b"/"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: an expression for a name, or for a whole path where it has a slash."""

    negated: bool
    of_name: bool
    expression: bytes


class Patterns:
    """Rules of which the last one that matches decides."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        """Read a rule from each line; raise PatternError when one cannot be read."""
        rules = []
        for index, line in enumerate(lines):
            try:
                rule = parsed(line)
            except PatternError as error:
                raise PatternError(f"line {index + 1} {error}") from None
            if rule is not None:
                rules.append((index, rule))
        #: whether any rule lets something in: blanks, comments and `!rules` alone do not
        self.let_in = any(not rule.negated for _, rule in rules)
        self._negated = frozenset(index for index, rule in rules if rule.negated)
        rules.reverse()
        self._names = _Alternatives((i, r.expression) for i, r in rules if r.of_name)
        self._paths = _Alternatives((i, r.expression) for i, r in rules if not r.of_name)

    def find(self, path: bytes, *, is_dir: bool) -> tuple[bool | None, int]:
        """Return whether `path` itself matches, and the line that says so, counted from 0.

        The answer is None (and -1) when no line matches, and False when the last line that does
        begins with `!`.
        """
        return self._told(self._last(path, is_dir=is_dir))

    def find_within(self, path: bytes) -> tuple[bool | None, int]:
        """Return the same for a file that also matches by any directory above it."""
        last, above = self._last(path, is_dir=False), path
        while above := above.rpartition(_SLASH)[0]:
            last = max(last, self._last(above, is_dir=True))
        return self._told(last)

    def _last(self, path: bytes, *, is_dir: bool) -> int:
        text = path + _SLASH if is_dir else path
        return max(self._names.last(text[path.rfind(_SLASH) + 1 :]), self._paths.last(text))

    def _told(self, index: int) -> tuple[bool | None, int]:
        return (None, -1) if index < 0 else (index not in self._negated, index)


class _Alternatives:
    """Expressions tried in turn, as one; the group that took part tells which one it was."""

    def __init__(self, numbered: Iterable[tuple[int, bytes]]) -> None:
        numbered = list(numbered)
        self._indexes = [index for index, _ in numbered]
        # The group comes last, so that the engine can reject most of them by their first byte.
        together = b"|".join(expression + b"()" for _, expression in numbered)
        self._expression = re.compile(together, re.DOTALL) if numbered else None

    def last(self, text: bytes) -> int:
        """Return the index of the first expression that matches all of `text`; else -1."""
        match = self._expression.match(text) if self._expression else None
        return self._indexes[(match.lastindex or 0) - 1] if match else -1


def parsed(line: bytes) -> Rule | None:
    """Return the rule on a line, None for a blank or a comment; raise PatternError."""
    line = _without_trailing_spaces(line)
    if not line or line.startswith(b"#"):
        return None
    if b"\0" in line:
        raise PatternError("holds a NUL byte, which no name does")
    if len(line) > RULE_BYTES:
        raise PatternError(f"is longer than {RULE_BYTES} bytes")
    negated = line.startswith(b"!")
    body = line[negated:]
    of_directory = body.endswith(_SLASH)
    body = body[: len(body) - of_directory]
    of_name = _SLASH not in body
    body = body.removeprefix(_SLASH)
    if not body:
        raise PatternError("has a rule that names nothing")
    end = rb"/\Z" if of_directory else rb"/?+\Z"
    return Rule(negated, of_name, _expression(_tokens(body, of_name=of_name), end))


def _expression(tokens: Iterable[bytes], end: bytes) -> bytes:
    """Return the expression of a rule: blocks of whole directories, each where it first fits."""
    first, *others = _split(tokens, _DEEP)
    if not others:
        return _block(first) + end
    # git also accepts a `**` within a name (`dir/name**/x`) if no special byte precedes it.
    within = bool(first) and first[-1] != _SLASH
    expression = _block(first)
    for number, tokens_after in enumerate(others, start=1):
        block = tokens_after[1:]
        tail = end if number == len(others) else b""
        if not tokens_after:
            expression += (b".*" if within else b".+") + end
        elif within:
            here, beyond = _block(block, may_be_empty=True) + tail, _block(block) + tail
            expression += b"(?>%s|.*?/%s)" % (here, beyond)
        else:
            expression += rb"(?>.*?(?<![^/])%s)" % (_block(block) + tail)
        within = False
    return expression


def _block(tokens: Iterable[bytes], *, may_be_empty: bool = False) -> bytes:
    """Return the expression of names and slashes without a `**` between them."""
    names = [_name(name, may_be_empty=may_be_empty) for name in _split(tokens, _SLASH)]
    return _SLASH.join(names)


def _name(tokens: list[bytes], *, may_be_empty: bool) -> bytes:
    """Return the expression of one name: what follows a star is taken where it first fits."""
    first, *others = _split(tokens, _STAR)
    if not others:
        return b"".join(first)
    *middle, last = others
    expression = b"".join(first) + b"".join(b"(?>[^/]*?%s)" % b"".join(part) for part in middle)
    if last:
        # At the end there is one place alone that fits.
        return expression + b"(?=[^/]{%d})[^/]*+(?<=%s)" % (len(last), b"".join(last))
    return expression + (b"[^/]*+" if first or middle or may_be_empty else b"[^/]++")


def _split(tokens: Iterable[bytes], at: bytes) -> list[list[bytes]]:
    """Return the runs of tokens between those that equal `at`."""
    runs: list[list[bytes]] = [[]]
    for token in tokens:
        if token == at:
            runs.append([])
        else:
            runs[-1].append(token)
    return runs


def _without_trailing_spaces(line: bytes) -> bytes:
    r"""Return a line without the spaces at its end, unless a `\` escapes them."""
    bare = line.rstrip(b" ")
    backslashes = len(bare) - len(bare.rstrip(b"\\"))
    # An odd one escapes the first of the spaces.
    return line[: len(bare) + 1] if backslashes % 2 and len(bare) < len(line) else bare


def _tokens(body: bytes, *, of_name: bool) -> Iterator[bytes]:
    """Yield the tokens of a rule."""
    # git compares the part before the first special byte on its own, so the rest begins anew there.
    plain = next((at for at, byte in enumerate(body) if byte in _SPECIAL), len(body))
    at = 0
    while at < len(body):
        byte = body[at : at + 1]
        if byte == b"*":
            end = at
            while body[end : end + 1] == b"*":
                end += 1
            begins = at == plain or body[at - 1 : at] == _SLASH
            ends = body[end : end + 1] in (b"", _SLASH) or body[end : end + 2] == b"\\/"
            deep = end - at > 1 and begins and ends and not of_name
            yield _DEEP if deep else _STAR
            if deep and body[end : end + 1] == b"\\":
                # Before an escaped slash git asks for one directory at least.
                yield from (_SLASH, _STAR)
            at = end
        elif byte == b"[":
            token, at = _bracket(body, at + 1)
            yield token
        elif byte == b"?":
            yield b"[^/]"
            at += 1
        else:
            at += byte == b"\\"
            if at == len(body):
                raise PatternError(r"ends with a \ that escapes nothing")
            yield re.escape(body[at : at + 1])
            at += 1


def _bracket(body: bytes, at: int) -> tuple[bytes, int]:
    """Return the expression of the set that begins at `at`, and the place after its end."""
    negated = body[at : at + 1] in (b"!", b"^")
    at += negated
    first, members = at, bytearray()
    while body[at : at + 1] != b"]" or at == first:
        if body[at : at + 2] == b"[:" and (named := _class(body, at + 2)):
            members += named[0]
            at = named[1]
            continue
        low, at = _member(body, at)
        if body[at : at + 1] == b"-" and body[at + 1 : at + 2] not in (b"", b"]"):
            high, at = _member(body, at + 1)
            if high < low:
                shown = f"{_shown(low)}-{_shown(high)}"
                raise PatternError(f"holds a range that runs backwards ({shown})")
            members += b"\\x%02x-\\x%02x" % (low[0], high[0])
        else:
            members += b"\\x%02x" % low[0]
    return b"(?!/)[%s%s]" % (b"^" if negated else b"", members), at + 1


def _member(body: bytes, at: int) -> tuple[bytes, int]:
    at += body[at : at + 1] == b"\\"
    if at >= len(body):
        raise PatternError("holds a [ without its ]")
    return body[at : at + 1], at + 1


def _class(body: bytes, at: int) -> tuple[bytes, int] | None:
    """Return the members of a class such as `[:digit:]` and the place after it; else None."""
    end = body.find(b"]", at)
    if end < 0:
        raise PatternError("holds a [ without its ]")
    if end == at or body[end - 1 : end] != b":":
        return None
    name = body[at : end - 1]
    if name not in _CLASSES:
        raise PatternError(f"holds an unknown class [:{name.decode('ascii', 'replace')}:]")
    return _CLASSES[name], end + 1


def _shown(byte: bytes) -> str:
    return ascii(byte.decode("latin-1"))[1:-1]
