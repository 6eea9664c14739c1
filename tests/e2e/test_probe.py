"""`syncd doctor --probe`, as a user calls it."""

import json
import signal
import subprocess
import sys

import pytest

# Several processes start here, which a busy machine takes its time for.
pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@pytest.mark.parametrize("emulator", ["stranger", "whole-path"], indirect=True)
@pytest.mark.parametrize("daemon_runs", [False, True])
def test_the_probe_tells_what_the_service_does_and_the_first_file_is_sent_accordingly(
    machine, emulator, daemon_runs
):
    if daemon_runs:
        machine.start()
    said = machine.command("doctor", "--probe")
    assert said.returncode == 0, said.stdout + said.stderr
    # One line may be folded.
    text = " ".join(said.stdout.split())
    echoes = emulator.personality.echo == "path"
    assert ("a sent name comes back whole" if echoes else "does not come back") in text
    # Its own four objects show neither.
    assert "open order: not checked: 4 files are too few" in text
    assert "open pages: not checked: 4 files are too few" in text
    assert f"a second DELETE is answered with {404 if echoes else 204}" in text
    assert machine.objects() == machine.objects("reserved") == {}
    sent = len(machine.mutations())
    machine.write("first.txt", b"first")
    if not daemon_runs:
        machine.start()
    machine.settles()
    (first, *_) = machine.mutations()[sent:]
    # Without the probe, the first small file is sent direct to learn it.
    assert first["path"] == ("/v2/files/-/uploads" if echoes else "/v2/files")


def test_the_probe_is_not_made_with_a_key_that_is_refused(machine):
    machine.settings["AYMARA_AI_API_KEY"] = "wrong"
    said = machine.command("doctor", "--probe", "--json")
    assert said.returncode == 77
    last = json.loads(said.stdout)["checks"][-1]
    assert (last["name"], last["text"]) == ("probe", "not made")
    assert not machine.mutations()


def test_the_probe_that_is_interrupted_deletes_what_it_made(machine):
    machine.faults({"match": "GET /v2/files/{file_uuid}/status", "action": {"delay": 5.0}})
    # A shell's background job ignores the signal, and so would its children.
    heed = (
        "import signal, syncd.cli; signal.signal(2, signal.default_int_handler); syncd.cli.main()"
    )
    probing = subprocess.Popen(
        [sys.executable, "-c", heed, "doctor", "--probe"],
        env=machine.environment,
        cwd=machine.tmp_path,
        stdout=subprocess.DEVNULL,
    )
    machine.until(lambda: len(machine.objects()) == 4, 60)
    probing.send_signal(signal.SIGINT)
    assert probing.wait(60) != 0
    assert len(machine.objects("deleted")) == 4
    assert not machine.objects()
