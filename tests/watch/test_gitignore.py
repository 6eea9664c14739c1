"""Rules mean what they mean to git, and cost no more than their length and the name's."""

import os
import shutil
import subprocess
import time

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from syncd.watch.gitignore import PatternError, Patterns

ATOMS = (
    *("a", "b", "1", " ", "-", "!", "]", "\u00e9", "a", "b"),
    *("*", "**", "?", "/", "/", "**/", "/**", "*a", "*.b"),
    *("[ab]", "[!a]", "[^b-z]", "[a-z]", "[]a]", "[a-]", "[!]a]", "[[:alpha:]]", "[[:a]", "[--a]"),
    *("\\*", "\\a", "\\ ", "\\/", "\\", "[", "[z-a]", "[[:foo:]]", "[!a/]"),
)
NAMES = ("a", "b", "ab", "a.b", "aab", "-", "a]", "[a", "a b", "\u00e9", "\\a", "*", "1", "!x")
LINES = st.lists(
    st.lists(st.sampled_from(ATOMS), min_size=1, max_size=6).map("".join), min_size=1, max_size=3
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Return a git repository, and its paths with whether each is a directory."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    root = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", root], check=True, env=clean())
    paths = []
    for number, name in enumerate(NAMES):
        (root / name).mkdir()
        paths.append((name, True))
        for inner in NAMES[number % 3 :: 3]:
            (root / name / inner).mkdir()
            paths.append((f"{name}/{inner}", True))
            for innermost in NAMES[number % 5 :: 5]:
                path = f"{name}/{inner}/{innermost}"
                (root / path).touch()
                paths.append((path, False))
    for name in ("b.b", "x", "aa"):
        (root / name).touch()
        paths.append((name, False))
    return root, [(os.fsencode(path), is_dir) for path, is_dir in paths]


def clean():
    """Return an environment in which no configuration of git's has a say."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}


def by_git(root, paths, lines):
    """Return the number of the line that decides each path for git; 0 where none does."""
    (root / ".gitignore").write_text("".join(line + "\n" for line in lines))
    command = ["git", "check-ignore", "--no-index", "-v", "-n", "-z", "--stdin"]
    fed = b"".join(path + b"\0" for path, _ in paths)
    told = subprocess.run(  # noqa: PLW1510 - 1 says that none is ignored
        command, cwd=root, input=fed, capture_output=True, env=clean()
    )
    fields = told.stdout.split(b"\0")
    return {fields[at + 3]: int(fields[at + 1] or 0) for at in range(0, len(fields) - 3, 4)}


def by_us(patterns, path, is_dir):
    """Return the same, coming down from the root: beneath an excluded directory all is excluded."""
    names = path.split(b"/")
    for depth in range(1, len(names)):
        matches, index = patterns.find(b"/".join(names[:depth]), is_dir=True)
        if matches:
            return index + 1
    return patterns.find(path, is_dir=is_dir)[1] + 1


def differing(repository, lines):
    """Return the paths on which we and git differ; none where we refuse a line."""
    root, paths = repository
    try:
        patterns = Patterns([line.encode() for line in lines])
    except PatternError:
        return []
    theirs = by_git(root, paths, lines)
    return [path for path, is_dir in paths if by_us(patterns, path, is_dir) != theirs[path]]


@pytest.mark.long
@pytest.mark.row(84)
@settings(suppress_health_check=list(HealthCheck))
@given(LINES)
def test_random_rules_decide_as_git_decides(repository, lines):
    assert differing(repository, lines) == []


@pytest.mark.parametrize(
    "lines",
    [
        ["a/**/b"],
        ["**/a/", "!a/a"],
        ["/a*/**/*b"],
        ["a/b**/a"],
        ["a/**"],
        ["*", "!*/", "!*.b"],
        ["[a-]b", "\\!x", "a b  "],
        ["a**", "x**x"],
        ["/*/[[:alpha:]]"],
        ["?", "**\\/a"],
        ["/a?a", "/b[!x]b"],
    ],
)
def test_known_corners_decide_as_git_decides(repository, lines):
    assert differing(repository, lines) == []


@pytest.mark.row(84)
@pytest.mark.parametrize(
    ("rule", "path"),
    [
        (b"*a" * 11 + b"*b", b"a" * 200),
        (b"*a" * 2000 + b"b", b"a" * 255),
        (b"**/*a*a/" * 400 + b"b", b"/".join([b"a" * 200] * 20)),
        (b"*[a-z]" * 600 + b"1", b"a" * 255),
        (b"**/a/**/" * 400 + b"b", b"a/" * 2000 + b"a"),
        (b"?*" * 2000, b"a" * 255),
    ],
)
def test_a_rule_made_to_explode_is_matched_at_once(rule, path):
    patterns = Patterns([rule])
    began = time.process_time()
    assert patterns.find(path, is_dir=False) == (None, -1)
    assert time.process_time() - began < 1.0


@pytest.mark.long
@pytest.mark.row(84)
def test_a_thousand_rules_take_milliseconds_a_name():
    patterns = Patterns([b"*%d[a-f]?*x" % number for number in range(1000)])
    began = time.process_time()
    for number in range(20):
        patterns.find(b"dir/some-name-%d" % number, is_dir=False)
    assert time.process_time() - began < 1.0
