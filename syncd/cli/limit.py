"""`limit`: show or set how much bandwidth uploads may use."""

import time
from collections.abc import Iterator
from typing import Any

import click

from syncd.cli import completion
from syncd.cli.control import perform
from syncd.cli.lines import print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.render import limit_text
from syncd.cli.times import span_of
from syncd.commands import JsonObject, set_limit
from syncd.components import opened_store
from syncd.config.loading import Config
from syncd.exceptions import NoStateError
from syncd.heartbeat import read
from syncd.log import printable
from syncd.offers import offered
from syncd.state import limits, views
from syncd.state.database.connection import Database
from syncd.state.database.lock import lock_holder
from syncd.timetable import Timetable
from syncd.units import parse_rate
from syncd.workers.bandwidth import in_force
from syncd.workers.clock_seen import clock_watch

#: The word for what the configuration says.
CONFIGURED = "configured"


def _rate(_: click.Context, __: click.Parameter, value: str | None) -> JsonObject | None:
    if value is None:
        return None
    if value.lower() == CONFIGURED:
        return {"configured": True}
    try:
        return {"rate": parse_rate(value)}
    except ValueError as error:
        words = f"{printable(value)!r} {error}, or {CONFIGURED}"
        raise click.BadParameter(words) from error


@click.command()
@click.argument(
    "rate",
    metavar="[RATE|off|configured]",
    required=False,
    callback=_rate,
    shell_complete=completion.rates,
)
@click.option("--for", "for_seconds", metavar="TIME", callback=span_of, help="For 30m, 2h, 1d.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@common
@pass_options
def limit(
    options: Options, rate: JsonObject | None, *, for_seconds: float | None, as_json: bool
) -> None:
    """Limit the bandwidth of all uploads together to RATE, such as 2MiB/s; `off` for no limit.

    It holds at once, also for what is on its way, and until another `syncd limit`, or for a time;
    restarts do not end it. It outweighs `[upload] bandwidth`; `syncd limit configured` goes back to
    that. Without RATE, say what is in force.
    """
    if for_seconds is not None and (rate is None or "rate" not in rate):
        raise click.UsageError("--for needs a rate, or off")
    result = _known(options) if rate is None else _set(options, rate | {"seconds": for_seconds})
    if as_json:
        print_json(result, indent=2)
    else:
        click.echo(f"limit: {limit_text(result)}")


def _known(options: Options) -> JsonObject:
    """Return the limit that the running daemon obeys, or that the next one will."""
    beat = read(options.look().state.directory)
    if beat is not None and beat.bandwidth is not None:
        return beat.bandwidth
    return _next(options.load(to_sync=False))


def _next(config: Config) -> JsonObject:
    """Return the limit that the next daemon or pass will obey."""
    now = time.time()

    def known(db: Database) -> limits.Limit | None:
        return limits.current(db, now)

    try:
        by_hand = views.read(config.state.directory, known)
    except NoStateError:
        by_hand = None
    return in_force(by_hand, Timetable.parse(config.upload.bandwidth), now).shown()


def _set(options: Options, arguments: dict[str, Any]) -> JsonObject:
    def alone(config: Config, arguments: JsonObject) -> Iterator[JsonObject]:
        with opened_store(config) as store:
            set_limit(store, clock_watch(store), arguments)
        yield _next(config)

    result = perform(options, "limit", arguments, alone=alone)
    if lock_holder(options.look().state.directory) is None:
        said = "no daemon is running: the next `syncd run` or `syncd once` obeys"
        click.echo(offered(said), err=True)
    return result
