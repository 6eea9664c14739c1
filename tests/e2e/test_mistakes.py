"""A mistake in the configuration stops no command that the running daemon carries out."""

import json

import pytest

MISTAKES = ("[uplaod]\n", '[upload]\nworkers = "many"\n', "[upload\n", "[[folders]]\nname = 1\n")
#: Commands, and their exit codes.
ASKED = (
    (["pause", "drop"], 0),
    (["resume", "drop"], 0),
    (["limit"], 0),
    (["limit", "2MiB/s"], 0),
    (["limit", "configured"], 0),
    (["retry"], 0),
    (["retry", "drop/one"], 0),
    (["wait"], 0),
    (["wait", "drop/one"], 0),
    (["deletes", "list"], 0),
    (["deletes", "approve", "--yes", "drop"], 1),
    (["deletes", "reject", "7"], 1),
)


@pytest.fixture
def write(place, monkeypatch):
    """Write the configuration of the place into a file, with more at its end."""

    def write(text):
        (folder,) = json.loads(place.machine.settings["SYNCD_FOLDERS"])
        lines = [
            "[state]",
            'directory = "state"',
            "[api]",
            f'base_url = "{place.machine.emulator.url}"',
        ]
        lines += ["[[folders]]", f"path = {json.dumps(folder['path'])}", "settle_seconds = 0.1"]
        (place.machine.tmp_path / "syncd.toml").write_text("\n".join([*lines, text]))
        for name in place.machine.settings:
            if name.startswith("SYNCD_"):
                monkeypatch.delenv(name, raising=False)

    return write


@pytest.mark.parametrize(
    "mistake", [MISTAKES[0], *(pytest.param(each, marks=pytest.mark.long) for each in MISTAKES[1:])]
)
def test_a_mistake_is_a_line_and_the_running_daemon_obeys(place, write, mistake):
    place.machine.write("one", b"1")
    with place.daemon():
        place.machine.settles()
        write(mistake)
        for words, expected in ASKED:
            code, _, err = place.call(*words)
            assert (words, code) == (words, expected), err
            assert err.count("syncd: warning: ") == 1
            assert "`syncd config check` tells all" in err


@pytest.mark.parametrize("words", [["pause"], ["retry"], ["limit"], ["limit", "off"], ["wait"]])
def test_without_a_daemon_a_mistake_is_refused(place, write, words):
    write("[uplaod]\n")
    code, out, err = place.call(*words)
    assert (code, out) == (78, "")
    assert "uplaod: unknown setting" in err
