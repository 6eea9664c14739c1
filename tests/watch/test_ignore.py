import pytest

from syncd.exceptions import ConfigError
from syncd.watch.folder import WatchFolder
from syncd.watch.ignore import JUNK, Rules


def rules(**settings):
    return Rules(WatchFolder("f", b"/f", **settings))


def excluded(path, *, is_dir=False, **settings):
    return rules(**settings).verdict(path, is_dir=is_dir).excluded


def test_without_rules_every_ordinary_file_is_eligible():
    for path in (b"a", b"a/b.mp4", b"tmp", b"part", b"a.tmp.mp4", b"caf\xe9", b"new\nline", b"~a"):
        assert not excluded(path), path


@pytest.mark.parametrize(
    "name",
    [
        *(b"a.part", b"a.crdownload", b"a.tmp", b".a.swp", b"a~", b".~lock.a.odt#", b"._a"),
        *(b".DS_Store", b"Thumbs.db", b"@eaDir", b".stfolder", b"lost+found", b"new\nline.tmp"),
        *(b"#recycle", b"#Recycle", b"@Recycle", b"$RECYCLE.BIN", b".Trash-1000", b".Trashes"),
        *(b"a.mkv.filepart", b"A.PART", b"a.iso.aria2", b"a.iso.!qB", b"a.mp4.part-Frag3"),
        *(b"a.partial", b"~$report.docx", b"Desktop.ini", b"System Volume Information"),
    ],
)
def test_junk_is_excluded_even_where_hidden_files_are_eligible(name):
    verdict = rules(hidden=True).verdict(b"d/" + name, is_dir=False)
    assert verdict.excluded
    assert verdict.rule.removeprefix("junk ") in JUNK


def test_what_is_beneath_an_excluded_directory_is_excluded_by_the_same_rule():
    verdict = rules().verdict(b"a/@eaDir/b/c.jpg", is_dir=False)
    assert (verdict.excluded, verdict.rule) == (True, "junk @eaDir")
    assert excluded(b".git/objects/aa")
    assert excluded(b"cache/x/y", exclude=("cache/",))


def test_hidden_files_are_excluded_unless_asked_for():
    assert rules().verdict(b".env", is_dir=False).rule.startswith("hidden")
    assert not excluded(b".env", hidden=True)


def test_the_last_exclude_that_matches_decides_and_is_named():
    some = rules(exclude=("*.log", "!keep.log", "/top"))
    assert some.verdict(b"a/x.log", is_dir=False).rule == "exclude *.log"
    kept = some.verdict(b"a/keep.log", is_dir=False)
    assert (kept.excluded, kept.rule) == (False, "exclude !keep.log")
    assert some.verdict(b"top", is_dir=False).excluded
    assert not some.verdict(b"a/top", is_dir=False).excluded


def test_a_negated_exclude_takes_up_junk_and_hidden_files():
    assert not excluded(b"a.tmp", exclude=("!*.tmp",))
    assert not excluded(b".env", exclude=("!.env",))
    assert excluded(b".other", exclude=("!.env",))


def test_a_directory_pattern_spares_a_file_of_that_name():
    assert excluded(b"build", is_dir=True, exclude=("build/",))
    assert not excluded(b"build", exclude=("build/",))


def test_include_lets_in_only_what_matches_and_prunes_no_directory():
    some = rules(include=("*.mp4", "/docs/"))
    assert not some.verdict(b"a/b/c.mp4", is_dir=False).excluded
    assert not some.verdict(b"docs/x.txt", is_dir=False).excluded
    assert not some.verdict(b"a/b", is_dir=True).excluded
    assert some.verdict(b"a/x.txt", is_dir=False).rule.startswith("include")


def test_exclude_wins_over_include():
    assert excluded(b"a/x.mp4", include=("*.mp4",), exclude=("a/",))


def test_names_of_any_bytes_are_matched():
    assert excluded(b"caf\xe9.log", exclude=("*.log",))
    assert excluded(b"new\nline/x/y.log", exclude=("x",))


@pytest.mark.parametrize("blank", ["", "   ", "# a comment"])
def test_a_blank_or_commented_pattern_excludes_nothing(blank):
    assert not excluded(b"a", exclude=(blank,))


@pytest.mark.parametrize("blank", ["", "   ", "# a comment"])
def test_an_include_of_blanks_and_comments_alone_includes_everything(blank):
    assert not excluded(b"a", include=(blank,))


def test_an_include_takes_in_what_is_beneath_a_directory_that_matches():
    some = rules(include=("docs/", "!docs/private/", "!*.bak"))
    assert not some.verdict(b"docs/a/x.txt", is_dir=False).excluded
    assert some.verdict(b"docs/private/x.txt", is_dir=False).excluded
    assert some.verdict(b"docs/x.bak", is_dir=False).excluded


@pytest.mark.row(84)
@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("!", "names nothing"),
        ("/", "names nothing"),
        ("[z-a]", "a range that runs backwards (z-a)"),
        ("[abc", "a [ without its ]"),
        ("[[:foo:]]", "an unknown class [:foo:]"),
        ("a\\", "escapes nothing"),
        ("a\0b", "a NUL byte"),
        ("a" * 5000, "longer than 4096 bytes"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_a_configuration_error(pattern, problem):
    for setting in ("exclude", "include"):
        with pytest.raises(ConfigError) as caught:
            rules(**{setting: ("*.log", pattern)})
        assert str(caught.value).startswith("folder f: the pattern ")
        assert f" of {setting} is not in gitignore syntax: it " in str(caught.value)
        assert problem in str(caught.value)


@pytest.mark.parametrize("hidden", [False, True])
def test_names_are_let_in_together_only_where_each_alone_is(hidden):
    own = [b".syncdignore", b".syncd-0123456789abcdef.aside", b".hidden"]
    junk = [p.replace("*", x).encode() for p in JUNK for x in ("", "a", "A.b")]
    names = [
        *own,
        *junk,
        *map(bytes.upper, junk),
        b"a",
        b"a.tmp.mp4",
        b"part",
        b"a\n~b",
        b"caf\xe9",
    ]
    judge = rules(hidden=hidden)
    for name in names:
        among = [b"a.mp4", name, b"z"]
        alone = not judge.entry(name, is_dir=False).excluded
        for prefix in (b"", b".in/x.part/"):
            paths = [prefix + one for one in among]
            assert judge.surely_let_in(prefix, paths, [1], ()) <= alone, name
            paths = [prefix + one for one in (b"a", b"a.tmp.mp4", b"part", b"caf\xe9")]
            assert judge.surely_let_in(prefix, paths, [1], ())


@pytest.mark.parametrize(
    "settings", [{"max_size": 5}, {"exclude": ("b",)}, {"include": ("b",)}], ids=str
)
def test_names_are_judged_one_by_one_where_a_setting_may_exclude_them(settings):
    assert not rules(**settings).surely_let_in(b"", [b"a"], [1, 6], ())
