"""Tells systemd how the daemon is, over the socket that `NOTIFY_SOCKET` names (see sd_notify(3)).

Each function does nothing if there is no such socket, never raises and never waits: a service
manager that does not listen is no reason to stop.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Seconds of more time that are asked for at once.
EXTEND_SECONDS = 30.0


def is_listened_to() -> bool:
    """Return whether a service manager wants to be told."""
    return os.environ.get("NOTIFY_SOCKET", "").startswith(("/", "@"))


class _Unsaid:
    """State that was not delivered because the queue was full; it goes with the next message."""

    text = ""


def ready() -> None:
    """Say that the start, or a reload, is over; if nobody reads it now, with the next message."""
    if not _send("READY=1"):
        _Unsaid.text = "READY=1\n"


def stopping() -> None:
    """Say that the daemon is about to end."""
    _send("STOPPING=1")


def reloading() -> None:
    """Say that the configuration is read anew; `ready` ends it."""
    # systemd 253 and later want to know that this is not an answer to an older request.
    _send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def status(text: str) -> bool:
    """Leave one line for `systemctl status`; return False if the manager's queue is full."""
    return _send(f"STATUS={' '.join(text.split())}")


def watchdog() -> None:
    """Feed the watchdog."""
    if _send(f"{_Unsaid.text}WATCHDOG=1"):
        _Unsaid.text = ""


@contextmanager
def starting() -> Iterator[None]:
    """Ask for more time for as long as what is within takes: a large state is examined first."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(EXTEND_SECONDS / 3):
            _send(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000:.0f}")

    asking = threading.Thread(target=ask, name="syncd-starting", daemon=True)
    if is_listened_to():
        # Without a thread to be had it starts within the time of the unit, or not.
        with suppress(RuntimeError):
            asking.start()
    try:
        yield
    finally:
        over.set()
        if asking.ident is not None:
            asking.join()


def _send(message: str) -> bool:
    """Send a message; return False if the manager's queue is full."""
    if not is_listened_to():
        return True
    address = os.environ["NOTIFY_SOCKET"]
    # The kernel writes the names of abstract sockets with a zero byte, systemd with an @.
    target = os.fsencode(address)
    if address.startswith("@"):
        target = b"\0" + target[1:]
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end,
    ):
        # Connected: the kernel calls an unconnected one writable though the queue is full.
        end.setblocking(False)
        try:
            end.connect(target)
            end.send(message.encode("utf-8", "backslashreplace"))
        except BlockingIOError:
            return False
    return True
