"""A Files API on this machine: for the demo, for tests, and for users' own CI.

It answers as the real service does and keeps everything in one folder across restarts. Paths
outside the API (`/_emulator/...`) show what it holds and make it misbehave.
"""

from syncd.emulator.admission import ORGANIZATION
from syncd.emulator.personalities import PERSONALITIES, Echo, Personality, personality
from syncd.emulator.server import Emulator, serve

__all__ = [
    "ORGANIZATION",
    "PERSONALITIES",
    "Echo",
    "Emulator",
    "Personality",
    "personality",
    "serve",
]
