"""The terminal: what `syncd` runs first, quick to import; `syncd.cli.group` has the commands."""

import gc
import io
import os
import sys
from collections.abc import Sequence


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.platform != "linux":
        sys.exit(
            "syncd: it runs on Linux only; on macOS and Windows, run its image in a Linux virtual "
            "machine such as Docker Desktop's"
        )
    # Looking for plugins, pydantic reads the metadata of every package that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # For a command of its own, httpx loads rich and pygments: a tenth of the start.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    # Modules keep what they create: the collector would scan all of it again and again. It is
    # enabled once the command is loaded.
    gc.disable()
    _fill_streams()
    _speak_any_encoding()
    sys.exit(call(sys.argv[1:]))


def call(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. Every error is told on standard error."""
    if "--alive" in arguments:
        from syncd.cli import alive  # noqa: PLC0415 - no other command needs it

        if (code := alive.answer(arguments)) is not None:
            return code
    # Loading click takes longer than answering a health check.
    from syncd.cli import group  # noqa: PLC0415

    return group.call(arguments)


def _fill_streams() -> None:
    """Open descriptors 0 to 2 where they are closed: a database there would get what is printed."""
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
