"""`config check` and `config show`; and what a mistake in the file does to other commands."""

import json
from pathlib import Path

import pytest

KEY = "a-key-of-the-tests"
SECRETS = ("hunter2", "T0KEN", KEY)


@pytest.fixture
def write(desk, monkeypatch):
    """Append to the configuration of the desk, whose key is set."""
    monkeypatch.setenv("AYMARA_AI_API_KEY", KEY)

    def append(text):
        path = desk.home / "syncd.toml"
        path.write_text(path.read_text() + text)
        return path

    return append


def test_a_right_configuration_is_told_with_what_is_odd_and_no_error(write, syncd, monkeypatch):
    path = write('settle_seconds = 30\n[[folders]]\npath = "nowhere"\n')
    monkeypatch.setenv("SYNCD_UPLOAD_WORKERS", "3")
    code, out, err = syncd("config", "check")
    assert code == 0
    assert out.startswith(f"the configuration is right: {path}, 3 folders, state in ")
    warnings = [line for line in err.splitlines() if line.startswith("syncd: warning: ")]
    assert len(warnings) == len(err.splitlines()) == 3
    assert "SYNCD_UPLOAD_WORKERS is not known; did you mean SYNCD_UPLOAD__WORKERS?" in err
    assert "drain_seconds (10) is too short for g" in err
    assert "nowhere is not there" in err


def test_every_problem_is_told_with_78(write, syncd, syncd_json):
    path = write('[upload]\nworkers = "many"\ncolour = 1\n[server]\nlisten = "0.0.0.0:1"\n')
    code, out, err = syncd("config", "check")
    assert (code, out) == (78, "")
    assert '[upload] workers: must be a number from 1 to 64, or "auto"' in " ".join(err.split())
    assert "[upload] colour: unknown setting" in err
    assert "is needed to listen on 0.0.0.0:1" in err
    code, document = syncd_json("config", "check", "--json")
    assert (code, document["valid"], document["file"]) == (78, False, str(path))
    assert len(document["problems"]) == 3
    path.write_text("[upload\n")
    assert "is not valid TOML" in syncd("config", "check")[2]


def test_a_default_is_not_said_to_come_from_the_file_that_has_it_wrong(write, syncd_json):
    path = write("[upload]\nworkers = 3\nmethod = 4\n")
    code, told = syncd_json("config", "show", "--json")
    assert code == 78
    found = {one["setting"]: (one["value"], one["source"]) for one in told}
    assert found["upload.workers"] == (3, str(path))
    assert found["upload.method"] == ("auto", f"default, for that of {path} is wrong")


def test_the_key_is_needed_only_while_no_daemon_has_it(desk, write, syncd, monkeypatch):
    write("")
    monkeypatch.delenv("AYMARA_AI_API_KEY")
    assert syncd("config", "check")[0] == 0, "the desk holds the lock, as a daemon does"
    desk.store.close()
    code, _, err = syncd("config", "check")
    assert code == 78
    assert "no API key" in err


def test_a_service_that_the_state_does_not_belong_to_is_a_problem(desk, write, syncd):
    write("")
    desk.sync(b"x")
    desk.store.set_fact("base_url", "https://other.example")
    code, _, err = syncd("config", "check")
    assert code == 78
    assert "belongs to https://other.example, and not to https://api.aymara.ai" in err


def test_each_setting_is_shown_with_its_source_and_secrets_are_dots(
    write, syncd, syncd_json, monkeypatch
):
    path = write(
        '[upload]\nworkers = 4\n[api]\nproxy = "http://u:hunter2@proxy:1"\n'
        '[alerts]\nwebhook = "https://h.example/T0KEN"\ncommand = ["/bin/true", "T0KEN"]\n'
    )
    path.chmod(0o600)
    monkeypatch.setenv("SYNCD_UPLOAD__METHOD", "direct")
    monkeypatch.setenv("SYNCD_DELETIONS__HOLD_MAX", "off")
    monkeypatch.setenv("AYMARA_AI_BASE_URL", "https://a.example")
    code, told = syncd_json("config", "show", "--json")
    assert code == 0
    found = {one["setting"]: (one["value"], one["source"]) for one in told}
    assert found["upload.workers"] == (4, str(path))
    assert found["upload.method"] == ("direct", "SYNCD_UPLOAD__METHOD")
    assert found["upload.token"] == (True, "default")
    assert found["api.base_url"] == ("https://a.example", "AYMARA_AI_BASE_URL")
    assert found["folders[0].hold_max"] == ("off", "SYNCD_DELETIONS__HOLD_MAX")
    assert found["folders[0].exclude"] == (["drafts/"], str(path))
    assert found["credentials.api_key"] == ("••••••••", "AYMARA_AI_API_KEY")
    assert found["api.proxy"][0] == "http://u:••••••••@proxy:1"
    text = syncd("config", "show")[1]
    assert [secret for secret in SECRETS if secret in text + json.dumps(told)] == []


def test_variables_name_the_folders_in_place_of_a_file_as_the_image_has_one(
    desk, syncd_json, monkeypatch
):
    (desk.home / "syncd.toml").write_text('[[folders]]\npath = "/data"\n')

    def folders():
        told = syncd_json("config", "show", "--json")[1]
        return [
            (one["value"], Path(one["source"]).name)
            for one in told
            if one["setting"].endswith("].path")
        ]

    assert folders() == [("/data", "syncd.toml")]
    monkeypatch.setenv("SYNCD_FOLDERS", '[{"path": "/a"}, {"path": "/b"}]')
    assert folders() == [("/a", "SYNCD_FOLDERS"), ("/b", "SYNCD_FOLDERS")]
    monkeypatch.delenv("SYNCD_FOLDERS")
    monkeypatch.setenv("SYNCD_WATCH", "/c")
    assert folders() == [("/c", "SYNCD_WATCH")]


@pytest.mark.parametrize(
    "mistake",
    [
        '[upload]\nworkers = "many"\n',
        "[uplaod]\n",
        "[upload\nworkers = 4\n",
        "[[folders]]\nname = 1\n",
    ],
)
def test_a_mistake_is_a_line_and_blinds_no_command_that_needs_only_the_state(
    desk, write, syncd, mistake
):
    desk.sync(b"x")
    desk.store.close()
    write(mistake)
    for words in (["ls", "f/x"], ["why", "f/x"], ["log", "f/x"]):
        code, out, err = syncd(*words)
        assert code == 0
        assert "x" in out
        assert err.count("syncd: warning: ") == 1
        assert "`syncd config check` tells all" in " ".join(err.split())
    code, out, err = syncd("status")
    assert code == 78
    assert "1 synced" in out
    assert err.count("syncd: warning: ") == 1


def test_a_mistake_by_which_the_state_directory_cannot_be_told_is_an_error(write, syncd):
    path = write("")
    path.write_text('[state]\ndirectory = "state\n')
    code, out, err = syncd("ls")
    assert (code, out) == (78, "")
    assert "is not valid TOML" in err
