"""A command that is offered can be typed as it stands: with the configuration that was given."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

import syncd as syncd_package
from syncd import offers
from syncd.cli import group


def test_an_offered_command_names_the_configuration_that_was_given(desk, syncd, tmp_path):
    desk.refuse(b"bad")
    desk.hold("sending", "*", commands=["mend it", "syncd retry"])
    mine = (tmp_path / "syncd.toml").rename(tmp_path / "my own.toml")
    for text in (syncd("-c", mine.name, "status")[1], syncd("status", "-c", mine.name)[1]):
        assert "> syncd -c 'my own.toml' ls --status failed\n" in text
        assert "> syncd -c 'my own.toml' retry" in text
    helps = syncd("-c", mine.name, "why", "f/bad")[1].split("What helps")[1]
    assert "> syncd -c 'my own.toml' retry" in " ".join(helps.split())


def test_where_none_was_given_the_commands_stand_as_they_are(desk, syncd):
    desk.refuse(b"bad")
    assert "> syncd ls --status failed\n" in syncd("status")[1]


def test_the_help_that_is_offered_on_a_wrong_option_names_it_too(desk, syncd):
    code, _, err = syncd("-c", "syncd.toml", "ls", "--sorted-by")
    assert code == 2
    assert err.startswith("syncd: no such option")
    assert err.endswith("try: syncd -c syncd.toml ls --help\n")


def test_only_a_command_is_taken_for_one(tmp_path):
    offers.set_config(tmp_path / "x.toml")
    for text in ("/srv/syncd run/a", "the user that syncd runs as", "start syncd again"):
        assert offers.offered(text) == text
    assert offers.offered("(syncd why a)") == f"(syncd -c {tmp_path}/x.toml why a)"


def commands_in(text):
    """Return the variables and the words of each command that a text marks."""
    for line in text.splitlines():
        if " > " in line:
            words = shlex.split(line.partition(" > ")[2])
            at = words.index("syncd")
            yield dict(word.split("=", 1) for word in words[:at]), words[at + 1 :]


@pytest.fixture
def unconfigured(desk, monkeypatch):
    """A state that `run DIR` has left, with no configuration that names its folders."""
    (desk.home / "syncd.toml").unlink()
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(desk.directory))
    monkeypatch.setenv("AYMARA_AI_API_KEY", "any")
    hold = ["say whose they are", "syncd adopt --new", "syncd deletes approve 1", "syncd why f/x"]
    desk.hold("sending", "*", commands=hold)
    return desk


def test_where_no_configuration_names_the_folders_what_is_offered_does(
    unconfigured, syncd, monkeypatch
):
    unconfigured.store.close()
    text = syncd("status")[1]
    for variables, words in commands_in(text):
        if words[0] == "why":
            assert not variables
            continue
        with monkeypatch.context() as shell:
            for name, value in variables.items():
                shell.setenv(name, value)
            # It reads what these commands read.
            code, out, err = syncd("config", "check", *words[1:] * (words[0] in ("run", "once")))
        assert code == 0, err
        assert "2 folders" in " ".join(out.split())
    home = unconfigured.home
    assert f"> syncd run {home}/f {home}/g\n" in text
    assert f"`syncd once {home}/f {home}/g` obeys" in syncd("pause")[2]
    assert " `syncd resume`" in syncd("pause")[1]


def test_one_folder_is_offered_by_the_shorter_variable_and_a_missing_one_is_not_left_out(
    unconfigured, syncd
):
    unconfigured.store.close()
    (unconfigured.home / "g").rmdir()
    assert f"`syncd run {unconfigured.home}/f` or" in syncd("pause")[2]
    assert f"{unconfigured.home}/g" in syncd("status")[1].partition("SYNCD_FOLDERS")[2]
    offers.set_folders("/a", "SYNCD_WATCH=/a")
    assert offers.offered("(syncd retry x)") == "(SYNCD_WATCH=/a syncd retry x)"
    assert offers.offered("(syncd run DIR)") == "(syncd run DIR)"


def test_a_daemon_that_runs_has_its_folders_and_needs_none_of_them_named(unconfigured, syncd):
    assert "> syncd adopt --new\n" in syncd("status")[1]


def test_every_command_that_reads_a_configuration_is_known():
    others = {"demo", "init", "emulator", "schema", "completion"}
    assert {*offers._NAMES} == group.COMMANDS.keys() - others


def test_a_named_configuration_that_is_missing_is_written_by_the_offered_command(desk, syncd):
    _, _, err = syncd("-c", "not here.toml", "status")
    (command,) = re.findall("`(.*?)`", " ".join(err.split()))
    assert syncd(*shlex.split(command)[1:])[0] == 0
    assert (desk.home / "not here.toml").exists()


def texts_in(source):
    """Yield the texts in a source, `1` in place of what varies; no docstrings."""
    left_out = set()
    for node in ast.walk(ast.parse(source)):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in node.values}
            yield "".join(p.value if isinstance(p, ast.Constant) else "1" for p in node.values)
        elif isinstance(node, ast.Expr):
            left_out.add(id(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


_NAMES = "|".join(group.COMMANDS)
OFFER = re.compile(rf"(?:^|[(`>]|run: |probe: |pass: )syncd ((?:{_NAMES})\b[^()`;,:\n]*)")


def offers_in(source):
    """Yield each command that a text of this source offers."""
    for text in texts_in(source):
        for offer in OFFER.findall(re.sub(r"\{\w*\}", "1", text)):
            command = offer.removesuffix(" ...").removesuffix(" lists all").strip()
            # Which of the two varies.
            yield re.sub("^deletes 1 ", "deletes approve ", command)


OFFERED = sorted(
    {
        offer
        for path in Path(syncd_package.__file__).parent.rglob("*.py")
        for offer in offers_in(path.read_text())
        # The beginning of a command, which the code looks for.
        if offer != "deletes"
    }
)


def test_the_texts_of_the_program_offer_commands():
    assert len(OFFERED) > 20


@pytest.mark.parametrize("offer", OFFERED)
def test_every_command_that_a_text_offers_is_understood(offer):
    command, ctx = group.cli, click.Context(group.cli, info_name="syncd")
    words = shlex.split(offer)
    while isinstance(command, click.Group):
        _, command, words = command.resolve_command(ctx, words)
        ctx = command.make_context(command.name, words, parent=ctx)
        words = [*ctx._protected_args, *ctx.args] if isinstance(command, click.Group) else []
