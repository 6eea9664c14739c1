"""`status`: how things stand. It needs no daemon and no key."""

import time
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from syncd import document
from syncd.cli.lines import print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.render import show, status_view
from syncd.config import Config

JsonObject = dict[str, Any]
#: Seconds between two looks of `status --watch`.
WATCH_SECONDS = 1.0


@click.command()
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--alive", is_flag=True, help="Say by exit code alone whether the daemon works.")
@common
@pass_options
def status(options: Options, *, watch: bool, as_json: bool, alive: bool) -> int:
    """Say whether all is well and why not, what waits, what is held, what is being sent.

    Exits with 0 when all is well, else with 1.
    """
    # With --alive alone it is `syncd.cli.alive` that answers.
    if watch + as_json + alive > 1 or alive:
        raise click.UsageError("use only one of --watch, --json and --alive")
    config = options.load(to_sync=False)
    directory = config.state.directory
    console = Console(highlight=False)
    if watch:
        if not console.is_terminal:
            raise click.UsageError("--watch needs a terminal (docker exec -it); else use --json")
        _watch(config, console)
        return 0
    facts = document.status(directory, base_url=config.api.base_url)
    if as_json:
        # `ls --status failed --json` has the failures.
        print_json(document.contract(facts), indent=2)
    else:
        show(console, status_view(facts, time.time()))
    return 0 if facts["well"] else 1


def _watch(config: Config, console: Console) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                started = time.monotonic()
                facts = document.status(config.state.directory, base_url=config.api.base_url)
                live.update(status_view(facts, time.time()), refresh=True)
                # Counting a million files takes seconds: leave the disk to the daemon meanwhile.
                time.sleep(max(WATCH_SECONDS, 2 * (time.monotonic() - started)))
        except KeyboardInterrupt:
            return
