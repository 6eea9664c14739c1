"""The plan of a schedule: which faults, how many, and how much may happen in between."""

import random
from dataclasses import dataclass, field, replace

from syncd.emulator import Personality, personality
from syncd.workers.poll_options import PollOptions

from .engine import RESEND_SECONDS
from .objects import Weather

HOUR_SECONDS, DAY_SECONDS = 3600.0, 86_400.0
#: How late a request may be carried out that got no answer; the last is later than any look.
LATE_SECONDS = (30.0, 400.0, 4 * HOUR_SECONDS, 30 * HOUR_SECONDS, 9 * DAY_SECONDS)


#: The steps of the engine that are made together.
ORDERS = (
    ("scan", "look", "settle", "upload", "confirm", "poll", "delete", "take"),
    ("scan", "upload"),
    ("look", "upload"),
    ("look", "delete"),
    ("scan", "delete", "upload"),
    ("settle", "upload"),
    ("settle",),
    ("confirm",),
    ("poll", "delete"),
    ("upload", "take"),
)
ROUND = ("scan", "look", "settle", "upload", "confirm", "poll", "delete", "take")
#: Seconds between the ends of the pauses in which late looks come: up to ten days.
LATE = (660.0, 3600.0, DAY_SECONDS, 6 * DAY_SECONDS, 3 * DAY_SECONDS)
#: Seconds between two rounds of a healed world.
WAITS = (6.0, 6.0, 65.0, 65.0, 130.0, 310.0, 3700.0)
FOREIGN_NAMES = ("theirs.txt", "a.txt", f"a.{'sy1-ffffffff-' + '0' * 28}.txt")


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of one schedule; probabilities where no unit is named."""

    seed: int
    method: str = "auto"
    echo: bool = True
    steps: int = 24
    #: at each point in between: something happens to the files, power fails, a commit fails
    change: float = 0.03
    crash: float = 0.01
    commit_error: float = 0.005
    #: at each point in between: so many seconds may pass
    lapse_seconds: float = 0.5
    #: of each change on the disk: an event tells of it
    events: float = 0.7
    unmounts: bool = True
    key_trouble: bool = True
    #: an older database is put in the place of the newer one, or the whole state directory
    backups: bool = False
    put_back: bool = False
    #: of each step: a colleague uploads under a name of ours
    colleagues: float = 0.0
    names_uploaders: bool = False
    #: how far the service's clock is ahead
    ahead_seconds: float = 0.0
    after_upload: str = "keep"
    #: so many videos that are due at once are followed by a listing
    listed_from: int = PollOptions().listing_threshold
    #: how the service differs from others
    traits: Personality = field(default_factory=Personality)
    #: commits that a power cut takes with it (none, with synchronous=FULL)
    lost_commits: int = 0
    weather: Weather = field(default_factory=Weather)

    @property
    def restores(self) -> bool:
        """Whether an older state may take the place of the newer one."""
        return self.put_back or self.backups

    @property
    def tame(self) -> bool:
        """Whether nothing arrives or shows so late that waiting for it is no use."""
        weather = self.weather
        late = weather.late_seconds + weather.lag_seconds + 64 * self.lapse_seconds
        return (
            late < RESEND_SECONDS
            and not weather.twice
            and not self.lost_commits
            and not self.restores
        )


def plan_on(seed: int, *names: str) -> Plan:
    """Return the plan of a seed on a service of another personality."""
    plan, traits = plan_for(seed), personality(*names)
    if traits.echo != "none":
        return replace(plan, traits=traits)
    # Without an echo, an older state cannot find what was sent after it.
    return replace(plan, traits=traits, echo=False, backups=False, put_back=False)


def plan_for(seed: int) -> Plan:
    """Return the plan of a seed: each with other faults, some with few."""
    rng = random.Random(f"plan {seed}")
    wild = rng.random() < 0.4
    weather = Weather(
        trouble=rng.choice((0.0, 0.05, 0.15, 0.4)),
        twice=rng.choice((0.0, 0.2)) if wild else 0.0,
        late=rng.choice((0.0, 0.1, 0.3)),
        late_seconds=rng.choice(LATE_SECONDS) if wild else 20.0,
        lag_seconds=rng.choice((0.0, 60.0, 300.0)) if wild else rng.choice((0.0, 30.0)),
        shifting=rng.choice((0.0, 0.1, 0.4)),
        miscount=rng.choice((0.0, 0.2)),
        processing_seconds=rng.choice((0.0, 100.0)),
        poison=rng.choice((0.0, 0.0, 0.1)),
        lie=rng.choice((0.0, 0.0, 0.2)),
    )
    echo = rng.random() < 0.85
    return Plan(
        seed=seed,
        method=rng.choice(("auto", "direct", "presigned")),
        echo=echo,
        steps=rng.choice((10, 20, 32)),
        change=rng.choice((0.0, 0.02, 0.08)),
        crash=rng.choice((0.0, 0.01, 0.03)),
        commit_error=rng.choice((0.0, 0.0, 0.01)),
        lapse_seconds=rng.choice((0.0, 0.5, 20.0)) if wild else 0.5,
        events=rng.choice((0.0, 0.7, 1.0)),
        unmounts=rng.random() < 0.3,
        key_trouble=rng.random() < 0.3,
        backups=echo and rng.random() < 0.1,
        put_back=echo and rng.random() < 0.15,
        colleagues=rng.choice((0.0, 0.1, 0.3)),
        names_uploaders=rng.random() < 0.2,
        ahead_seconds=rng.choice((0.0, 0.0, 0.0, -20.0, 20.0)),
        weather=weather,
        listed_from=rng.choice((1, 2, PollOptions().listing_threshold)),
    )
