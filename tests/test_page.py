"""The status page without a browser: its content, and its policy."""

import re
from base64 import b64encode
from hashlib import sha256
from itertools import product

import pytest

from syncd.server import page

HTML = page.HTML.decode()
STYLE = re.search(r"<style>(.*?)</style>", HTML, re.DOTALL)[1]
SCRIPT = re.search(r"<script>(.*?)</script>", HTML, re.DOTALL)[1]
#: Everything that is written in, and what it is written on.
INKS, GROUNDS = ("ink", "soft", "warn"), ("paper", "card", "well")
#: Lines, bars and glyphs.
HUES = ("good", "work", "warn", "bad", "quiet")


def palettes():
    """Return the colours by name, light and dark."""
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    )
    return {"light": light, "dark": light | dark}


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_symbols_have_enough_contrast(theme):
    colours = palettes()[theme]
    for ink, ground in product(INKS, GROUNDS):
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for hue, ground in product(HUES, GROUNDS[:2]):
        assert contrast(colours[hue], colours[ground]) >= 3, (hue, ground)


def test_the_page_is_small_and_loads_nothing_external():
    assert len(page.HTML) < 60_000
    # The namespace of SVG is only a name and not fetched.
    urls = set(re.findall(r"https?://[^\s\"'<>]+", HTML))
    assert urls == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|\bsrc=|<link(?! rel=\"icon\" href=\"data:)", HTML)


@pytest.mark.row(58)
def test_the_policy_admits_only_the_pages_script_and_style():
    policy = dict(part.strip().split(" ", 1) for part in page.POLICY.split(";"))
    assert policy["default-src"] == "'none'"
    for name, text in (("script-src", SCRIPT), ("style-src", STYLE)):
        assert policy[name] == f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"


@pytest.mark.row(58)
def test_names_never_become_markup_or_script():
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|DOMParser",
        SCRIPT,
    )
    # The policy refuses handlers and styles in attributes.
    assert not re.search(r"<[^>]+\s(on\w+|style)=", HTML.replace(SCRIPT, ""))
