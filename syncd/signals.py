"""The signals that end a command, or have the daemon read its configuration anew."""

import signal
import threading
from types import FrameType


class Signals:
    """SIGTERM and SIGINT end what runs, a second one hurries it; they only set flags.

    SIGHUP asks for a reload if there is one; else it ends, as when a terminal closes.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.hurry = threading.Event()
        self.reload = threading.Event()

    def listen(self, *, reloads: bool = False) -> None:
        """Take the signals over; from the main thread only."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._received)
        if reloads:
            signal.signal(signal.SIGHUP, lambda _number, _frame: self.reload.set())

    def _received(self, _number: int, _frame: FrameType | None) -> None:
        if self.stop.is_set():
            self.hurry.set()
        self.stop.set()
