import os
import subprocess
import sys
import threading
import time

import pytest

from syncd.config import credentials
from syncd.exceptions import ConfigError

KEY = "sk-live-0123456789"


def load(**environ):
    warnings = []
    found = credentials.load(environ, warnings)
    return found, warnings


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


def test_a_key_comes_from_the_environment_its_newline_taken_off():
    found, _ = load(AYMARA_AI_API_KEY=KEY + "\n")
    assert found.api_key.get_secret_value() == KEY
    assert found.source == "AYMARA_AI_API_KEY"


def test_a_key_comes_from_a_file(key_file):
    found, warnings = load(AYMARA_AI_API_KEY_FILE=str(key_file))
    assert found.api_key.get_secret_value() == KEY
    assert str(key_file) in found.source
    assert warnings == []


def test_a_key_comes_as_a_systemd_credential(tmp_path):
    (tmp_path / "aymara-api-key").write_text(KEY)
    (tmp_path / "aymara-api-key").chmod(0o444)
    found, warnings = load(CREDENTIALS_DIRECTORY=str(tmp_path))
    assert found.source == "the systemd credential aymara-api-key"
    assert warnings == []


def test_a_secret_that_another_one_overrules_is_named(key_file, tmp_path):
    (tmp_path / "aymara-api-key").write_text("another-key")
    found, warnings = load(
        AYMARA_AI_API_KEY=KEY,
        AYMARA_AI_API_KEY_FILE=str(key_file),
        CREDENTIALS_DIRECTORY=str(tmp_path),
    )
    assert found.source == "AYMARA_AI_API_KEY"
    assert warnings == [
        f"AYMARA_AI_API_KEY_FILE ({key_file}) is not used: AYMARA_AI_API_KEY wins",
        "the systemd credential aymara-api-key is not used: AYMARA_AI_API_KEY wins",
    ]


def test_a_key_file_may_be_named_from_the_home_directory(key_file, monkeypatch):
    monkeypatch.setenv("HOME", str(key_file.parent))
    assert load(AYMARA_AI_API_KEY_FILE="~/key")[0].api_key.get_secret_value() == KEY


@pytest.mark.parametrize(
    ("name", "said"), [("none", "put it there, or name the right path"), (".", "name a file")]
)
def test_a_key_file_that_cannot_be_read_is_told_with_what_fits(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        load(AYMARA_AI_API_KEY_FILE=str(tmp_path / name))


def test_a_token_alone_will_do_and_both_may_be_there():
    found, _ = load(AYMARA_AI_BEARER_TOKEN="token-1")
    assert (found.api_key, list(found.secrets())) == (None, ["token-1"])
    found, _ = load(AYMARA_AI_BEARER_TOKEN="token-1", AYMARA_AI_API_KEY=KEY)
    assert list(found.secrets()) == [KEY, "token-1"]


def test_a_bearer_token_comes_from_a_file_or_a_credential_as_well(tmp_path):
    for name in ("token", credentials.TOKEN_CREDENTIAL):
        (tmp_path / name).write_text("token-1\n")
        (tmp_path / name).chmod(0o600)
    for environ in (
        {"AYMARA_AI_BEARER_TOKEN_FILE": str(tmp_path / "token")},
        {"AYMARA_AI_BEARER_TOKEN": "", "CREDENTIALS_DIRECTORY": str(tmp_path)},
    ):
        found, warnings = load(**environ)
        assert (found.api_key, list(found.secrets()), warnings) == (None, ["token-1"], [])


def test_no_key_names_the_ways_to_give_one():
    with pytest.raises(ConfigError, match="no API key: set AYMARA_AI_API_KEY, or"):
        load()


def test_a_key_is_never_shown():
    found, _ = load(AYMARA_AI_API_KEY=KEY)
    assert KEY not in repr(found) + str(found.model_dump())


@pytest.mark.parametrize("value", ["", " \n"])
def test_an_empty_key_is_refused(value):
    with pytest.raises(ConfigError, match="AYMARA_AI_API_KEY is empty"):
        load(AYMARA_AI_API_KEY=value)


@pytest.mark.parametrize("value", ["a\nb" + KEY, "schlüssel" + KEY, "x" * 20_000])
def test_what_cannot_be_a_key_is_refused_and_not_shown(value):
    with pytest.raises(ConfigError, match="one line of plain ASCII") as caught:
        load(AYMARA_AI_API_KEY=value)
    assert KEY not in str(caught.value)


def test_a_key_file_that_everyone_may_write_is_refused(key_file):
    key_file.chmod(0o602)
    with pytest.raises(ConfigError, match=f"may write the file; run: chmod 600 {key_file}"):
        load(AYMARA_AI_API_KEY_FILE=str(key_file))


def test_a_key_file_that_everyone_may_read_is_warned_of(key_file):
    key_file.chmod(0o644)
    _, (warning,) = load(AYMARA_AI_API_KEY_FILE=str(key_file))
    assert f"may read the file; run: chmod 600 {key_file}" in warning


def test_a_secret_of_kubernetes_is_not_warned_of(tmp_path, key_file):
    key_file.chmod(0o644)
    (tmp_path / "..data").symlink_to("..2026")
    assert load(AYMARA_AI_API_KEY_FILE=str(key_file))[1] == []


def test_a_key_file_that_is_missing_says_who_must_read_it():
    with pytest.raises(ConfigError, match="cannot read the file: No such file"):
        load(AYMARA_AI_API_KEY_FILE="/nope")


def test_a_file_that_may_not_be_read_says_whose_it_is(key_file):
    key_file.chmod(0o640)
    if os.getuid() == 0:
        os.chown(key_file, 1000, 1000)
    said = credentials.cannot_read(PermissionError(13, "Permission denied", str(key_file)))
    owner = f"user {key_file.stat().st_uid}, mode 640"
    assert f"it belongs to {owner}: run syncd as that user, or let user" in said


def test_a_byte_order_mark_and_an_editors_line_ends_are_no_part_of_a_key(key_file):
    key_file.write_bytes(b"\xef\xbb\xbf" + KEY.encode() + b"\r\n")
    found, _ = load(AYMARA_AI_API_KEY_FILE=str(key_file))
    assert found.api_key.get_secret_value() == KEY


def test_a_key_may_come_through_a_pipe_in_pieces(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)

    def write():
        with pipe.open("wb", buffering=0) as file:
            file.write(KEY[:5].encode())
            time.sleep(0.1)
            file.write(KEY[5:].encode())

    writer = threading.Thread(target=write)
    writer.start()
    found, _ = load(AYMARA_AI_API_KEY_FILE=str(pipe))
    writer.join()
    assert found.api_key.get_secret_value() == KEY


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(credentials, "_PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="is a pipe, and nothing was written to it for"):
        load(AYMARA_AI_API_KEY_FILE=str(tmp_path / "pipe"))


@pytest.mark.row(54)
def test_a_key_file_is_judged_behind_the_links_of_a_secret_mount(tmp_path, key_file):
    os.chown(key_file, -1, os.getegid())
    key_file.chmod(0o660)
    (tmp_path / "link").symlink_to(key_file)
    found = credentials.load({"AYMARA_AI_API_KEY_FILE": str(tmp_path / "link")}, [])
    assert found.api_key is not None
    key_file.chmod(0o666)
    with pytest.raises(ConfigError, match="everyone on this machine may write"):
        credentials.load({"AYMARA_AI_API_KEY_FILE": str(tmp_path / "link")}, [])


@pytest.mark.long
@pytest.mark.row(53)
def test_no_core_dump_can_hold_the_key():
    code = (
        "import ctypes, resource; from syncd.config.credentials import forbid_core_dumps;"
        "resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 30)); forbid_core_dumps();"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["0", "0"]


def test_a_systemd_credential_that_is_hidden_from_a_reload_counts_as_not_given(monkeypatch):
    def hidden(_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", hidden)
    with pytest.raises(ConfigError, match="no API key"):
        credentials.load({"CREDENTIALS_DIRECTORY": "/run/credentials/syncd.service"}, [])
