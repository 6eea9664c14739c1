"""Notices that the wall clock was set, by comparing it with a clock that nobody can set."""

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

#: Seconds by which the wall clock must depart from the steady one to count as set.
CLOCK_JUMP_SECONDS = 30.0
#: The longest time for which a machine is believed to have been off, in seconds.
LONGEST_OFF_SECONDS = 400 * 86_400.0


def boottime() -> float:
    """Return seconds of a clock that runs while the machine is suspended, and cannot be set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the id of this boot; a random one when the kernel tells none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class ClockSeen:
    """A reading of the clocks: the machine's boot, the difference between them, and the time."""

    boot: str
    drift: float
    at: float

    @classmethod
    def parse(cls, text: str) -> "ClockSeen":
        """Return the reading that `str` wrote."""
        boot, drift, *at = text.split()
        # Older versions did not record the time.
        return cls(boot, float(drift), float(at[0]) if at else float(drift))

    def __str__(self) -> str:
        return f"{self.boot} {self.drift} {self.at}"

    def jump(self, now: "ClockSeen") -> float:
        """Return the seconds by which the clock was set between this reading and `now`, or 0.

        Within one boot, the steady clock decides. After a reboot, the wall clock is believed if it
        is neither behind this reading nor far ahead of it.
        """
        if self.boot == now.boot:
            jump = now.drift - self.drift
            return jump if abs(jump) >= CLOCK_JUMP_SECONDS else 0.0
        passed = now.at - self.at
        return 0.0 if 0.0 <= passed <= LONGEST_OFF_SECONDS else passed
