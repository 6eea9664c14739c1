"""Misbehaviour on demand: rules that match requests, and what then goes wrong.

A rule is `{"match": "POST /v2/files/-/uploads", "action": ...}` with one of `probability`, `times`
or `every` (default: always) and an optional `seed`. `match` is a method (or `*`) and a path, in
which `*` stands for anything. Actions: `{"status": 503, "retry_after": 2}`, `"drop_before"`,
`"drop_after"`, `{"delay": 2.0}`, `{"commit_late": 5.0}`, `"garbage"`, `"truncate"`.
"""

import random
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from syncd.emulator.answers import Refusal, invalid

WORDS = frozenset({"drop_before", "drop_after", "garbage", "truncate"})
_FIELDS = frozenset({"match", "probability", "times", "every", "seed", "action"})
_ACTION_FIELDS = ({"status", "retry_after"}, {"status"}, {"delay"}, {"commit_late"})


@dataclass(frozen=True, slots=True)
class Action:
    """What goes wrong: `kind` is one of the words, status, delay or commit_late."""

    kind: str
    status: int = 0
    retry_after: float | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class Rule:
    """One rule, and how often it has been asked and has struck."""

    text: dict[str, Any]
    match: str
    action: Action
    probability: float | None
    times: int | None
    every: int | None
    chance: random.Random
    asked: int = 0
    struck: int = field(default=0)

    def strikes(self, method: str, path: str) -> bool:
        """Say whether this request is hit, and count it."""
        wanted, _, pattern = self.match.partition(" ")
        if wanted not in ("*", method) or not fnmatchcase(path, pattern):
            return False
        self.asked += 1
        if self.probability is not None:
            hit = self.chance.random() < self.probability
        elif self.times is not None:
            hit = self.struck < self.times
        else:
            hit = self.asked % (self.every or 1) == 0
        self.struck += hit
        return hit


class Faults:
    """The rules in force; the first that strikes decides."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def replace(self, document: object) -> list[dict[str, Any]]:
        """Put new rules in force; an empty list heals. Refusal that says what is wrong."""
        if not isinstance(document, list):
            raise invalid("faults", "must be a list of rules")
        rules = [_rule(number, text) for number, text in enumerate(document)]
        with self._lock:
            self._rules = rules
        return self.told()

    def told(self) -> list[dict[str, Any]]:
        """Return the rules in force, each with how often it has struck."""
        with self._lock:
            return [rule.text | {"struck": rule.struck} for rule in self._rules]

    def strike(self, method: str, path: str) -> Action | None:
        """Return what goes wrong with this request, if anything."""
        with self._lock:
            return next((r.action for r in self._rules if r.strikes(method, path)), None)


def _rule(number: int, text: object) -> Rule:
    where = f"faults[{number}]"
    if not isinstance(text, dict):
        raise invalid(where, "must be an object")
    if unknown := text.keys() - _FIELDS:
        raise invalid(where, f"unknown: {', '.join(sorted(unknown))}")
    match = text.get("match")
    if not isinstance(match, str) or " /" not in match:
        raise invalid(f"{where}.match", "must be a method and a path, as in 'POST /v2/files'")
    chosen = [name for name in ("probability", "times", "every") if name in text]
    if len(chosen) > 1:
        raise invalid(where, f"{' and '.join(chosen)} exclude each other")
    probability = _number(where, text, "probability", most=1.0)
    times, every = _number(where, text, "times"), _number(where, text, "every", least=1)
    return Rule(
        text=text,
        match=match,
        action=_action(f"{where}.action", text.get("action")),
        probability=probability,
        times=None if times is None else int(times),
        every=None if every is None else int(every),
        chance=random.Random(_number(where, text, "seed")),  # noqa: S311 - repeatable on purpose
    )


def _number(
    where: str, text: dict[str, Any], name: str, *, least: float = 0, most: float = 1e9
) -> float | None:
    value = text.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise invalid(f"{where}.{name}", f"must be a number from {least:g} to {most:g}")
    return value


def _action(where: str, action: object) -> Action:
    if isinstance(action, str) and action in WORDS:
        return Action(action)
    if isinstance(action, dict) and set(action) in _ACTION_FIELDS:
        if "status" in action:
            status = _number(where, action, "status", least=400, most=599)
            return Action("status", int(status or 500), _number(where, action, "retry_after"))
        kind = next(iter(action))
        return Action(kind, seconds=_number(where, action, kind, most=3600) or 0.0)
    raise invalid(
        where,
        f"must be one of {', '.join(sorted(WORDS))}, or an object with status (and retry_after), "
        "delay or commit_late",
    )


def refusal(action: Action) -> Refusal:
    """Return the error answer that a status fault asks for."""
    headers = {} if action.retry_after is None else {"retry-after": f"{action.retry_after:g}"}
    return Refusal(action.status, "a fault that was asked for", headers=headers)
