"""Commands work, or say one clear thing, whatever terminal and directory they are started in."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from syncd.exceptions import ConfigError


@pytest.fixture
def shell(desk):
    """Run a line of shell in which `syncd` is this program: a process of its own."""
    desk.see("日本😀.txt".encode())
    desk.store.close()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONIO")}
    syncd = f"{shlex.quote(sys.executable)} -m syncd"

    def run(line, **environ):
        return subprocess.run(
            ["sh", "-c", f'syncd() {{ {syncd} "$@"; }}; {line}'],
            env=kept | environ,
            cwd=desk.home,
            capture_output=True,
            check=False,
            timeout=30,
        )

    return run


@pytest.mark.long
@pytest.mark.parametrize(
    "encoding", ["latin-1", pytest.param("ascii:strict", marks=pytest.mark.long)]
)
def test_an_output_that_is_not_utf8_gets_escapes_in_place_of_what_it_lacks(shell, encoding):
    listed = shell("syncd ls; syncd status", PYTHONIOENCODING=encoding)
    assert rb"f/\u65e5\u672c\U0001f600.txt" in listed.stdout
    assert b"Not well" in listed.stdout
    assert listed.stderr == b""
    (entry,) = map(
        json.loads, shell("syncd ls --json", PYTHONIOENCODING=encoding).stdout.split(b"\n")[:-1]
    )
    assert entry["path"] == "日本😀.txt"


@pytest.mark.long
def test_a_command_works_where_its_current_directory_was_removed(shell, desk):
    config = shlex.quote(str(desk.home / "syncd.toml"))
    gone = "mkdir gone && cd gone && rmdir ../gone"
    listed = shell(f"{gone} && syncd ls -c {config} && syncd why -c {config} f/日本😀.txt")
    assert "日本😀.txt" in listed.stdout.decode()
    assert "waits to be read or sent" in listed.stdout.decode()
    assert listed.stderr == b""
    refused = shell(f"{gone} && syncd status -c syncd.toml")
    assert refused.returncode == ConfigError.exit_code
    assert b"there is no file" in refused.stderr
    assert b"internal error" not in refused.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [("why", ""), ("ls", ""), ("once", ""), ("run", ""), ("init", ""), ("-c", "", "ls")],
)
def test_an_empty_argument_is_refused_and_is_not_the_current_directory(syncd, desk, arguments):
    code, _, err = syncd(*arguments)
    assert (code, err) == (2, "syncd: an argument is empty; is a variable of your shell not set?\n")
