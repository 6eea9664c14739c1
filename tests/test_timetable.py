"""The timetable of the bandwidth, in a zone with summer time."""

import re
from datetime import datetime

import pytest
import tzlocal

from syncd.timetable import Timetable

MIB = 1 << 20


@pytest.fixture(autouse=True)
def berlin(set_zone):
    set_zone("Europe/Berlin")


def at(text, when):
    """Return the rate at a local time, and when it changes next."""
    now = datetime.fromisoformat(when).timestamp()
    rate, until = Timetable.parse(text).at(now)
    if until is None:
        return rate, None
    assert until > now
    return rate, f"{datetime.fromtimestamp(until).astimezone():%a %Y-%m-%d %H:%M}"


@pytest.mark.parametrize(("text", "rate"), [("off", None), ("4MiB/s", 4 * MIB), ("1 MB/s", 10**6)])
def test_without_a_time_the_rate_is_always_the_same(text, rate):
    assert at(text, "2026-11-27 12:00") == (rate, None)


WEEK = "Mon-Fri 08:00 1MiB/s, 19:00 off"


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-11-27 07:59", (None, "Fri 2026-11-27 08:00")),
        ("2026-11-27 08:00", (MIB, "Fri 2026-11-27 19:00")),
        ("2026-11-27 19:00", (None, "Mon 2026-11-30 08:00")),
        ("2026-11-29 12:00", (None, "Mon 2026-11-30 08:00")),
    ],
)
def test_an_entry_holds_from_its_time_until_the_next_and_has_the_days_of_the_one_before(
    when, expected
):
    assert at(WEEK, when) == expected


def test_days_may_span_the_weekend_and_stand_alone():
    text = "08:00 2MiB/s, Fri-Mon 10:00 1MiB/s, Wed 11:00 off"
    assert at(text, "2026-11-29 12:00") == (MIB, "Mon 2026-11-30 08:00")
    assert at(text, "2026-12-01 12:00") == (2 * MIB, "Wed 2026-12-02 08:00")
    assert at(text, "2026-12-02 12:00") == (None, "Thu 2026-12-03 08:00")


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_on_the_days_of_a_change_of_summer_time_the_local_time_counts(day):
    text = "08:00 1MiB/s, 19:00 off"
    assert at(text, f"{day} 07:59")[0] is None
    assert at(text, f"{day} 08:00")[0] == MIB
    assert at(text, f"{day} 19:00")[0] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "'fast' is not a rate"),
        ("4MiB", "'4MiB' is not a rate"),
        ("100B/s", "less than 1KiB/s"),
        ("Mon-Fri 08:00 1MiB/s, 19:00", "the part '19:00'"),
        ("Mon-Fri 08:00 fast, 19:00 off", "the part 'Mon-Fri 08:00 fast': 'fast' is not a rate"),
        ("Mon-Fri 24:00 1MiB/s", "there is no time 24:00"),
        ("Mo-Fri 08:00 1MiB/s", "'Mo' is none of Mon"),
        ("08:00 1MiB/s, Fri 08:00 off", "two rates for Fri 08:00"),
    ],
)
def test_a_timetable_that_cannot_be_meant_names_the_part(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        Timetable.parse(text)


def test_a_time_zone_that_cannot_be_read_is_told_of_with_the_remedy(monkeypatch):
    monkeypatch.setenv("TZ", "Nowhere/Atall")
    monkeypatch.setattr(tzlocal.unix, "_cache_tz", None)
    monkeypatch.setattr(tzlocal.unix, "_cache_tz_name", None)
    with pytest.raises(ValueError, match="set TZ to a name such as Europe/Berlin"):
        Timetable.parse("08:00 1MiB/s, 19:00 off")
