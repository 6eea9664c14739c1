"""Names as they are sent, tokens found in them, content types."""

import unicodedata

import pytest
from hypothesis import given, strategies as st

from syncd.files_api import sent_name, token_of

TOKEN = "sy2-0123abcd-0123456789ab-0123456789ab-0123456789ab-0123456789abcdef0123"
OLD_TOKEN = "sy1-0123abcd-" + "0123456789abcdef0123456789ab"

segment = st.binary(min_size=1, max_size=255).map(lambda b: b.translate(None, b"/\x00") or b"x")
paths = st.lists(segment, min_size=1, max_size=4).map(b"/".join)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"rel/path/clip.mp4", f"rel/path/clip.{TOKEN}.mp4"),
        (b"noextension", f"noextension.{TOKEN}"),
        (b".hidden", f".hidden.{TOKEN}"),
        (b"a.tar.gz", f"a.tar.{TOKEN}.gz"),
        (b"ends.", f"ends..{TOKEN}"),
        ("Übung/猫 🐈.png".encode(), f"Übung/猫 🐈.{TOKEN}.png"),
        (b"caf\xe9.mp4", f"caf%E9.{TOKEN}.mp4"),
        (b'a"b\\c\r\n\x1b.txt', f"a%22b%5Cc%0D%0A%1B.{TOKEN}.txt"),
        ("abc\u202egpj.exe".encode(), f"abc%E2%80%AEgpj.{TOKEN}.exe"),
        (b"100%.txt", f"100%.{TOKEN}.txt"),
        (b"100%25.txt", f"100%2525.{TOKEN}.txt"),
        ("👩\u200d🚀.png".encode(), f"👩\u200d🚀.{TOKEN}.png"),
    ],
)
def test_a_readable_name_stays_readable_and_the_rest_is_escaped(path, name):
    assert sent_name(path, TOKEN) == name


@pytest.mark.row(10)
@pytest.mark.row(11)
@given(paths)
def test_any_name_is_sent_printable_short_enough_and_with_its_token(path):
    name = sent_name(path, TOKEN)
    assert token_of(name) == token_of(name.rpartition("/")[2]) == TOKEN
    assert all(len(part.encode()) <= 255 for part in name.split("/"))
    assert name.count("/") == path.count(b"/")
    assert not set(name) & set('"\\\r\n\x00\x1b\x7f\u202e')
    unseen = [c for c in name if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
    assert set(unseen) <= set("\u200c\u200d"), "but for what joins letters in some scripts"


@given(st.lists(segment.filter(lambda b: len(b) < 30), min_size=2, max_size=2, unique=True))
def test_two_names_stay_two(pair):
    assert sent_name(pair[0]) != sent_name(pair[1])


@pytest.mark.parametrize("stem", ["x" * 251, "é" * 125, "\x1b" * 251, "🐈" * 62])
def test_the_readable_part_gives_way_on_a_character(stem):
    name = sent_name(stem.encode() + b".mp4", TOKEN)
    assert name.endswith(f".{TOKEN}.mp4")
    assert 255 - 4 < len(name.encode()) <= 255


def test_a_long_extension_is_no_extension():
    assert sent_name(b"a." + b"e" * 250, TOKEN).endswith(f"e.{TOKEN}")


@pytest.mark.parametrize("token", [TOKEN, OLD_TOKEN])
@pytest.mark.parametrize(
    "shown",
    [
        "clip.{}.mp4",
        "a/b/clip.{}",
        "clip.{}.mp4/",
        "https://host/x/clip%20.{}.mp4?signature=1",
        "s3://bucket/clip.{}.mp4#part",
        "clip.sy2-ffffffff-" + "-".join(["f" * 12] * 3) + "-" + "f" * 20 + ".{}.mp4",
    ],
)
def test_a_token_is_read_where_a_sent_name_has_it(shown, token):
    assert token_of(shown.format(token)) == token


@pytest.mark.row(63)
@pytest.mark.parametrize(
    "shown",
    [
        "report-about-clip.{}-final.pdf",
        "clip.{}.tar.gz",
        "{}.mp4",
        "clip-{}.mp4",
        "dir.{}/clip.mp4",
        "https://host/openapi.json?from=clip.{}.mp4",
        "https://host/page#clip.{}.mp4",
        "clip.{}.extension-that-is-none-by-its-length",
        "http://[/clip.{}.mp4",
    ],
)
def test_a_token_anywhere_else_is_only_a_part_of_the_text(shown):
    assert token_of(shown.format(TOKEN)) is None


@pytest.mark.row(64)
def test_a_local_name_that_holds_a_token_is_just_a_name():
    downloaded = sent_name(b"clip.mp4", OLD_TOKEN).encode()
    assert token_of(sent_name(downloaded, TOKEN)) == TOKEN


@pytest.mark.long
@given(st.text())
def test_any_text_can_be_asked_for_its_token(text):
    assert token_of(text) is None


def test_no_token_is_found_in_what_only_resembles_one():
    assert {
        token_of(f"a.{t}.b") for t in (TOKEN.upper(), TOKEN[:-1], TOKEN.replace("sy2", "sy3"))
    } == {None}
