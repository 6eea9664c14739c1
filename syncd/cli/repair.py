"""The commands that compare and mend: `verify`, `adopt` and `retry`."""

import base64
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from syncd.cli import completion
from syncd.cli.control import perform
from syncd.cli.lines import confirm, print_json
from syncd.cli.options import Options, common, pass_options
from syncd.cli.selection import arguments
from syncd.config.loading import Config
from syncd.config.locations import current_directory
from syncd.exceptions import ConfigError
from syncd.log import printable
from syncd.offers import offered
from syncd.repair.adopt import INSTANCE
from syncd.repair.verify import DIFFERENCES
from syncd.report.folder_paths import folders
from syncd.state import files, manual_retry, views
from syncd.state.database.store import Transaction, lock_holder
from syncd.state.selected import holding, is_known
from syncd.units import counted, size

JsonObject = dict[str, Any]
#: Findings that are shown; `--json` has them all.
SHOWN = 20
_KINDS = {
    "gone": "gone remotely, and not by syncd",
    "size": "with another size than was sent",
    "undeleted": "deleted by syncd, and still there: others have to delete them",
    "duplicate": "made by a proxy that repeated our request (deleted by: "
    "syncd verify --remove-duplicates)",
    "foreign": "with a token of ours in the name, and not ours: syncd never touches them",
}

_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@click.command()
@click.option(
    "--remove-duplicates",
    is_flag=True,
    help="Delete second objects that a proxy made by repeating one of our requests: with our "
    "token and size, created while the request ran.",
)
@_as_json
@common
@pass_options
def verify(options: Options, *, remove_duplicates: bool, as_json: bool) -> int:
    """Compare the ledger (syncd's record of what it sent) with the remote listing.

    Says what differs. Files whose remote copies others deleted are then treated as the setting
    [deletions] remote_gone says. Objects with a token of ours that are not ours are listed, and
    left alone. Exits with 1 if something differs or could not be compared.
    """
    result = with_progress(options, "verify", {"remove_duplicates": remove_duplicates})
    if as_json:
        print_json(result, indent=2)
    else:
        _show_verdict(result)
    differs = any(result["counts"].get(kind) for kind in DIFFERENCES)
    return 1 if differs or any(result["unread"].values()) else 0


def _show_verdict(result: JsonObject) -> None:
    findings = result["findings"]
    listed = counted(result["listed"], "remote object")
    click.echo(f"{listed}, {result['ours']} of them in our ledger")
    for key, words in (
        ("released", "kept remotely, and no longer mirrored"),
        ("retiring", "on their way out"),
        ("in_doubt", "in doubt: looked up by themselves"),
        ("failed", "failed"),
    ):
        if result[key]:
            click.echo(f"{result[key]} {words}")
    for reason in result["incomplete"]:
        click.echo(f"the listing is not proven complete: {reason}")
    for workspace, kept in result["unread"].items():
        ours = counted(kept, "copy", "copies")
        click.echo(f"{ours} not compared: the key may not read workspace {workspace}")
    if not findings:
        click.echo("all else is as the ledger has it")
    for kind, words in _KINDS.items():
        some = [finding for finding in findings if finding["kind"] == kind]
        _show(some, result["counts"].get(kind, 0), words)
    kept = result["kept"]
    _show(kept, len(kept), "kept: syncd does not delete them")


def _show(some: list[JsonObject], count: int, words: str) -> None:
    if some:
        click.echo(offered(f"\n{count:,} {words}:"))
    for finding in some[:SHOWN]:
        click.echo(f"  {_line(finding)}")
    if count > SHOWN:
        click.echo(f"  and {count - SHOWN:,} more (--json lists {len(some):,})")


def _line(finding: JsonObject) -> str:
    where = finding.get("path") or finding.get("remote_file_path") or finding.get("of") or ""
    folder = f"{finding['folder']}/" if "folder" in finding else ""
    remote = finding.get("remote_size")
    sizes = f" ({size(finding['size'])} here, {size(remote)} there)" if remote is not None else ""
    if "remote_size" in finding and remote is None:
        sizes = f" ({size(finding['size'])} here, no size there)"
    retired = ", which is deleted now" if finding.get("retired") else ""
    why = f": {finding['why']}" if "why" in finding else ""
    return f"{finding['file_uuid']}  {printable(folder + where)}{sizes}{retired}{printable(why)}"


class _WithStartingOver(click.Command):
    """Tells at the end of its help how to start over, by commands that work here as they stand."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = ctx.find_object(Options) or Options()
        try:
            directory = options.glance().state_directory
        except ConfigError:
            directory = Path("STATE_DIRECTORY")
        with formatter.section("Start over"):
            for text, *commands in _starting_over(directory):
                formatter.write_text(offered(text))
                # A command stays on one line, so that it can be copied.
                formatter.write("".join(f"    {offered(command)}\n" for command in commands))


def _starting_over(directory: Path) -> Iterator[tuple[str, ...]]:
    """Yield what to do to begin with a new state: words, and the commands that they lead to."""
    now = datetime.now().astimezone()
    aside = directory.with_name(f"{directory.name}-{now:%Y%m%d-%H%M%S}")
    stop = (
        "Stop syncd (Ctrl-C, or systemctl stop syncd), and move its state away; keep it until all "
        "is well. Nothing is deleted by this, neither here nor at the service:"
    )
    start = (
        "Start syncd again. As a new instance it sends every file anew; what the old one stored "
        "stays at the service. If that was much of your folders, syncd asks before it sends. Then "
        "have it sent again, or taken over without sending, from the ID that `syncd status` shows:"
    )
    yield stop, f"mv {shlex.quote(str(directory))} {shlex.quote(str(aside))}"
    yield start, "syncd adopt --new", "syncd adopt --instance ID"


@click.command(cls=_WithStartingOver)
@click.option(
    "--instance",
    metavar="ID",
    help="Go on as an earlier instance whose state directory is lost. ID is the 8 hex digits "
    "after sy2- in the remote names; `syncd status` shows it.",
)
@click.option("--new", is_flag=True, help="Go on as a new instance: every file is sent again.")
@click.option(
    "--check",
    is_flag=True,
    help="Download each object first, and leave it alone if its bytes are not what was sent.",
)
@click.option(
    "--yes", "-y", is_flag=True, help="Do not ask; --instance needs it where there is no terminal."
)
@_as_json
@common
@pass_options
def adopt(
    options: Options, *, instance: str | None, new: bool, check: bool, yes: bool, as_json: bool
) -> int:
    """Rebuild the ledger (syncd's record of what it sent) from the remote listing.

    Use it when `syncd status` says that the state was lost. syncd finds its remote objects by the
    token in their names and matches them with the files here. It sends no bytes, and deletes
    nothing, now or later. After that, sending goes on.

    If the state directory is new and another instance of syncd has sent these files, say which it
    is: --instance ID if that was this one, --new if it is another one. Exits with 1 if --check
    refused something.
    """
    if new and (instance is not None or check):
        raise click.UsageError("--new takes up nothing: it goes with no other option")
    if instance is not None and not INSTANCE.match(instance):
        raise click.UsageError(f"--instance: {printable(instance)!r} is not 8 hex digits")
    if instance is not None and not yes:
        _ask_for(instance)
    if check:
        click.echo("each object is downloaded, to compare its bytes", err=True)
    result = with_progress(options, "adopt", {"instance": instance, "new": new, "check": check})
    if as_json:
        print_json(result, indent=2)
    elif new:
        click.echo(f"this is instance {result['instance']}, a new one: every file is sent")
    else:
        _show_adopted(result)
    return 1 if result.get("refused") else 0


def _ask_for(instance: str) -> None:
    click.echo(
        f"this state becomes that of instance {instance}: of its remote objects, those of the "
        "files here are taken up by place and size, or by content. If that instance still runs, "
        "both will change the same objects.",
        err=True,
    )
    if not sys.stdin.isatty():
        raise click.UsageError("nothing was adopted: without a terminal to ask on, add --yes")
    confirm("Is its state lost for good?", otherwise="nothing was adopted")


def _show_adopted(result: JsonObject) -> None:
    click.echo(
        f"{counted(result['listed'], 'remote object')} compared: {result['live']} taken up, "
        f"{result['previous'] + result['second']} kept beside the live ones, {result['gone']} gone"
    )
    if result["known"]:
        click.echo(f"{result['known']} of them in the ledger already")
    if left := result["unknown"] - len(result["refused"]):
        are = "is" if left == 1 else "are"
        objects = counted(left, "remote object")
        said = f"{objects} with our token {are} of no file here, and left alone (syncd verify)"
        click.echo(offered(said))
    refused = "refused by --check, and left alone; their files are sent anew"
    _show(result["refused"], len(result["refused"]), refused)
    for workspace in result["unread"]:
        click.echo(f"left as it is, for the key may not read it any more: workspace {workspace}")
    known = sum(result[name] for name in ("known", "live", "previous", "second", "unknown"))
    if result["listed"] and not (known or result["other_instances"]):
        click.echo(
            "none of them shows a name that syncd gave it, as where the service does not echo "
            "names: what the folders hold and the ledger does not is sent anew"
        )
    for other, count in sorted(result["other_instances"].items()):
        are = "is" if count == 1 else "are"
        hint = "" if known else f" (if it was this one: syncd adopt --instance {other})"
        click.echo(offered(f"{count:,} {are} of instance {other}{hint}"))


@click.command()
@click.argument(
    "paths",
    metavar="[PATH]...",
    nargs=-1,
    type=click.Path(path_type=Path),
    shell_complete=completion.paths,
)
@click.option("--failed", is_flag=True, help="Also what the service refused for good.")
@_as_json
@common
@pass_options
def retry(options: Options, paths: tuple[Path, ...], *, failed: bool, as_json: bool) -> int:
    """Try now instead of waiting: everything that waits for its next try, or just each PATH.

    PATH is a file, a directory with everything beneath it, or a glob. It is tried whatever it
    waits for: also where it failed for good, or where an upload is held because nobody can tell
    whether it arrived (the service may then keep it twice).
    """
    config = options.look()
    request: JsonObject = {"failed": failed}
    if paths:
        request["files"] = views.read(
            config.state.directory, lambda db: list(_selected(paths, config, db))
        )
    result = perform(options, "retry", request)
    if as_json:
        print_json(result)
    else:
        tried = result["tried"]
        if not tried:
            click.echo("no file waits for its next try")
        else:
            click.echo(f"{counted(tried, 'file')} {'is' if tried == 1 else 'are'} tried now")
        if tried and lock_holder(config.state.directory) is None:
            said = "no daemon is running: `syncd run` or `syncd once` does it"
            click.echo(offered(said), err=True)
    return 0


def _selected(paths: Sequence[Path], config: Config, db: Transaction) -> Iterator[JsonObject]:
    """Yield each file that is named, and each beneath a directory or of a glob that waits."""
    meant = arguments(paths, folders(config, db), db, current_directory())
    if unknown := [one.given for one in meant if not is_known(db, one.selected)]:
        names = ", ".join(map(printable, unknown))
        raise click.UsageError(f"syncd knows no file {names} (syncd why tells more)")
    places = [(one.place.folder, one.place.path) for one in meant if one.place]
    named = {place for place in places if files.find(db, *place)}
    holds = holding(selected for one in meant for selected in one.selected)
    found = {place for place in manual_retry.waiting(db) if holds(*place)}
    for folder, path in sorted(found | named):
        yield {"folder": folder, "path_b64": base64.b64encode(path).decode()}


def with_progress(
    options: Options,
    command: str,
    arguments: JsonObject,
    *,
    alone: Callable[[Config, JsonObject], Iterator[JsonObject]] | None = None,
) -> JsonObject:
    """Carry out `command`; how far it is shows on a terminal, and nowhere else."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        return perform(options, command, arguments, alone=alone)
    with console.status(f"{command} ...") as status:
        return perform(
            options, command, arguments, progress=lambda o: status.update(_said(o)), alone=alone
        )


def _said(progress: JsonObject) -> str:
    of = f" {progress['done']} of {progress['of']}" if "of" in progress else ""
    place = progress.get("folder") or progress.get("workspace") or ""
    return f"{progress['step']}{of} {printable(place)}".rstrip()
