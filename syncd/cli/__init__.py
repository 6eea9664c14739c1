"""The terminal: a group of commands, each family in a module that is imported when it is called."""

import difflib
import errno
import gc
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from syncd import __version__, offers
from syncd.cli.lines import complain
from syncd.cli.options import Options, common
from syncd.exceptions import SyncdError

WELL, NOT_WELL, USAGE, KEY_REFUSED = 0, 1, 2, 77

#: Command, its module here, and what it does: in the order in which one meets them.
COMMANDS = {
    "demo": ("demo", "Show on this machine, without a key, how files travel."),
    "init": ("setup", "Write a commented syncd.toml."),
    "run": ("run", "Watch folders and keep the Files API equal to them."),
    "once": ("once", "Scan, send, follow to the end, and exit."),
    "status": ("status", "Say whether all is well, and why not."),
    "ls": ("ls", "List files with status, uuid and SHA-256."),
    "why": ("why", "Tell one file's whole story."),
    "deletes": ("deletes", "Review deletions that are held."),
    "verify": ("repair", "Compare the ledger with the remote listing."),
    "adopt": ("repair", "Rebuild the ledger from the remote listing."),
    "retry": ("repair", "Forget the back-off and try now."),
    "doctor": ("doctor", "Examine what syncd needs, and say how to mend it."),
    "emulator": ("emulator", "Serve a Files API on this machine."),
}


class Families(click.Group):
    """Imports a command's module when it is called: `--help` and `status` start at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        # Modules keep what they make: the collector would scan all of it again and again.
        gc.disable()
        try:
            module = import_module(f"{__name__}.{COMMANDS[cmd_name][0]}")
        except ModuleNotFoundError as error:
            # Only `demo` and `emulator` need more than a plain installation brings.
            if cmd_name not in ("demo", "emulator"):
                raise
            raise click.ClickException(missing_extra(cmd_name, error)) from error
        finally:
            gc.enable()
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, *rest = args
        # Health checks come every few seconds: they get by without what `status` else needs.
        if name == "status" and "--alive" in rest and not {"--watch", "--json", "--help"} & {*rest}:
            return name, import_module(f"{__name__}.alive").alive, rest
        if name not in COMMANDS and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # click would make it a failure.
            _hush()
            return WELL

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Families, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="syncd")
@common
def cli() -> None:
    """Watch folders and keep a remote Files API equal to them."""


def main() -> None:
    """Run the command line and exit with its code."""
    # Looking for plugins, pydantic reads the metadata of every package that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    _fill_streams()
    _speak_any_encoding()
    sys.exit(call(sys.argv[1:]))


def _fill_streams() -> None:
    """See to it that descriptors 0 to 2 are taken: a database there would get what is printed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115


def _speak_any_encoding() -> None:
    """Escape what the terminal's encoding lacks: no name or sign may end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def call(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. Every error is told on standard error."""
    options = Options()
    if "" in arguments:
        # Taken for a path, it would be the current directory.
        complain("an argument is empty; is a variable of your shell not set?")
        return USAGE
    try:
        code = cli.main(list(arguments), prog_name="syncd", standalone_mode=False, obj=options)
        sys.stdout.flush()
    except BrokenPipeError:
        _hush()
        return WELL
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        offers.set_config(options.config)
        complain(_in_our_words(error.format_message()))
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(offers.offered(f"try: {error.ctx.command_path} --help"), err=True)
        return error.exit_code
    except click.Abort:
        return 130
    except Exception as error:
        return _tell(error, options)
    return code if isinstance(code, int) else WELL


def _in_our_words(text: str) -> str:
    """Return a message of click's as ours are written: in lower case, and without a full stop."""
    begins = text[:1].lower() if text[1:2].islower() else text[:1]
    return begins + text[1:].removesuffix(".")


def missing_extra(command: str, error: ModuleNotFoundError, extra: str = "emulator") -> str:
    """Say how to install what `command` needs beyond a plain installation."""
    return (
        f"`syncd {command}` needs the package {error.name}, which is not installed; run: "
        f"pip install 'syncd[{extra}]'"
    )


def _hush() -> None:
    """Whoever read our output has seen enough: let nothing be left to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(error: Exception, options: Options) -> int:
    """Write `error` in plain words to standard error; return the exit code that stands for it."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        # Such as one to which the output goes.
        error = SyncdError(f"a disk is full: cannot write {error.filename or 'the output'}")
    known = isinstance(error, SyncdError)
    text = str(error) if known else f"internal error: {type(error).__name__}: {error}"
    if isinstance(error, SyncdError) and error.exit_code == KEY_REFUSED and "(syncd " not in text:
        text += " (syncd doctor)"
    if options.verbosity >= 2:
        text = "".join(traceback.format_exception(error)) + text
    elif not known:
        text += "; `syncd -v -v ...` shows where"
    complain(text)
    return error.exit_code if isinstance(error, SyncdError) else NOT_WELL
