"""A state belongs to a service once something may be stored there, and not before."""

import json
from contextlib import closing
from urllib.request import Request, urlopen

import pytest

from syncd import cli
from syncd.emulator import Emulator
from syncd.files_api import FilesClient, NewFile
from syncd.signals import Signals

THEIRS = "22222222-2222-4222-8222-222222222222"
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def once(machine, monkeypatch, capsys):
    """Make one pass within this process, against a service; return its exit code and its words."""
    monkeypatch.setattr(Signals, "listen", lambda _: None)
    (folder,) = json.loads(machine.settings["SYNCD_FOLDERS"])
    machine.settings["SYNCD_FOLDERS"] = json.dumps([folder | {"settle_seconds": 0}])
    for name, value in machine.settings.items():
        monkeypatch.setenv(name, value)

    def run(url=machine.emulator.url):
        monkeypatch.setenv("SYNCD_API__BASE_URL", url)
        code = cli.call(["once"])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture
def other(tmp_path):
    """Another service, with a colleague's object in another organization."""
    with Emulator(data=tmp_path / "other", api_keys={"e2e-key": THEIRS}) as running:
        with closing(FilesClient(base_url=running.url, api_key="e2e-key")) as client:
            client.create([NewFile(local_file_path="a colleague's")])
        yield running


def ask(emulator, path):
    with urlopen(f"{emulator.url}/_emulator/{path}", timeout=10) as answer:
        return [json.loads(line) for line in answer]


def refuse(emulator, status):
    rules = [{"match": "POST /v2/files*", "times": 99, "action": {"status": status}}]
    headers = {"content-type": "application/json"}
    url = f"{emulator.url}/_emulator/faults"
    urlopen(Request(url, json.dumps(rules).encode(), headers, method="PUT"), timeout=10).close()


def states(emulator):
    return [found["state"] for found in ask(emulator, "objects")]


@pytest.mark.long
def test_a_service_that_was_only_tried_does_not_keep_the_state(machine, other, once):
    machine.write("a", b"a")
    assert once(NOBODY)[0] == 1
    refuse(other, 404)
    assert once(other.url)[0] == 1
    code, said = once()
    assert (code, said.splitlines()[0]) == (0, "1 synced, 0 waiting, 0 failed")
    assert states(other) == ["reserved"]


@pytest.mark.long
def test_a_service_that_stored_something_keeps_the_state(machine, other, once):
    machine.write("a", b"a")
    assert once()[0] == 0
    (machine.drop / "a").unlink()
    machine.write("b", b"b")
    for url in (other.url, NOBODY):
        code, said = once(url)
        assert (code, f"belongs to base url {machine.emulator.url}" in said) == (78, True)
    assert states(other) == ["reserved"]
    assert len(machine.objects()) == 1
