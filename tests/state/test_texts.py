"""How names are written so that a shell takes them as they are."""

import subprocess

import pytest

from syncd.state.texts import argument


@pytest.mark.row(60)
@pytest.mark.parametrize(
    "name",
    [b"plain", b"with blank", b"-rf", b"--help", b"$(id)", b"`id`", b"a;b", b"it's", b"\xff\n\x1b"],
)
def test_a_suggested_argument_is_the_name_itself_and_no_option(name):
    command = f"printf %s {argument(name)}"
    if name.startswith(b"-"):
        command = command.replace("printf %s --", "printf -- %s")
        assert argument(name).startswith("-- ")
    told = subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert told.stdout == name
    assert argument(name).isprintable()
