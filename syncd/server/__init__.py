"""The HTTP servers of a running daemon.

`Control` carries out commands on a Unix socket that only the daemon's user can open. `Listener` is
optional and read-only: health, metrics and the status page on a TCP port.
"""

from syncd.server.control import Control
from syncd.server.optional import OptionalListener

__all__ = ["Control", "OptionalListener"]
