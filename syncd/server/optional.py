"""The listener of a daemon that may have none: it is loaded when one is configured."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from syncd.config.loading import Config
from syncd.scheduler import StepReport

if TYPE_CHECKING:
    from syncd.server.listener import Listener


class OptionalListener:
    """Starts and stops the configured listener, as often as a reload wants it."""

    def __init__(
        self, *, config: Callable[[], Config], steps: Callable[[], Iterable[StepReport]]
    ) -> None:
        self._config = config
        self._steps = steps
        self._made: Listener | None = None

    @property
    def address(self) -> str:
        """Its address; empty while it never listened."""
        return self._made.address if self._made else ""

    @property
    def trouble(self) -> str:
        """Why it cannot listen, for a person; empty where it can, or need not."""
        return self._made.trouble if self._made else ""

    def start(self) -> None:
        """Listen if configured; when that fails, log an error and let the daemon go on."""
        if self._made is None and self._config().server.listen:
            # Only here: most daemons do without it, and without prometheus-client.
            from syncd.server.listener import Listener  # noqa: PLC0415

            self._made = Listener(config=self._config, steps=self._steps)
        if self._made is not None:
            self._made.start()

    def stop(self) -> None:
        """Stop listening; safe to call twice."""
        if self._made is not None:
            self._made.stop()
