"""`once --dry-run`: what a pass would do."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from syncd.cli.lines import folded, print_json
from syncd.cli.options import Options
from syncd.cli.sync import start_log
from syncd.dry_run import Foresight, Kind, dry_run
from syncd.exceptions import ConfigError
from syncd.log import printable
from syncd.units import counted, size

#: Files of each kind that are shown; `--json` names more.
SHOWN = 20
_WORDS = {
    "send": "would be sent",
    "replace": "changed, would be sent and take the place of their copies",
    "delete": "gone here, would be deleted at the service once their grace is over",
    "move": "gone here, or moved: kept if a new file has the same content, else deleted",
    "held": "held, nothing would be done",
    "failed": "failed or unreadable",
    "processing": "in processing at the service, would be waited for",
}


def show_dry_run(options: Options, directories: tuple[Path, ...], *, as_json: bool) -> int:
    """Say what a pass would do; return 1 if something is held, has failed, or was not seen."""
    problems: list[str] = []
    config = options.load(directories=directories, to_sync=True, problems=problems)
    if wrong := [text for text in problems if not text.startswith("no API key")]:
        raise ConfigError(*wrong)
    # It holds a copy of the state, which is to go with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with _looking() as looking_at:
        start_log(config, options, level="error")
        found = dry_run(config, looking_at=looking_at)
    if as_json:
        print_json(_document(found), indent=2)
    else:
        for line in _lines(found):
            click.echo(folded(line, sys.stdout))
    stuck = found.holds or found.unseen or found.kinds["failed"].files
    return 1 if stuck else 0


def _document(found: Foresight) -> dict[str, object]:
    kinds = {name: asdict(kind) for name, kind in found.kinds.items()}
    return kinds | {"ignored": found.ignored, "holds": found.holds, "unseen": found.unseen}


def _lines(found: Foresight) -> Iterator[str]:
    for name, kind in found.kinds.items():
        if kind.files:
            yield from _kind(kind, _WORDS[name])
    if not any(kind.files for kind in found.kinds.values()):
        yield "nothing would be sent or deleted"
    if found.ignored:
        yield f"{counted(found.ignored, 'file')} ignored"
    for hold in found.holds:
        yield f"held: {hold['stops']} of {hold['scope']}: {printable(hold['reason'])}"
    for text in found.unseen:
        yield f"not looked at: {text}"


def _kind(kind: Kind, words: str) -> Iterator[str]:
    yield f"{counted(kind.files, 'file')}, {size(kind.bytes)}: {words}"
    for path in kind.first[:SHOWN]:
        yield f"  {path}"
    if kind.files > SHOWN:
        yield f"  and {kind.files - SHOWN:,} more"


@contextmanager
def _looking() -> Iterator[Callable[[str], None]]:
    """Yield what shows on a terminal which folder is looked at."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

    with Console(stderr=True, highlight=False).status("copying the state") as status:
        yield lambda name: status.update(f"looking at {printable(name)}")
