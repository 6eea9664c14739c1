"""`status`: how things stand. It needs no daemon and no key."""

import time
from typing import Any

import click

from syncd.cli.alive import exit_code
from syncd.cli.lines import print_json
from syncd.cli.options import Options, common, pass_options
from syncd.config.locations import Glance
from syncd.exceptions import ConfigError
from syncd.report import status as report

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

    Exits with 0 when all is well, else with 1; with 78 where no daemon runs and the configuration
    cannot be used.
    """
    if watch + as_json + alive > 1:
        raise click.UsageError("use only one of --watch, --json and --alive")
    at = options.glance()
    if alive:
        return exit_code(at.state_directory)
    if watch:
        _watch(at)
        return 0
    facts = report.status(at.state_directory, base_url=at.base_url)
    if not (facts["well"] or facts["daemon"]["running"]):
        # A configuration that cannot be used may be why no daemon runs.
        options.look()
    if as_json:
        # `ls --status failed --json` has the failures.
        print_json(report.contract(facts), indent=2)
    else:
        _show(facts)
    if options.problems and not facts["daemon"]["running"]:
        return ConfigError.exit_code
    return 0 if facts["well"] else 1


def _show(facts: JsonObject) -> None:
    # Only here: what a machine asks for starts without them.
    from rich.console import Console  # noqa: PLC0415

    from syncd.cli.render import show, status_view  # noqa: PLC0415

    show(Console(highlight=False), status_view(facts, time.time()))


def _watch(at: Glance) -> None:
    # Only here, as above.
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from syncd.cli.render import status_view  # noqa: PLC0415

    console = Console(highlight=False)
    if not console.is_terminal:
        raise click.UsageError("--watch needs a terminal (docker exec -it); else use --json")
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                started = time.monotonic()
                facts = report.status(at.state_directory, base_url=at.base_url)
                live.update(status_view(facts, time.time()), refresh=True)
                # Counting a million files takes seconds: leave the disk to the daemon meanwhile.
                time.sleep(max(WATCH_SECONDS, 2 * (time.monotonic() - started)))
        except KeyboardInterrupt:
            return
