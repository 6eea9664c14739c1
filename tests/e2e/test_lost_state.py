"""What was lost with the state is rebuilt from the service, by the daemon that misses it."""

import json
import signal

import pytest


@pytest.mark.long
@pytest.mark.row(27)
def test_a_running_daemon_without_its_ledger_sends_nothing_until_adopt_has_rebuilt_it(
    machine, video
):
    machine.write("a.txt", b"first")
    machine.write("deep/clip.mp4", video)
    machine.write("old.txt", b"to be changed")
    machine.start()
    machine.settles()
    machine.stop(signal.SIGKILL)
    for part in machine.state.glob("state.db*"):
        part.unlink()
    machine.write("old.txt", b"changed meanwhile")
    before = len(machine.mutations())
    machine.start()
    machine.until(lambda: ("sending", "state_lost") in machine.holds())
    machine.until(lambda: machine.status_of("old.txt") == "held")
    assert len(machine.mutations()) == before

    adopted = json.loads(machine.command("adopt", "--json").stdout)

    assert (adopted["live"], adopted["previous"], adopted["unknown"]) == (2, 1, 0)
    machine.settles()
    assert machine.holds() == set()
    # The changed file went up, and its earlier content went away: nothing else was sent.
    methods = sorted(request["method"] for request in machine.mutations()[before:])
    assert methods == ["DELETE", "POST"]
    verified = machine.command("verify", "--json")
    assert (verified.returncode, json.loads(verified.stdout)["findings"]) == (0, [])


def test_retry_reaches_the_running_daemon(machine):
    machine.faults({"match": "POST /v2/files*", "times": 100, "action": {"status": 422}})
    machine.write("refused.txt", b"no")
    machine.start()
    machine.until(lambda: machine.status_of("refused.txt") == "failed")
    machine.faults()
    assert json.loads(machine.command("retry", "refused.txt", "--json").stdout) == {"tried": 1}
    machine.settles()
