"""Faults on demand: rules that match requests, and what then goes wrong.

A rule is `{"match": "POST /v2/files/-/uploads", "action": ...}` and one of `probability` (0 to 1;
`seed` makes it repeatable), `times` (the first n requests) or `every` (each n-th); with none of
them, every request is hit. `match` is a method (`*`: any) and a whole path without the query, in
which `*` stands for anything and `{file_uuid}` or the like for one segment: a presigned upload is
`PUT /_storage/{file_uuid}`. The first rule that hits a request decides.

| action | what goes wrong |
|---|---|
| `{"status": 503, "retry_after": 2}` | this answer; nothing is stored |
| `"drop_before"` | the body is read, the connection cut, nothing stored |
| `"lie"` | the body is read, answered 200, nothing stored |
| `"drop_after"` | stored, then the connection cut without an answer |
| `{"delay": 2.0}` | served, but this many seconds later |
| `{"commit_late": 5.0}` | 504 now, stored this many seconds later |
| `"garbage"` | stored, and answered 200 with HTML |
| `"truncate"` | stored, and the connection closed halfway through the answer |
"""

import random
import re
from dataclasses import dataclass
from typing import Any

from syncd.emulator.answers import invalid

_WORDS = ("drop_before", "lie", "drop_after", "garbage", "truncate")
_MEMBERS = {"match", "probability", "times", "every", "seed", "action"}
_MATCH = re.compile(r"(\*|[A-Z]+) (/\S*)")
_WILD = re.compile(r"(\*|\{\w+\})")
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class FaultAction:
    """The action of a rule; `kind` is one of the words, or status, delay or commit_late."""

    kind: str
    status: int = 0
    retry_after: float | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class FaultRule:
    """One rule, and the numbers of requests that it matched and hit."""

    text: dict[str, Any]
    method: str
    path: re.Pattern[str]
    action: FaultAction
    chance: random.Random
    matched: int = 0
    struck: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Return whether this request is hit, and count it."""
        if self.method not in ("*", method) or not self.path.fullmatch(path):
            return False
        self.matched += 1
        if "probability" in self.text:
            hit = self.chance.random() < float(self.text["probability"])
        elif "times" in self.text:
            hit = self.struck < int(self.text["times"])
        else:
            hit = self.matched % int(self.text.get("every", 1)) == 0
        self.struck += hit
        return hit


class Faults:
    """The rules in force."""

    def __init__(self) -> None:
        self._rules: list[FaultRule] = []

    def replace(self, rules: object) -> None:
        """Put new rules in force; raise the 422 that says what is wrong with them."""
        if not isinstance(rules, list):
            raise invalid("faults", "must be a list of rules")
        self._rules = [_rule(f"faults[{number}]", text) for number, text in enumerate(rules)]

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules in force, each with its counts."""
        return [r.text | {"matched": r.matched, "struck": r.struck} for r in self._rules]

    def strike(self, method: str, path: str) -> FaultAction | None:
        """Return what goes wrong with this request, if anything."""
        return next((rule.action for rule in self._rules if rule.strikes(method, path)), None)


def _rule(where: str, text: object) -> FaultRule:
    if not isinstance(text, dict):
        raise invalid(where, "must be an object")
    if unknown := text.keys() - _MEMBERS:
        raise invalid(where, f"has an unknown member: {', '.join(sorted(unknown))}")
    match = _MATCH.fullmatch(str(text.get("match")))
    if match is None:
        raise invalid(f"{where}.match", "must be a method and a path, as in 'POST /v2/files'")
    chosen = [name for name in ("probability", "times", "every") if name in text]
    if len(chosen) > 1:
        raise invalid(where, f"{' and '.join(chosen)} exclude each other")
    _check(where, text, "probability", float, 0, 1)
    _check(where, text, "times", int, 0, 10**9)
    _check(where, text, "every", int, 1, 10**9)
    _check(where, text, "seed", int, 0, 2**63)
    return FaultRule(
        text=text,
        method=match[1],
        path=_pattern(match[2]),
        action=_action(f"{where}.action", text.get("action")),
        chance=random.Random(text.get("seed")),  # noqa: S311 - repeatable on purpose
    )


def _pattern(path: str) -> re.Pattern[str]:
    parts = _WILD.split(path)
    # Every second part is a wildcard.
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [".*" if wild == "*" else "[^/]+" for wild in parts[1::2]]
    return re.compile("".join(parts), re.DOTALL)


def _action(where: str, action: object) -> FaultAction:
    if isinstance(action, str) and action in _WORDS:
        return FaultAction(action)
    if isinstance(action, dict):
        if action.keys() in ({"status"}, {"status", "retry_after"}):
            _check(where, action, "status", int, 400, 599)
            _check(where, action, "retry_after", float, 0, 10**10)
            return FaultAction("status", action["status"], action.get("retry_after"))
        if action.keys() in ({"delay"}, {"commit_late"}):
            kind = next(iter(action))
            _check(where, action, kind, float, 0, _DAY_SECONDS)
            return FaultAction(kind, seconds=action[kind])
    raise invalid(
        where,
        f"must be one of {', '.join(_WORDS)}, or an object with status (and retry_after), "
        "delay or commit_late",
    )


def _check(
    where: str, text: dict[str, Any], name: str, kind: type[int | float], least: int, most: int
) -> None:
    if name not in text:
        return
    value = text[name]
    is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        number = "a whole number" if kind is int else "a number"
        raise invalid(f"{where}.{name}", f"must be {number} from {least} to {most}")
