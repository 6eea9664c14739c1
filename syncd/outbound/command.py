"""Runs a command, without a shell, with a document on its standard input."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from syncd.config.credentials import (
    KEY_FILE_VARIABLE,
    KEY_VARIABLE,
    TOKEN_FILE_VARIABLE,
    TOKEN_VARIABLE,
)
from syncd.files_api.exchange import StopFlag
from syncd.files_api.redaction import Secrets
from syncd.log import printable
from syncd.outbound.errors import StoppedError, UndeliveredError

#: Seconds between two looks at the command, the clock and the stop flag.
_LOOK_SECONDS = 0.05
#: Seconds between SIGTERM and SIGKILL for a command that is to end.
_GRACE_SECONDS = 0.5
#: How much of the end of its output is kept, to find its last line.
_OUTPUT_BYTES = 8192
#: Variables that a command does not get: secrets, ways to secrets, and what speaks to systemd.
_WITHHELD = (
    *(KEY_VARIABLE, KEY_FILE_VARIABLE, TOKEN_VARIABLE, TOKEN_FILE_VARIABLE),
    *("CREDENTIALS_DIRECTORY", "SYNCD_API__PROXY", "SYNCD_HOOKS", "SYNCD_ALERTS__COMMAND"),
    *("SYNCD_ALERTS__WEBHOOK", "SYNCD_ALERTS__PING_URL"),
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "JOURNAL_STREAM"),
)


class Command(NamedTuple):
    """A program with its arguments; exit code 0 is success."""

    words: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The program."""
        return printable(self.words[0])

    def deliver(
        self, document: bytes, *, seconds: float, stop: StopFlag, variables: Mapping[str, str]
    ) -> None:
        """Run the command within `seconds`; see `Target.deliver`."""
        if stop.is_set():
            raise StoppedError
        process = self._started(document, variables)
        try:
            output = _watch(process, seconds, stop)
        except StoppedError:
            _end(process)
            raise
        except UndeliveredError as error:
            how = "was ended" if _end(process) else "cannot be ended: it is another user's"
            raise UndeliveredError(f"{self.shown} {error}, and {how}") from None
        finally:
            if process.stdout is not None:
                process.stdout.close()
        if process.returncode:
            how = f"ended with code {process.returncode}"
            if process.returncode < 0:
                how = f"was killed by signal {-process.returncode}"
            said = Secrets(self.words[1:]).excerpt(output.strip().rpartition(b"\n")[2])
            raise UndeliveredError(f"{self.shown} {how}{f': {said}' if said else ''}")

    def _started(self, document: bytes, variables: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        kept = {name: value for name, value in os.environ.items() if name not in _WITHHELD}
        try:
            # A file takes a document of any size at once, whether or not the command reads it.
            with open(os.memfd_create("document"), "w+b", buffering=0) as stdin:  # noqa: PTH123
                stdin.write(document)
                stdin.seek(0)
                return subprocess.Popen(
                    self.words,
                    bufsize=0,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**kept, **variables},
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "a word holds a zero byte"
            raise UndeliveredError(f"{self.shown} cannot be started: {why}") from error


def _watch(process: "subprocess.Popen[bytes]", seconds: float, stop: StopFlag) -> bytes:
    """Wait for the end of a command; return the end of its output."""
    if process.stdout is None:
        raise AssertionError
    os.set_blocking(process.stdout.fileno(), False)
    output, deadline = b"", time.monotonic() + seconds
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_SECONDS)
        while (said := process.stdout.read(1 << 20)) and time.monotonic() < deadline:
            output = (output + said)[-_OUTPUT_BYTES:]
        if process.returncode is not None:
            return output
        if stop.is_set():
            raise StoppedError
        if time.monotonic() >= deadline:
            raise UndeliveredError(f"took longer than {seconds:g} s")


def _end(process: "subprocess.Popen[bytes]") -> bool:
    """End a command with all that it has started; return False if it belongs to another user."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # Its group may outlive it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    if process.returncode is None:
        # Nothing waits for it here; its end is still collected.
        threading.Thread(target=process.wait, daemon=True).start()
    return process.returncode is not None
