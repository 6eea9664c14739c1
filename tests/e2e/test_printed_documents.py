"""Commands print with --json what their schemas say: `place.call` validates each document."""

import json
import shutil
from urllib.request import Request, urlopen

import pytest

from tests import schemas
from tests.e2e.conftest import KEY

pytestmark = pytest.mark.long

REFUSAL = {"match": "POST /v2/files/-/uploads", "every": 1, "action": {"status": 413}}


def ask(place, *words, code=0):
    """Run a command with --json; return its documents."""
    found, out, err = place.call(*words, "--json")
    assert found == code, (out, err)
    try:
        return json.loads(out)
    except ValueError:
        return [json.loads(line) for line in out.splitlines()]


def lose_remotely(place, name):
    (uuid,) = (u for u, o in place.machine.objects().items() if name in o["local_file_path"])
    headers = {"Authorization": f"Bearer {KEY}", "x-api-key": KEY}
    address = f"{place.machine.emulator.url}/v2/files/{uuid}"
    urlopen(Request(address, method="DELETE", headers=headers), timeout=10).close()


def test_passes_and_what_they_would_do(place):
    place.machine.settings["SYNCD_UPLOAD__METHOD"] = "direct"
    place.folder(grace_seconds=0.1, hold_files=1, hold_percent=1)
    gone = [place.machine.write(f"gone-{number}.txt", b"gone %d" % number) for number in range(3)]
    changes = place.machine.write("changes.txt", b"old")
    assert ask(place, "once")["sent"] == 4
    for path in gone:
        path.unlink()
    changes.write_bytes(b"new content")
    place.machine.write("new.txt", b"n")
    would = ask(place, "once", "--dry-run", code=1)
    assert (would["send"]["files"], would["replace"]["files"]) == (1, 1)
    assert would["holds"]
    assert ask(place, "once", "-n", code=1).keys() == would.keys()
    place.machine.faults(REFUSAL)
    passed = ask(place, "once", "--wait-deletions", code=1)
    assert passed["failures"]
    assert passed["holds"]
    assert ask(place, "retry", "--failed")["tried"] > 0
    assert ask(place, "retry", "new.txt")["tried"] in (0, 1)
    for words in (("approve", "--yes"), ("reject",)):
        assert ask(place, "deletes", *words, "drop")["holds"][0]["files"] == 3
    assert ask(place, "deletes", "list") is not None
    place.machine.faults()
    assert {line["event"] for line in ask(place, "log")} >= {"synced", "held", "rejected"}


def test_pauses_and_limits(place):
    for words in (("limit",), ("limit", "2MiB/s"), ("limit", "off", "--for", "1h")):
        ask(place, *words)
    assert ask(place, "limit", "configured")["source"] == "configuration"
    place.machine.settings["SYNCD_UPLOAD__BANDWIDTH"] = "08:00 1MiB/s, 19:00 off"
    place.configure()
    assert ask(place, "limit")["source"] == "timetable"
    ask(place, "pause")
    assert len(ask(place, "pause", "drop", "--for", "1h")["paused"]) == 2
    assert ask(place, "status", code=1)["paused"], "no daemon runs"
    assert ask(place, "resume")["resumed"] == [None, "drop"]
    assert ask(place, "resume")["resumed"] == []
    assert [line["event"] for line in ask(place, "log")].count("limited") == 3


def test_settings_right_and_wrong(place, monkeypatch):
    assert ask(place, "config", "check")["valid"]
    assert ask(place, "config", "show")
    monkeypatch.setenv("SYNCD_UPLOAD__BANDWIDTH", "soon")
    assert ask(place, "config", "check", code=78)["problems"]
    assert ask(place, "config", "show", code=78)


def test_comparing_and_adopting(place):
    for name in ("one.txt", "two.txt", "caf\udce9.txt"):
        place.machine.write(name, name.encode(errors="surrogateescape"))
    place.call("once")
    assert ask(place, "verify")["findings"] == []
    lose_remotely(place, "two")
    assert ask(place, "verify", code=1)["counts"] == {"gone": 1}
    assert ask(place, "adopt")["known"] == 2
    shutil.rmtree(place.machine.state)
    assert ask(place, "adopt", "--new")["new"]
    assert ask(place, "adopt", "--check")["other_instances"]
    instance = next(iter(ask(place, "adopt")["other_instances"]))
    shutil.rmtree(place.machine.state)
    assert ask(place, "adopt", "--instance", instance, "--yes")["live"] == 2
    place.machine.write("one.txt", b"newer content")
    assert place.call("once")[0] == 0
    assert ask(place, "verify")["kept"]
    assert any("path_b64" in line for line in ask(place, "log"))
    assert schemas.validated >= {"adopt", "adopt --new", "verify"}
