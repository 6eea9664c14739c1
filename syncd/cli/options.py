"""The options that every command takes, and the configuration that they lead to."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from syncd.config import locations

if TYPE_CHECKING:
    from syncd.config.loading import Config

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Options:
    """The common options of one call."""

    config: Path | None = None
    verbosity: int = 0
    #: the command line as it was typed, without `syncd`
    words: tuple[str, ...] = ()
    #: what `look` found wrong with the configuration
    problems: list[str] = field(default_factory=list)
    _looked: "Config | None" = None

    def glance(self) -> locations.Glance:
        """Return what the commands that only read the state need of the configuration."""
        seen = locations.glance(self.config, os.environ, locations.current_directory())
        if seen is None:
            config = self.look()
            return locations.Glance(config.state.directory, config.api.base_url, names_folders=True)
        from syncd import offers  # noqa: PLC0415 - as below

        offers.set_config(self.config)
        if not seen.names_folders:
            self.offer_known_folders(seen.state_directory)
        return seen

    def look(self) -> "Config":
        """Return the configuration for a command that needs only the state, mistakes left out.

        Tell of these in one line, once, and keep them in `problems`. Raise ConfigError where they
        do not let the state directory be told.
        """
        from syncd.cli.lines import complain  # noqa: PLC0415 - as below
        from syncd.exceptions import ConfigError  # noqa: PLC0415

        if self._looked is not None:
            return self._looked
        found: list[str] = []
        try:
            config = self.load(to_sync=False, problems=found)
            _see_that_the_state_is_told(config, found)
        except ConfigError as error:
            seen = locations.guess(self.config, os.environ, locations.current_directory())
            if seen is None:
                raise
            found = list(error.problems)
            config = self._bare(seen)
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            complain(f"warning: {found[0]}{more}: `syncd config check` tells all")
        self._looked, self.problems = config, found
        return config

    def offer_known_folders(self, directory: Path, given: Iterable[bytes] = ()) -> None:
        """Have offered commands name the folders that the state knows, or those `given`.

        A daemon that runs has its folders: then no command needs to name them.
        """
        from syncd import offers  # noqa: PLC0415 - as below
        from syncd.exceptions import StateError  # noqa: PLC0415
        from syncd.places import look  # noqa: PLC0415
        from syncd.state import texts, views  # noqa: PLC0415
        from syncd.state.database.lock import lock_holder  # noqa: PLC0415

        roots = list(given)
        with suppress(StateError):
            if not roots and lock_holder(directory) is None:
                roots = list(views.read(directory, views.roots).values())
        there = [texts.argument(root) for root in roots if look(os.fsdecode(root)).is_directory]
        offers.set_folders(" ".join(there), _assignment(roots))

    def _bare(self, seen: locations.Glance) -> "Config":
        """Return a configuration that only names the state and the service."""
        from syncd.config import loading as configuration  # noqa: PLC0415 - as below
        from syncd.exceptions import StateError  # noqa: PLC0415
        from syncd.state import facts, views  # noqa: PLC0415

        url: str | None = seen.base_url
        if not url:
            with suppress(StateError):
                url = views.read(seen.state_directory, lambda db: facts.fact(db, "base_url"))
        said = {locations.STATE_VARIABLE: str(seen.state_directory), locations.URL_VARIABLE: url}
        environ = {name: value for name, value in said.items() if value}
        return configuration.load(config=Path(os.devnull), environ=environ, to_sync=False)

    def load(
        self,
        *,
        directories: Sequence[Path] = (),
        to_sync: bool,
        problems: list[str] | None = None,
    ) -> "Config":
        """Return the configuration, its secrets hidden from all that is printed."""
        # Not at the top: most commands start without pydantic, and help without all of it.
        from syncd import log, offers  # noqa: PLC0415
        from syncd.cli.lines import complain  # noqa: PLC0415
        from syncd.config import credentials, loading as configuration  # noqa: PLC0415
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
        if not (directories or config.folders or problems):
            self.offer_known_folders(config.state.directory)
        return config


def _assignment(roots: Sequence[bytes]) -> str:
    """Return the variable that names folders to a command, as a shell takes it; else nothing.

    It names those that are missing as well: one that is left out is no longer mirrored.
    """
    import json  # noqa: PLC0415 - few commands need it
    import shlex  # noqa: PLC0415

    paths = [os.fsdecode(root) for root in roots]
    if len(paths) < 2:
        return "".join(f"{locations.WATCH_VARIABLE}={shlex.quote(path)}" for path in paths)
    value = json.dumps([{"path": path} for path in paths], ensure_ascii=False)
    return f"{locations.FOLDERS_VARIABLE}={shlex.quote(value)}"


def _see_that_the_state_is_told(config: "Config", problems: list[str]) -> None:
    from syncd.exceptions import ConfigError  # noqa: PLC0415 - only a command that looks needs it

    if "state" in config.unusable:
        raise ConfigError(*problems)


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
