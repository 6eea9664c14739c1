"""Tells others: a document goes to a command's standard input, or to a URL, for a limited time.

It knows nothing of what it tells. A target never shows its arguments, or its URL beyond the host:
both may carry a token.
"""

from collections.abc import Mapping
from typing import Protocol

from syncd.files_api.exchange import StopFlag
from syncd.outbound.call import Call
from syncd.outbound.command import Command
from syncd.outbound.errors import StoppedError, UndeliveredError

__all__ = ["Call", "Command", "StoppedError", "Target", "UndeliveredError"]


class Target(Protocol):
    """Takes documents, one at a time."""

    @property
    def shown(self) -> str:
        """The target's name for a person; without secrets."""

    def deliver(
        self, document: bytes, *, seconds: float, stop: StopFlag, variables: Mapping[str, str]
    ) -> None:
        """Deliver within `seconds`; a command also gets environment `variables`.

        Raise UndeliveredError with the cause, and StoppedError once `stop` is set.
        """
