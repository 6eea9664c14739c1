"""`status --alive`, for health checks that come every few seconds: it loads next to nothing."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from syncd import liveness
from syncd.config import locations


def answer(arguments: Sequence[str]) -> int | None:
    """Return the exit code of `status --alive`, perhaps with `-c FILE`.

    Return None for any other command line, and where the state directory takes a closer look.
    """
    words, config, rest = [], None, iter(arguments)
    for word in rest:
        if word in ("-c", "--config"):
            config = Path(next(rest, ""))
        else:
            words.append(word)
    if words != ["status", "--alive"] or "" in arguments:
        return None
    # Unlike `Path.is_file`, this returns False for whatever error there is.
    is_file = config is None or os.path.isfile(config)  # noqa: PTH113
    if not is_file or (config is not None and not os.access(config, os.R_OK)):
        return None
    directory = locations.state_directory(config, os.environ, locations.current_directory())
    return None if directory is None else exit_code(directory)


def exit_code(directory: Path) -> int:
    """Return 0 where the daemon that uses the state `directory` works, else 1."""
    return 0 if liveness.is_alive(directory, time.time()) else 1
