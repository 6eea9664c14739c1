import base64

import pytest

from syncd.cli import repair


@pytest.fixture
def asked(monkeypatch):
    """Return the requests that a running daemon would be sent."""
    sent = []

    def perform(_options, _command, request):
        sent.append([base64.b64decode(file["path_b64"]) for file in request["files"]])
        return {"tried": len(sent[-1])}

    monkeypatch.setattr(repair, "perform", perform)
    return sent


def test_retry_takes_of_directories_and_globs_what_waits_and_every_file_that_is_named(
    desk, syncd, asked
):
    for number, path in enumerate((b"sub/synced", b"named", b"x.txt"), start=1):
        desk.sync(path, number)
    for path in (b"sub/failed", b"y.txt", b"sub-other"):
        desk.refuse(path)
    assert syncd("retry", "f/sub", "f/*.txt", "f/named")[0] == 0
    assert asked == [[b"named", b"sub/failed", b"y.txt"]]


def test_retry_tries_nothing_if_one_argument_is_unknown(desk, syncd, asked):
    desk.refuse(b"x")
    code, out, err = syncd("retry", "f/x", "f/nope", "*.nope")
    assert (code, out, asked) == (2, "", [])
    assert "syncd knows no file f/nope, *.nope" in err
