import pytest

from syncd.cli import once as command
from syncd.once import Passed, PassProgress
from syncd.state.past import Did


@pytest.mark.parametrize(
    ("stops", "scope", "words"),
    [
        ("sending", "*", "sending of everything"),
        ("deletions", "*", "deletions of everything"),
        ("folder", "*", "everything"),
        ("folder", "drop", "everything in drop"),
        ("deletions", "drop", "deletions of drop"),
        ("sending", "default", "sending to the default workspace"),
    ],
)
def test_a_pass_says_in_words_what_is_held(stops, scope, words):
    hold = {"stops": stops, "scope": scope, "affects": 2, "reason": "r: m"}
    progress = PassProgress(**dict.fromkeys(("synced", "waiting", "failed", "held"), 0))
    passed = Passed(1, "something is held", progress, Did(0, 0, 0, 0), [], [hold])
    assert f"held: {words}, 2 files: r: m" in list(command._summary(passed))
