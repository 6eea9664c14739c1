"""The signals that end a command, or have the daemon read its configuration anew."""

import queue
import signal
import threading


class Signals:
    """SIGTERM and SIGINT end what runs, a second one hurries it; they only set flags.

    SIGHUP asks for a reload if there is one; else it ends, as when a terminal closes.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.hurry = threading.Event()
        self.reload = threading.Event()
        self._received: queue.SimpleQueue[int] = queue.SimpleQueue()

    def listen(self, *, reloads: bool = False) -> None:
        """Take the signals over; from the main thread only."""
        threading.Thread(
            target=self._heed, args=(reloads,), name="syncd-signals", daemon=True
        ).start()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # A handler runs within whatever the main thread does. Where that holds the lock of a
            # flag, to wait for it, setting the flag would wait for ever; this put does not.
            signal.signal(number, lambda number, _frame: self._received.put(number))

    def _heed(self, reloads: bool) -> None:
        while True:
            if self._received.get() == signal.SIGHUP and reloads:
                self.reload.set()
                continue
            if self.stop.is_set():
                self.hurry.set()
            self.stop.set()
