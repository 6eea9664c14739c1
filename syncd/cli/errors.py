"""How a command tells its error: plain words on standard error, and an exit code."""

import errno
import traceback

import click

from syncd import offers
from syncd.cli.lines import complain
from syncd.cli.options import Options
from syncd.exceptions import SyncdError

NOT_WELL, USAGE, KEY_REFUSED = 1, 2, 77


def tell(error: Exception, options: Options) -> int:
    """Write `error` in plain words to standard error; return the exit code that stands for it."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USAGE
    if isinstance(error, click.ClickException):
        return _tell_usage(error, options)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        # It may be the disk to which the output goes.
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


def _tell_usage(error: click.ClickException, options: Options) -> int:
    offers.set_config(options.config)
    text = error.format_message()
    # click begins with a capital and ends with a full stop; our messages do neither.
    begins = text[:1].lower() if text[1:2].islower() else text[:1]
    complain(begins + text[1:].removesuffix("."))
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(offers.offered(f"try: {error.ctx.command_path} --help"), err=True)
    return error.exit_code
