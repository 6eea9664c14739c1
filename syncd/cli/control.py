"""How a command that changes something is carried out: by the daemon, or here under its lock."""

from collections.abc import Callable, Iterator
from typing import Any

from syncd.commands import COMMANDS
from syncd.config import Config
from syncd.parts import opened

JsonObject = dict[str, Any]


def perform(
    config: Config,
    command: str,
    arguments: JsonObject,
    *,
    progress: Callable[[JsonObject], None] = lambda _: None,
) -> JsonObject:
    """Carry out `command` and return its result; `progress` is told each object before it."""
    result: JsonObject = {}
    for said in _carried_out(config, command, arguments):
        if result:
            progress(result)
        result = said
    return result


def _carried_out(config: Config, command: str, arguments: JsonObject) -> Iterator[JsonObject]:
    with opened(config) as parts:
        yield from COMMANDS[command](parts, arguments)
