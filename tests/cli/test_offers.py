"""A command that is offered can be typed as it stands: with the configuration that was given."""

import re
import shlex

import pytest

from syncd import cli, offers


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(offers, "_option", "")


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
    code, _, err = syncd("-c", "syncd.toml", "ls", "--sort")
    assert code == 2
    assert err.startswith("syncd: no such option")
    assert err.endswith("try: syncd -c syncd.toml ls --help\n")


def test_only_a_command_is_taken_for_one(tmp_path):
    offers.set_config(tmp_path / "x.toml")
    for text in ("/srv/syncd run/a", "the user that syncd runs as", "start syncd again"):
        assert offers.offered(text) == text
    assert offers.offered("(syncd why a)") == f"(syncd -c {tmp_path}/x.toml why a)"


def test_every_command_that_reads_a_configuration_is_known():
    assert {*offers._NAMES} == cli.COMMANDS.keys() - {"demo", "init", "emulator"}


def test_a_named_configuration_that_is_missing_is_written_by_the_offered_command(desk, syncd):
    _, _, err = syncd("-c", "not here.toml", "status")
    (command,) = re.findall("`(.*?)`", " ".join(err.split()))
    assert syncd(*shlex.split(command)[1:])[0] == 0
    assert (desk.home / "not here.toml").exists()
