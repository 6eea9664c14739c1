"""The timetable of a bandwidth: `off`, `4MiB/s`, or `Mon-Fri 08:00 1MiB/s, 19:00 off`."""

import re
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from syncd.units import parse_rate

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ENTRY = re.compile(r"(?:([A-Za-z]+)(?:-([A-Za-z]+))?\s+)?(\d{1,2}):(\d{2})\s+(\S.*)")
#: A time in the past since which every entry of a week has begun at least once.
_LOOK_BACK = timedelta(days=8)


class TimetableEntry(NamedTuple):
    """From when on each week a rate holds; None is for no limit."""

    days: tuple[str, ...]
    hour: int
    minute: int
    rate: int | None

    def trigger(self) -> Any:
        """Return what tells its times; raise ValueError if the local time zone is unknown."""
        # Imported here, because few configurations have a timetable.
        from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415

        days = ",".join(self.days)
        try:
            return CronTrigger(day_of_week=days, hour=self.hour, minute=self.minute)
        except (LookupError, ValueError) as error:
            raise ValueError(
                "needs the time zone of this machine, which cannot be read: set TZ to a name such "
                f"as Europe/Berlin ({error})"
            ) from error

    def times(self, now: datetime) -> tuple[datetime, datetime]:
        """Return when it began to hold last, and when it will next."""
        trigger = self.trigger()
        last = after = trigger.get_next_fire_time(None, now - _LOOK_BACK)
        while after <= now:
            last, after = after, trigger.get_next_fire_time(after, after)
        return last, after


class Timetable(NamedTuple):
    """The rate at each time: always the same, or that of the entry that began to hold last."""

    rate: int | None = None
    entries: tuple[TimetableEntry, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Timetable":
        """Return the timetable; raise ValueError, which names the part that cannot be used."""
        if ":" not in text:
            return cls(_rate(text))
        entries: list[TimetableEntry] = []
        days: tuple[str, ...] = _DAYS
        for part in text.split(","):
            entries.append(_entry(part.strip(), days))
            days = entries[-1].days
        known: dict[tuple[str, int, int], int | None] = {}
        for entry in entries:
            for day in entry.days:
                at = (day, entry.hour, entry.minute)
                if known.setdefault(at, entry.rate) != entry.rate:
                    time = f"{day.title()} {entry.hour:02}:{entry.minute:02}"
                    raise ValueError(f"names two rates for {time}")
        entries[0].trigger()
        return cls(None, tuple(entries))

    def at(self, now: float) -> tuple[int | None, float | None]:
        """Return the rate at a time, and when the next entry begins; None if it never changes."""
        if not self.entries:
            return self.rate, None
        here = datetime.fromtimestamp(now).astimezone()
        times = [(*entry.times(here), entry.rate) for entry in self.entries]
        newest = max(times, key=lambda each: each[0])
        return newest[2], min(after for _, after, _ in times).timestamp()


def _entry(part: str, days: tuple[str, ...]) -> TimetableEntry:
    """Return an entry; one that names no days has those of the entry before."""
    found = _ENTRY.fullmatch(part)
    if found is None:
        raise ValueError(f"has the part {part!r}, which is not like 'Mon-Fri 08:00 1MiB/s'")
    first, last, hour, minute, rate = found.groups()
    if int(hour) > 23 or int(minute) > 59:
        raise ValueError(f"has the part {part!r}: there is no time {hour}:{minute}")
    if first:
        start, end = (_day(name, part) for name in (first, last or first))
        count = (end - start) % len(_DAYS) + 1
        days = tuple(_DAYS[(start + number) % len(_DAYS)] for number in range(count))
    return TimetableEntry(days, int(hour), int(minute), _rate(rate, part))


def _day(name: str, part: str) -> int:
    if name.lower() not in _DAYS:
        raise ValueError(f"has the part {part!r}: {name!r} is none of Mon, Tue, Wed, ... Sun")
    return _DAYS.index(name.lower())


def _rate(text: str, part: str = "") -> int | None:
    try:
        return parse_rate(text)
    except ValueError as error:
        which = f"has the part {part!r}: " if part else ""
        raise ValueError(f"{which}{text.strip()!r} {error}") from error
