import pytest

from syncd.emulator import PERSONALITIES

from . import soak
from .command import place
from .history import run
from .plan import plan_for, plan_on
from .planted import BUGS, caught

#: Schedules in each run, in parts; `python -m tests.simulation --runs 100000` for more.
PARTS, SCHEDULES = 6, 3
#: The parts of `pytest -m long`.
MORE_PARTS = range(PARTS, PARTS + 20)


@pytest.fixture
def base():
    with place() as directory:
        yield directory


@pytest.mark.row(24)
@pytest.mark.row(33)
@pytest.mark.row(37)
@pytest.mark.row(38)
@pytest.mark.row(39)
@pytest.mark.row(44)
@pytest.mark.row(45)
@pytest.mark.parametrize(
    "part", [*range(PARTS), *(pytest.param(part, marks=pytest.mark.long) for part in MORE_PARTS)]
)
def test_no_history_loses_doubles_or_orphans_anything(base, part):
    for seed in range(part * SCHEDULES, (part + 1) * SCHEDULES):
        run(plan_for(seed), base)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "oldest-first" else pytest.param(name, marks=pytest.mark.long)
        for name in PERSONALITIES
    ],
)
def test_no_history_on_another_kind_of_service_loses_doubles_or_orphans_anything(base, name):
    for seed in range(SCHEDULES):
        run(plan_on(seed, name), base)


@pytest.mark.long
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_noticed(base, name):
    assert caught(BUGS[name], base, first=BUGS[name].near) is not None


@pytest.mark.long
def test_the_same_seed_gives_the_same_history(base):
    traces = [run(plan_for(seed), base).trace for seed in (5, 40, 5, 40)]
    assert traces[:2] == traces[2:]
    assert traces[0] != traces[1]


@pytest.mark.long
def test_the_histories_hold_what_they_are_about(base):
    """One in which nothing happens would prove nothing."""
    text = "\n".join(
        line for seed in (3, 7, 30, 34, 51, 63, 76) for line in run(plan_for(seed), base).trace
    )
    for event in (
        "power fails (before commit)",
        "power fails (after commit)",
        "a commit fails",
        "the answer to upload is lost",
        "will be carried out in",
        "(within",
        "the folder is unmounted",
        "the key is",
        "swap",
        "its mtime kept",
        "put the bytes",
        "deleted",
    ):
        assert event in text, event


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.row(87)
def test_a_file_costs_no_more_and_leaves_nothing_behind_after_an_hour_of_a_file_a_second(base):
    samples = list(soak.Soak(base).run(days=1 / 24, samples=12))
    assert soak.verdict(samples) == ""
