"""What every command takes, before its name or after it, and the configuration it leads to."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from syncd import log, offers
from syncd.cli.lines import complain

if TYPE_CHECKING:
    from syncd.config import Config

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Options:
    """The common options of one call."""

    config: Path | None = None
    verbosity: int = 0

    def load(
        self,
        *,
        directories: Sequence[Path] = (),
        to_sync: bool,
        problems: list[str] | None = None,
    ) -> "Config":
        """Return the configuration, its secrets hidden from all that is printed."""
        # Not at the top: `syncd --help` has no need of pydantic.
        from syncd import config as configuration, credentials  # noqa: PLC0415
        from syncd.state import views  # noqa: PLC0415

        offers.set_config(self.config)
        credentials.forbid_core_dumps()
        config = configuration.load(
            config=self.config,
            directories=directories,
            environ=os.environ,
            to_sync=to_sync,
            names_in_use=views.names_in_use,
            problems=problems,
        )
        for secret in config.secrets():
            log.hide(secret)
        if config.refused_file and not to_sync:
            # The commands that sync log it.
            complain(config.refused_file)
        return config


def _set_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Options).config = value


def _add_verbosity(ctx: click.Context, _: click.Parameter, value: int) -> None:
    ctx.ensure_object(Options).verbosity += value


def common(command: F) -> F:
    """Give `command` the common options; `pass_options` hands them to it."""
    config = click.option(
        "-c",
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        expose_value=False,
        callback=_set_config,
        help="The configuration file (else $SYNCD_CONFIG, ./syncd.toml, /etc/syncd/syncd.toml).",
    )
    verbose = click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_add_verbosity,
        help="Say more; twice, to see where an error came from.",
    )
    return config(verbose(command))


pass_options = click.make_pass_decorator(Options, ensure=True)
