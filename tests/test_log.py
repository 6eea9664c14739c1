import contextlib
import io
import json
import logging
import os
import socket
import time

import pytest

from syncd import log
from syncd.log import printable

LOGGER = logging.getLogger("syncd.test")


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(log, "_hidden", set())
    monkeypatch.setattr(log, "_repeats", log._Repeats())
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def written():
    """Return what is written in a style, by a function that logs."""

    def run(style, act, *, stream=None, level="info", environ=None):
        stream = stream or io.StringIO()
        log.configure(style, level, stream, environ or {})
        act()
        return stream.getvalue()

    return run


def test_text_is_time_and_message_and_names_the_level_when_it_matters(written):
    def act():
        LOGGER.info("started")
        LOGGER.warning("careful")

    first, second = written("text", act).splitlines()
    assert first[8:] == " started"
    assert second[8:] == " warning: careful"


def test_journal_lines_carry_their_priority(written):
    def act():
        LOGGER.debug("a")
        LOGGER.info("b")
        LOGGER.warning("c")
        LOGGER.error("d")
        LOGGER.critical("e")

    assert written("journal", act, level="debug") == "<7>a\n<6>b\n<4>c\n<3>d\n<2>e\n"


def test_json_is_one_object_a_line_with_the_fields_beside_the_message(written):
    def act():
        LOGGER.info("sent %s", "x", extra={"fields": {"folder": "f", "bytes": 7, "level": "no"}})

    facts = json.loads(written("json", act))
    assert facts.pop("time").endswith("Z")
    assert facts == {
        "level": "info",
        "logger": "syncd.test",
        "message": "sent x",
        "folder": "f",
        "bytes": 7,
    }


def fail():
    try:
        raise ValueError("key sk-secret-1\nhttps://s3.test/o?X-Amz-Signature=abc")  # noqa: TRY301
    except ValueError:
        LOGGER.exception("it\nfailed")


@pytest.mark.parametrize("style", ["text", "journal", "json"])
def test_secrets_and_presigned_queries_are_hidden_in_tracebacks_too(written, style):
    log.hide("sk-secret-1")
    out = written(style, fail)
    assert "sk-secret-1" not in out
    assert "Signature" not in out
    assert "https://s3.test/o?[hidden]" in out
    assert "[secret]" in out
    assert "it\\nfailed" in out.replace("\\\\", "\\")


def test_each_line_of_a_traceback_has_its_priority_in_the_journal(written):
    assert all(line.startswith("<3>") for line in written("journal", fail).splitlines())


def test_a_secret_in_a_field_is_hidden(written):
    log.hide("sk-secret-1")
    out = written("json", lambda: LOGGER.info("x", extra={"fields": {"key": "a sk-secret-1"}}))
    assert json.loads(out)["key"] == "a [secret]"


def test_user_info_in_a_url_is_hidden_and_the_rest_stays():
    text = "by http://user:pw@proxy:3128/ to https://api.test/v2/files?limit=5, ok"
    assert log.redacted(text) == "by http://proxy:3128/ to https://api.test/v2/files?[hidden] ok"


def test_a_short_value_is_no_secret():
    log.hide("a")
    assert log.redacted("a cat") == "a cat"


def test_chatty_libraries_speak_from_warnings_on(written):
    def act():
        logging.getLogger("httpx").info("GET https://...")
        logging.getLogger("watchdog.observers").warning("queue")

    assert written("journal", act, level="debug") == "<4>queue\n"


def test_auto_is_text_on_a_terminal_and_json_in_a_container(written):
    def act():
        LOGGER.info("x")

    colourless = {"NO_COLOR": "1"}
    assert written("auto", act, stream=Terminal(), environ=colourless)[8:] == " x\n"
    assert written("auto", act, stream=Terminal()).endswith("\x1b[0m x\n")
    assert written("auto", act, environ={"container": "podman"}).startswith("{")
    assert written("auto", act, environ={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).startswith("{")


def test_auto_is_for_the_journal_only_while_the_stream_is_the_journals(tmp_path):
    with (tmp_path / "out").open("w") as stream:
        status = os.fstat(stream.fileno())
        journal = f"{status.st_dev}:{status.st_ino}"
        log.configure("auto", "info", stream, {"JOURNAL_STREAM": journal})
        LOGGER.info("x")
        log.configure("text", "info", stream, {"JOURNAL_STREAM": "1:2"})
        LOGGER.info("y")
    assert (tmp_path / "out").read_text().startswith("<6>x\n")
    assert " y" in (tmp_path / "out").read_text()


def test_python_warnings_are_logged(written):
    def act():
        logging.getLogger("py.warnings").warning("old")

    assert written("journal", act) == "<4>old\n"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain \xc3\xbc.txt", "plain ü.txt"),
        (b"a\nb\tc", "a\\nb\\tc"),
        (b"\x1b[2J", "\\x1b[2J"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\udcff", "\\xff"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("\u2028", "\\u2028"),
    ],
)
def test_names_are_shown_without_what_could_act_on_a_terminal(name, shown):
    assert printable(name) == shown


def test_the_same_cause_a_thousand_times_is_one_line_and_a_count(written, monkeypatch):
    now = time.monotonic()

    def act():
        for number in range(1000):
            LOGGER.warning(
                "%s: not sent", f"file-{number}", extra=log.fields("failed", cause="no route")
            )
        LOGGER.warning("other: not sent", extra=log.fields("failed", cause="no name"))
        LOGGER.warning("unrelated")
        monkeypatch.setattr(time, "monotonic", lambda: now + 61)
        log.tell_repeats()
        log.tell_repeats()
        LOGGER.warning("file-0: not sent", extra=log.fields("failed", cause="no route"))

    assert written("journal", act).splitlines() == [
        "<4>file-0: not sent",
        "<4>other: not sent",
        "<4>unrelated",
        "<4>999 more like this in 60 s: no route",
        "<4>file-0: not sent",
    ]


def test_the_journal_gets_each_field_whatever_it_holds(monkeypatch, tmp_path):
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal,
        (tmp_path / "out").open("w") as stream,
    ):
        journal.bind(str(tmp_path / "journal"))
        monkeypatch.setattr(log, "JOURNAL_SOCKET", str(tmp_path / "journal"))
        status = os.fstat(stream.fileno())
        log.configure(
            "auto", "info", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        )
        log.hide("sk-secret-1")
        facts = log.fields("uploaded", folder="f", path="a\nPRIORITY=0", bytes=7, key="sk-secret-1")
        LOGGER.error("a\nb %s", "sk-secret-1", extra=facts)
        got = journal.recv(65_536)
        known = {}
        while got:
            name, _, rest = got.partition(b"\n")
            size = int.from_bytes(rest[:8], "little")
            known[name.decode()], got = rest[8 : 8 + size].decode(), rest[9 + size :]
        # Where the journal has gone, the line goes to its stream.
        journal.close()
        (tmp_path / "journal").unlink()
        LOGGER.error("later")
        logging.getLogger().handlers[0].close()
    assert known == {
        "MESSAGE": "a\\nb [secret]",
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "syncd",
        "SYNCD_LOGGER": "syncd.test",
        "SYNCD_EVENT": "uploaded",
        "SYNCD_FOLDER": "f",
        "SYNCD_PATH": "a\\nPRIORITY=0",
        "SYNCD_BYTES": "7",
        "SYNCD_KEY": "[secret]",
    }
    assert (tmp_path / "out").read_text() == "<3>later\n"


@pytest.mark.row(48)
def test_a_stream_that_is_full_or_closed_ends_nothing():
    with open("/dev/full", "w", buffering=1) as full:  # noqa: PTH123
        log.configure("text", "info", full, {})
        LOGGER.info("to a full disk")
        with contextlib.suppress(OSError):
            full.close()
    LOGGER.info("to a closed stream")
