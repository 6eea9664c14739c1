"""Print the man page syncd(1), made of the help of each command."""

import datetime as dt
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import click

from syncd import __version__
from syncd.cli.group import COMMANDS, cli

Lines = Iterator[str]
_ROOT = click.Context(cli, info_name="syncd", **cli.context_settings)
#: What every command takes is shown once.
_COMMON = {option for parameter in cli.get_params(_ROOT) for option in parameter.opts}
_EXIT_CODES = {
    "0": "Done.",
    "1": "Not well, or some files failed.",
    "2": "The command line is wrong.",
    "75": "Another instance runs.",
    "77": "The key is refused.",
    "78": "The configuration or the state cannot be used.",
    "124": "wait timed out.",
}
_FILES = {
    "/etc/syncd/syncd.toml": "The configuration of the service; syncd init writes a commented one.",
    "/etc/syncd/aymara-api-key": "The API key of the service, readable by root alone.",
    "/var/lib/syncd": "The state of the service.",
    "/usr/share/syncd/drop-ins": "Drop-ins for the unit: folders of a group, and beneath /home.",
}


def page() -> Lines:
    """Return the lines of the whole page."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    date = dt.datetime.fromtimestamp(epoch, dt.UTC).date()
    yield f'.TH SYNCD 1 {date} "syncd {__version__}" "User Commands"'
    yield from section("NAME", r"syncd \- keeps a remote Files API equal to watched folders")
    yield from section("SYNOPSIS", r"\fBsyncd\fR [\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGS\fR]...")
    yield from section("DESCRIPTION", *paragraphs(cli.help))
    yield from section("OPTIONS", *options(cli, _ROOT))
    yield from section("COMMANDS", *commands())
    yield from section("EXIT STATUS", *items(_EXIT_CODES))
    yield from section("FILES", *items(_FILES))
    yield from section("SEE ALSO", r"\fBsystemctl\fR(1), \fBjournalctl\fR(1)")


def section(heading: str, *lines: str) -> Lines:
    yield f".SH {heading}"
    yield from lines


def commands() -> Lines:
    """Return what there is to say of each command."""
    for name, (_, summary) in COMMANDS.items():
        try:
            yield from described(cli, name, _ROOT)
        except click.ClickException:
            # It needs an extra that the package does not bring.
            yield from subsection(f"syncd {name}", [text(summary)])


def described(group: Any, name: str, above: click.Context) -> Lines:
    """Return what there is to say of a command, and of those in its family."""
    one = group.get_command(above, name)
    ctx = click.Context(one, info_name=name, parent=above)
    usage = " ".join([ctx.command_path, *one.collect_usage_pieces(ctx)])
    yield from subsection(usage, paragraphs(one.help))
    yield from options(one, ctx, _COMMON)
    for beneath in one.list_commands(ctx) if isinstance(one, click.Group) else ():
        yield from described(one, beneath, ctx)


def subsection(heading: str, lines: Iterable[str]) -> Lines:
    yield f'.SS "{text(heading)}"'
    yield from lines


def options(one: click.Command, ctx: click.Context, left_out: Collection[str] = ()) -> Lines:
    records = [
        record
        for parameter in one.get_params(ctx)
        if isinstance(parameter, click.Option)
        and not set(parameter.opts) & set(left_out)
        and (record := parameter.get_help_record(ctx))
    ]
    yield from items(dict(records))


def items(told: Mapping[str, str]) -> Lines:
    for term, explained in told.items():
        yield ".TP"
        yield rf"\fB{text(term)}\fR"
        yield text(explained)


def paragraphs(said: str | None) -> Lines:
    r"""Return paragraphs as click shows them: those that begin with \b keep their lines."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", (said or "").strip())):
        if number:
            yield ".PP"
        lines = paragraph.split("\n")
        if lines[0].strip() == "\b":
            yield from [".nf", *map(text, lines[1:]), ".fi"]
        else:
            yield text(" ".join(line.strip() for line in lines))


def text(said: str) -> str:
    """Return a text of one line as roff shows it unchanged."""
    said = said.replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq").replace("`", r"\(ga")
    return r"\&" + said if said.startswith((".", "'")) else said


if __name__ == "__main__":
    print("\n".join(page()))
