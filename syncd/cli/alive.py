"""`status --alive`, for health checks: asked every few seconds, it loads next to nothing."""

import os
import time

import click

from syncd import heartbeat, locations
from syncd.cli.options import Options, common, pass_options


@click.command("status")
@click.option("--alive", is_flag=True)
@common
@pass_options
def alive(options: Options, *, alive: bool) -> int:  # noqa: ARG001 - it is what brought us here
    """Say by exit code alone whether the daemon works."""
    directory = locations.state_directory(options.config, os.environ, locations.current_directory())
    if directory is None:
        directory = options.load(to_sync=False).state.directory
    return 0 if heartbeat.is_alive(directory, time.time()) else 1
