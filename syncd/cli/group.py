"""The group of commands; a command's module is imported when the command is called."""

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from syncd import __version__
from syncd.cli.options import Options, common

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: The exit code of a command that did what it was told.
WELL = 0
#: The variable by which a shell asks for completions.
COMPLETION = "_SYNCD_COMPLETE"
#: Objects, beyond those that were freed, after which the collector looks for cycles.
GARBAGE_OBJECTS = 20_000
#: Each command, its module in this package, and what it does, in the order that help lists them.
COMMANDS = {
    "demo": ("demo", "Show on this machine, without a key, how files travel."),
    "init": ("setup", "Write a commented syncd.toml."),
    "run": ("run", "Watch folders and keep the Files API equal to them."),
    "once": ("once", "Make one pass and exit; --dry-run only says what it would do."),
    "status": ("status", "Say whether all is well, and why not."),
    "ls": ("ls", "List files with status, uuid and SHA-256."),
    "log": ("log", "Tell what was done to files, when, and who approved it."),
    "wait": ("wait", "Wait until what is on the disk is synced."),
    "why": ("why", "Tell one file's whole story."),
    "frames": ("frames", "List or download the frames of a synced video."),
    "fetch": ("fetch", "Have the service fetch URLs by itself."),
    "pause": ("pause", "Stop sending and deleting, for a time or until `resume`."),
    "resume": ("pause", "Go on with what was paused."),
    "limit": ("limit", "Show or set how much bandwidth uploads may use."),
    "deletes": ("deletes", "Review deletions that are held."),
    "verify": ("repair", "Compare the ledger with the remote listing."),
    "adopt": ("repair", "Rebuild the ledger from the remote listing."),
    "retry": ("repair", "Try now instead of waiting."),
    "doctor": ("doctor", "Examine what syncd needs, and say how to mend it."),
    "config": ("config", "Check the configuration, or show the settings in force."),
    "completion": ("completion", "Complete commands, folders and holds in your shell."),
    "schema": ("schema", "Print the JSON Schema of what a command prints with --json."),
    "emulator": ("emulator", "Serve a Files API on this machine."),
}


class Commands(click.Group):
    """Imports a command's module when the command is called, so that each starts quickly."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        # Modules keep what they create: the collector would scan all of it again and again.
        gc.disable()
        try:
            module = import_module(f"syncd.cli.{COMMANDS[cmd_name][0]}")
        except ModuleNotFoundError as error:
            # Only `demo` and `emulator` need more than a plain installation brings.
            if cmd_name not in ("demo", "emulator"):
                raise
            raise click.ClickException(missing_extra(cmd_name, error)) from error
        finally:
            gc.freeze()
            # Hardly anything here is cyclic: a look at every 700 objects would find nothing.
            gc.set_threshold(GARBAGE_OBJECTS)
            gc.enable()
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib  # noqa: PLC0415 - commands that exist start without it

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell asks

        names = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        # A group would import every command for its help.
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # click would turn it into a failure.
            _discard_output()
            return WELL

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="How to start over, with a new state: syncd adopt --help.",
)
@click.version_option(__version__, prog_name="syncd")
@common
def cli() -> None:
    """Watch folders and keep a remote Files API equal to them."""


def call(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. Every error is told on standard error."""
    options = Options(words=tuple(arguments))
    try:
        return _run(arguments, options)
    except BrokenPipeError:
        _discard_output()
        return WELL
    except click.Abort:
        return 130
    except Exception as error:
        if COMPLETION in os.environ:
            # Nothing is said in the middle of a line.
            return WELL
        from syncd.cli import errors  # noqa: PLC0415 - a command that succeeds needs none of it

        return errors.tell(error, options)


def _run(arguments: Sequence[str], options: Options) -> int:
    if "" in arguments:
        # As a path it would be the current directory.
        raise click.UsageError("an argument is empty; is a variable of your shell not set?")
    code = cli.main(list(arguments), prog_name="syncd", standalone_mode=False, obj=options)
    sys.stdout.flush()
    return code if isinstance(code, int) else WELL


def missing_extra(command: str, error: ModuleNotFoundError, extra: str = "emulator") -> str:
    """Say how to install what `command` needs beyond a plain installation."""
    return (
        f"`syncd {command}` needs the package {error.name}, which is not installed; run: "
        f"pip install 'syncd[{extra}]'"
    )


def _discard_output() -> None:
    """Leave nothing to flush at exit: the reader of our output has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
