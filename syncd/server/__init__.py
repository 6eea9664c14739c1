"""What a running daemon answers over HTTP.

Commands, on a Unix socket that is its owner's alone (`Control`); and, if it is wanted, health,
metrics and what a status page reads, on a TCP port that changes nothing (`Listener`).
"""

from syncd.server.control import Control
from syncd.server.listener import Listener

__all__ = ["Control", "Listener"]
