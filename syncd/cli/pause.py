"""`pause` and `resume`: stop sending and deleting for a while."""

import base64
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from syncd.cli import completion
from syncd.cli.control import perform
from syncd.cli.folders import named_folder
from syncd.cli.lines import folded, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.times import future_time, span_of
from syncd.commands import JsonObject, end_pause, set_pause
from syncd.components import opened_store
from syncd.config.loading import Config
from syncd.exceptions import NoStateError
from syncd.log import printable
from syncd.offers import offered
from syncd.report import folder_paths
from syncd.state import views
from syncd.state.database.lock import lock_holder
from syncd.state.database.store import Store
from syncd.state.holds import EVERYWHERE, pauses
from syncd.state.texts import seconds
from syncd.units import clock
from syncd.workers.clock_seen import clock_watch

_folder = click.argument("folder", required=False, shell_complete=completion.folders)
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.command()
@_folder
@click.option("--for", "for_seconds", metavar="TIME", callback=span_of, help="For 30m, 2h, 1d.")
@click.option(
    "--until", metavar="TIME", callback=future_time, help="Until 07:30, or a date with a time."
)
@_as_json
@common
@pass_options
def pause(
    options: Options,
    folder: str | None,
    *,
    for_seconds: float | None,
    until: float | None,
    as_json: bool,
) -> None:
    """Stop sending and deleting in FOLDER (name or path), or everywhere.

    It lasts for a time, or until `syncd resume`, also across restarts. The running daemon obeys at
    once: a file that is being sent is dropped before its last byte, and sent anew afterwards.
    Watching goes on, and so does following what is stored. A pass of `syncd once` leaves what is
    paused alone, and exits with 1.
    """
    if for_seconds is not None and until is not None:
        raise click.UsageError("use only one of --for and --until")
    end = {"until": until, "seconds": for_seconds}

    def alone(store: Store, arguments: JsonObject) -> JsonObject:
        return set_pause(store, clock_watch(store), arguments)

    _carry_out(options, "pause", folder, end, alone, as_json=as_json)


@click.command()
@_folder
@_as_json
@common
@pass_options
def resume(options: Options, folder: str | None, *, as_json: bool) -> None:
    """Go on with FOLDER (name or path), or with all that was paused."""
    _carry_out(options, "resume", folder, {}, end_pause, as_json=as_json)


def _carry_out(
    options: Options,
    command: str,
    folder: str | None,
    arguments: dict[str, Any],
    alone: Callable[[Store, JsonObject], JsonObject],
    *,
    as_json: bool,
) -> None:
    config = options.look()
    if folder is not None and command == "resume" and folder in _paused(config) - {EVERYWHERE}:
        # It may be configured no more, or by another name.
        arguments["folder"] = folder
    elif folder is not None:
        try:
            known = views.read(
                config.state.directory, lambda db: list(folder_paths.folders(config, db))
            )
        except NoStateError:
            known = list(folder_paths.folders(config, None))
        meant = named_folder(folder, known)
        arguments["folder"] = meant.name
        arguments["root_b64"] = base64.b64encode(meant.root).decode()

    def by_hand(config: Config, arguments: JsonObject) -> Iterator[JsonObject]:
        with opened_store(config) as store:
            yield alone(store, arguments)

    result = perform(options, command, arguments, alone=by_hand)
    if as_json:
        print_json(result, indent=2)
        return
    for line in _said(result):
        click.echo(folded(line, sys.stdout))
    if lock_holder(config.state.directory) is None:
        said = "no daemon is running: the next `syncd run` or `syncd once` obeys"
        click.echo(offered(said), err=True)


def _paused(config: Config) -> frozenset[str]:
    try:
        return views.read(config.state.directory, pauses.scopes)
    except NoStateError:
        return frozenset()


def _said(result: JsonObject) -> Iterator[str]:
    if "resumed" in result:
        names = [_named(folder) for folder in result["resumed"]]
        yield f"resumed: {', '.join(names)}" if names else "nothing was paused"
    for one in result["paused"]:
        end = clock(seconds(one["until"])) if one["until"] else "`syncd resume`"
        yield f"paused: {_named(one['folder'])}; nothing is sent or deleted until {end}"


def _named(folder: str | None) -> str:
    return "everything" if folder is None else printable(folder)
