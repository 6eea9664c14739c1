"""What a running daemon answers over HTTP: commands on a Unix socket that is its owner's alone."""

from syncd.server.control import Control

__all__ = ["Control"]
