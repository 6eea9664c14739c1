"""`limit`: on a running daemon, across a restart, with a timetable, and without a daemon."""

import json
import os
import time

import pytest

from syncd import heartbeat

KIB = 1024


def limit(place, *words):
    code, out, err = place.call("limit", *words, "--json")
    assert code == 0, err
    return json.loads(out)


def told(place):
    """Return the limit that the daemon's last beat tells."""
    return (heartbeat.read(place.machine.state).bandwidth or {}).get("bytes_per_second")


@pytest.mark.long
@pytest.mark.parametrize("method", ["direct", "presigned"])
def test_a_limit_holds_at_once_and_so_does_its_end(place, method):
    place.machine.settings["SYNCD_UPLOAD__METHOD"] = method
    place.configure()
    with place.daemon() as parts:
        assert limit(place, "2KiB/s", "--for", "2h")["source"] == "command"
        place.machine.write("large.bin", os.urandom(300 * KIB))
        place.machine.until(lambda: any(t.rested > 0.3 for t in parts.uploader.transfers.all()))
        (transfer,) = parts.uploader.transfers.all()
        assert transfer.sent < 20 * KIB
        place.machine.until(lambda: told(place) == 2 * KIB)
        code, out, _ = place.call("status")
        assert code == 0
        assert "2.0 KiB/s until" in out
        assert json.loads(place.call("status", "--json")[1])["bandwidth"]["until"]
        assert place.call("limit")[1].startswith("limit: 2.0 KiB/s until ")

        limit(place, "off")
        place.machine.settles()
        assert limit(place, "configured") == {
            "bytes_per_second": None,
            "source": "configuration",
            "until": None,
        }


@pytest.mark.long
def test_a_daemon_ends_in_time_though_a_transfer_waits_for_hours(place):
    place.machine.settings["SYNCD_UPLOAD__BANDWIDTH"] = "1KiB/s"
    place.configure()
    with place.daemon() as parts:
        place.machine.write("large.bin", os.urandom(300 * KIB))
        place.machine.until(lambda: any(t.rested for t in parts.uploader.transfers.all()))
        began = time.monotonic()
    assert time.monotonic() - began < 8
    assert not place.machine.objects()
    place.machine.settings["SYNCD_UPLOAD__BANDWIDTH"] = "off"
    place.configure()
    with place.daemon():
        place.machine.settles()


def test_without_a_daemon_the_limit_is_kept_for_the_next(place):
    code, out, err = place.call("limit", "2MiB/s", "--for", "2h")
    assert (code, err) == (0, "no daemon is running: the next `syncd run` or `syncd once` obeys\n")
    assert out.startswith("limit: 2.0 MiB/s until ")
    assert limit(place)["bytes_per_second"] == 2 << 20
    with place.daemon() as parts:
        place.machine.until(lambda: parts.bandwidth.in_force.source == "command")
        assert parts.bandwidth.in_force.rate == 2 << 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fast",), "'fast' is not a rate such as 4MiB/s or 500kB/s, or off, or configured"),
        (("10B/s",), "less than 1KiB/s"),
        (("--for", "2h"), "--for needs a rate"),
        (("configured", "--for", "2h"), "--for needs a rate"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(place, words, said):
    code, _, err = place.call("limit", *words)
    assert code == 2
    assert said in err


def test_a_bad_timetable_is_a_configuration_error_that_names_the_part(place):
    place.machine.settings["SYNCD_UPLOAD__BANDWIDTH"] = "Mon-Fri 08:00 1MiB/s, 19:00"
    place.configure()
    code, _, err = place.call("once")
    assert code == 78
    assert "bandwidth" in err
    assert "has the part '19:00'" in err
