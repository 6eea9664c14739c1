"""Options, exit codes and error lines of the command line as a whole."""

import io
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from syncd import cli, offers
from syncd.cli import group
from syncd.cli.lines import folded
from syncd.exceptions import ForeignStateError, StateLockedError, StateWriteError
from syncd.files_api import UnauthorizedError
from syncd.once import PassProgress
from syncd.signals import Signals


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("SYNCD_CONFIG", "AYMARA_AI_API_KEY", "AYMARA_AI_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYNCD_STATE__DIRECTORY", str(tmp_path / "state"))


@pytest.fixture
def service(monkeypatch):
    """The daemon and the pass, replaced by what a test says they do."""
    from syncd.cli import once, run as run_command, sync

    seen = SimpleNamespace(config=None, outcome=0, options={})

    def run(config, _load=None, **options):
        seen.config, seen.options = config, options
        if isinstance(seen.outcome, Exception):
            raise seen.outcome
        if "report" in options:
            options["report"](
                PassProgress(1203, 0, 1, first_found=("a: the first scan found 2 files",))
            )
            options["report"](
                PassProgress(1203, 0, 1, first_found=("a: the first scan found 2 files",))
            )
        return seen.outcome

    monkeypatch.setattr(run_command.daemon, "run", run)
    monkeypatch.setattr(once, "make_one_pass", run)
    monkeypatch.setattr(Signals, "listen", lambda _: None)
    monkeypatch.setattr(sync.log, "configure", lambda *_: None)
    return seen


def test_run_takes_directories_and_a_key_and_needs_no_file(service, syncd, monkeypatch, tmp_path):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "sk-live-01234")
    (tmp_path / "a").mkdir()
    assert syncd("run", "a")[0] == 0
    assert [folder.path for folder in service.config.folders] == [tmp_path / "a"]


def test_once_reports_and_returns_what_became_of_the_pass(service, syncd, monkeypatch, tmp_path):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "sk-live-01234")
    (tmp_path / "a").mkdir()
    service.outcome = 77
    code, out, _ = syncd("once", "--wait-deletions", "a")
    assert (code, out) == (77, "1,203 synced, 0 waiting, 1 failed\n")
    assert service.options["wait_deletions"] is True


def test_a_tally_counts_what_is_held_where_something_is():
    assert str(PassProgress(1203, 2, 1)) == "1,203 synced, 2 waiting, 1 failed"
    assert str(PassProgress(1203, 2, 1, held=25)) == "1,203 synced, 2 waiting, 1 failed, 25 held"


def test_once_names_its_directories_in_what_it_offers(service, syncd, monkeypatch, tmp_path):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "sk-live-01234")
    (tmp_path / "a b").mkdir()
    syncd("once", "a b")
    assert offers.offered("(syncd once)") == f"(syncd once '{tmp_path}/a b')"
    assert offers.offered("(syncd adopt)") == f"(SYNCD_WATCH='{tmp_path}/a b' syncd adopt)"
    offers.set_folders("", "")
    (tmp_path / "syncd.toml").write_text('[[folders]]\npath = "a b"\n')
    syncd("once", "a b")
    assert offers.offered("(syncd once)") == "(syncd once)"


def test_once_on_a_terminal_tells_what_a_first_scan_found(service, syncd, monkeypatch, tmp_path):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "sk-live-01234")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    (tmp_path / "a").mkdir()
    code, _, err = syncd("once", "a")
    assert code == 0
    assert err.count("a: the first scan found 2 files") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StateLockedError("another syncd uses it"), 75),
        (ForeignStateError("it is another service's"), 78),
        (StateWriteError("the disk is full"), 1),
        (RuntimeError("a bug"), 1),
    ],
)
def test_an_error_is_one_line_and_a_code(service, syncd, monkeypatch, tmp_path, error, code):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "sk-live-01234")
    (tmp_path / "a").mkdir()
    service.outcome = error
    found, out, err = syncd("run", "a")
    assert (found, out) == (code, "")
    assert err.count("\n") == 1
    assert err.startswith("syncd: ")
    assert str(error) in err


def test_a_refused_key_names_what_to_do_next(service, syncd, monkeypatch, tmp_path):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "sk-live-01234")
    (tmp_path / "a").mkdir()
    service.outcome = UnauthorizedError("no", operation="list", status=401)
    code, _, err = syncd("run", "a")
    assert code == 77
    assert err.endswith("(syncd doctor)\n")


def test_a_traceback_is_shown_when_asked_for_twice(service, syncd, monkeypatch, tmp_path):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "sk-live-01234")
    (tmp_path / "a").mkdir()
    service.outcome = RuntimeError("a bug with sk-live-01234")
    assert "Traceback" not in syncd("-v", "run", "a")[2]
    err = syncd("-v", "run", "-v", "a")[2]
    assert "Traceback" in err
    assert "sk-live-01234" not in err


def test_a_directory_that_is_not_there_is_a_usage_error(syncd):
    code, _, err = syncd("run", "nope")
    assert code == 2
    assert "nope does not exist" in err
    Path("file").touch()
    assert "file is not a directory" in syncd("once", "file")[2]


def test_no_key_is_a_configuration_error(syncd, tmp_path):
    (tmp_path / "a").mkdir()
    code, out, err = syncd("run", "a")
    assert (code, out) == (78, "")
    assert err.startswith("syncd: no API key: set AYMARA_AI_API_KEY")


def test_every_problem_of_the_configuration_is_a_line(syncd):
    Path("syncd.toml").write_text("[upload]\nworkers = 0\nx\x20= 1\n")
    code, _, err = syncd("run")
    assert code == 78
    assert [line.startswith("syncd: ") for line in err.splitlines()] == [True] * 3


def test_a_missing_folder_of_the_configuration_is_warned_of_and_run(
    service, syncd, monkeypatch, caplog
):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "sk-live-01234")
    Path("syncd.toml").write_text("[[folders]]\npath = 'gone'\n")
    assert syncd("run")[0] == 0
    assert "gone is not there" in caplog.text
    Path("gone").write_text("a letter to my aunt")
    assert syncd("run")[0] == 0
    assert "gone is no directory" in caplog.text


def test_the_configuration_is_named_before_or_after_the_command(syncd, tmp_path):
    (tmp_path / "x.toml").write_text("[nope]\n")
    for arguments in (("-c", "x.toml", "status"), ("status", "-c", "x.toml")):
        code, _, err = syncd(*arguments)
        assert code == 78
        assert "x.toml: nope: unknown setting" in err


def test_an_unknown_command_and_no_command_are_usage_errors(syncd):
    assert syncd("frobnicate")[0] == 2
    code, _, err = syncd("statsu")
    assert code == 2
    assert "did you mean status?" in err
    code, _, err = syncd()
    assert code == 2
    assert "status" in err


def test_help_and_version_succeed(syncd):
    code, out, _ = syncd("--help")
    assert code == 0
    assert all(name in out for name in group.COMMANDS)
    assert syncd("--version")[1].startswith("syncd, version 0")
    for name in ("run", "once", "status", "ls", "why", "init", "emulator"):
        assert syncd(name, "--help")[0] == 0


def test_init_writes_a_file_that_says_what_to_do_next(syncd):
    code, out, _ = syncd("init")
    assert code == 0
    assert "syncd once" in out
    assert "[[folders]]" in Path("syncd.toml").read_text()


def test_init_does_not_overwrite_unless_told(syncd):
    Path("syncd.toml").write_text("mine")
    code, _, err = syncd("init")
    assert code == 1
    assert "syncd.toml is there already; --force overwrites it" in err
    assert Path("syncd.toml").read_text() == "mine"
    assert syncd("init", "--force")[0] == 0
    assert Path("syncd.toml").read_text() != "mine"


def test_init_names_another_file_in_what_it_says(syncd):
    said = syncd("init", "other.toml")[1]
    assert "syncd run -c other.toml\n" in said
    assert all(line.count("syncd ") <= 1 for line in said.splitlines()), "each can be copied"
    assert "syncd run -c 'my own.toml'" in syncd("init", "my own.toml")[1]
    said = syncd("init", "nope/x.toml")[2]
    assert "cannot write nope/x.toml: its directory is not there; run: mkdir -p nope" in said


def test_the_emulator_names_its_extra_when_packages_are_missing(syncd, monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'starlette'", name="starlette")

    from syncd.cli import emulator

    monkeypatch.setattr(emulator, "import_module", missing)
    code, _, err = syncd("emulator", "--data", "d")
    assert code == 1
    assert "needs the package starlette" in err
    assert "pip install 'syncd[emulator]'" in err


def test_the_emulators_help_lists_personalities_or_names_the_extra(syncd, monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'av'", name="av")

    from syncd.cli import emulator

    assert "newest-first" in syncd("emulator", "--help")[1].partition("Personalities:")[2]
    monkeypatch.setattr(emulator, "import_module", missing)
    code, out, _ = syncd("emulator", "--help")
    assert (code, "Personalities:" in out) == (0, False)
    assert "pip install 'syncd[emulator]'" in " ".join(out.split())


def test_the_demo_names_its_extra_when_packages_are_missing(syncd, monkeypatch):
    def missing(_):
        raise ModuleNotFoundError("No module named 'av'", name="av")

    monkeypatch.setattr(group, "import_module", missing)
    code, _, err = syncd("demo")
    assert code == 1
    assert "`syncd demo` needs the package av" in err


@pytest.mark.parametrize("listen", ["8765", "host:port", ":1", "h:99999"])
def test_an_address_that_is_none_is_a_usage_error(syncd, listen):
    code, _, err = syncd("emulator", "--data", "d", "--listen", listen)
    assert code == 2
    assert "is not HOST:PORT" in err


def test_what_keeps_the_emulator_from_serving_is_one_clear_line(syncd, tmp_path):
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = syncd("emulator", "--data", "d", "--listen", address)
    assert (code, err) == (1, f"syncd: cannot listen on {address}: Address already in use\n")
    code, _, err = syncd("emulator", "--data", "file/d", "--listen", "127.0.0.1:0")
    assert (code, err) == (1, "syncd: cannot keep data in file/d: Not a directory\n")


def test_on_a_terminal_an_error_is_folded_between_words_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = "bad  key: no API key: set AYMARA_AI_API_KEY, or AYMARA_AI_API_KEY_FILE to the path"
    assert folded(text, io.StringIO()) == text
    terminal = SimpleNamespace(isatty=lambda: True)
    lines = folded(text, terminal, indent=6).splitlines()
    assert [line[:6] for line in lines[1:]] == [" " * 6]
    assert max(map(len, lines)) < 60
    assert " ".join(line.strip() for line in lines) == text


def test_the_console_script_exits_with_the_code(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["syncd", "status", "--alive"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1


def test_help_leads_to_how_to_start_over_by_commands_that_work_as_they_stand(desk, syncd):
    desk.store.close()
    (command,) = re.findall("start over.*: syncd (adopt --help)", syncd("--help")[1])
    text = syncd(*command.split())[1]
    moves, new, other = re.findall("^    ((?:mv|syncd) .*)$", text, re.MULTILINE)
    assert (new, other) == ("syncd adopt --new", "syncd adopt --instance ID")
    assert max(map(len, text.replace(moves, "").splitlines())) <= 80
    subprocess.run(shlex.split(moves), check=True)
    assert not desk.directory.exists()
    assert "there is no state in" in syncd("ls")[2]
    (desk.home / "syncd.toml").write_text("[state\ndirectory = 1")
    assert syncd("adopt", "--help")[0] == 0


def test_adopt_refuses_an_id_of_another_form_before_it_asks(desk, syncd):
    code, out, err = syncd("adopt", "--instance", "sy2-0123abcd")
    assert (code, out) == (2, "")
    assert "'sy2-0123abcd' is not 8 hex digits" in " ".join(err.split())
    assert "this state becomes" not in err
