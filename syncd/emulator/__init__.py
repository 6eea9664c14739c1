"""A Files API on this machine: for the demo, for tests, for users' own CI.

It answers as the real service would, keeps everything in one folder across restarts, and can be
asked what it holds and told to misbehave, outside the API's paths (`/_emulator/...`).
"""

from syncd.emulator.personalities import PERSONALITIES, Echo, Personality, personality
from syncd.emulator.server import Emulator, serve
from syncd.emulator.settings import ORGANIZATION

__all__ = [
    "ORGANIZATION",
    "PERSONALITIES",
    "Echo",
    "Emulator",
    "Personality",
    "personality",
    "serve",
]
