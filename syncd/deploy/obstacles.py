"""Finds what would keep a printed unit from starting, or from reading its configuration."""

import os
import shlex
import sys
from collections.abc import Iterator, Set as AbstractSet
from pathlib import Path

from syncd.config.settings import Config
from syncd.deploy import access, environment


def of_system(config: Config, owner: str, groups: AbstractSet[int]) -> Iterator[str]:
    """Yield what this user of a service cannot read; an empty name is a dynamic user's."""
    user, more = access.ids(owner)
    mine = groups | more
    who = f"user {owner}" if owner else "the service's user"
    for place in programs():
        if access.reaches(place, user, mine) is False:
            yield (
                f"the service cannot start: {who} may not read {place}; install syncd "
                "where everybody may read it: python3 -m venv /opt/syncd, with the system's Python"
            )
            break
    if config.file and access.reaches(config.file, user, mine) is False:
        remedy = f"run: chmod a+r {shlex.quote(str(config.file))}"
        if environment.withheld(config):
            remedy = (
                "since it may hold a secret, let a group read it (chgrp, chmod 640), and name that "
                "group by `syncd init --systemd --drop-in group`"
            )
        yield f"{who} may not read {config.file}; {remedy}"


def of_user(config: Config) -> Iterator[str]:
    """Yield why a user's own service cannot keep its state."""
    state = config.state.directory
    if Path.home() in state.parents or _is_mine(state):
        return
    place = shlex.quote(str(state))
    yield (
        f"[state] directory = {state} is not yours: leave it out, or run: "
        f'sudo install -d -m 700 -o "$USER" {place}'
    )


def programs() -> list[Path]:
    """Return where this installation lies: its environment, and the interpreter behind it."""
    return [Path(sys.prefix), Path(sys.executable).resolve()]


def _is_mine(directory: Path) -> bool:
    if directory.exists():
        return directory.stat().st_uid == os.geteuid()
    nearest = next(parent for parent in directory.parents if parent.exists())
    return os.access(nearest, os.W_OK | os.X_OK)
