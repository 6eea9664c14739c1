import pytest

from syncd.units import parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("32MiB", 32 << 20), ("5 GB", 5 * 10**9), ("1024", 1024), ("1.5kib", 1536), ("7B", 7)],
)
def test_sizes_are_read_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86_400), ("90s", 90), ("1.5m", 90), ("2d", 172_800), ("3", 3)]
)
def test_durations_are_read_as_people_write_them(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e3", "5 parsecs", "1,5h", "inf"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="such as 32MiB"):
        parse_bytes(text)
    with pytest.raises(ValueError, match="such as 24h"):
        parse_seconds(text)
