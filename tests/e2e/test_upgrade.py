"""Work that syncd 0.1.0 left when it was killed goes on under this program.

The fixture beneath `upgrade/` was made by 0.1.0 itself, see `upgrade/make.py`: two folders with 28
live copies, a video in processing, an upload in doubt that had arrived, and a hold on the deletion
of 22 files. It is loaded as if 0.1.0 had been killed an hour ago, on this machine's disk.
"""

import json
import time
from urllib.request import Request, urlopen

import pytest
from upgrade.contents import KEPT, KEY, TAKEN_AWAY
from upgrade.loading import load_folders, load_objects, load_state


@pytest.fixture
def upgraded(machine, emulator):
    """The machine on which 0.1.0 was killed."""
    load_folders(machine.tmp_path)
    later = load_state(machine.tmp_path, machine.state, emulator.url)
    emulator.stop()
    load_objects(machine.tmp_path / "emulator", later)
    emulator.start()
    timing = {"settle_seconds": 0.3, "grace_seconds": 0.6, "rescan_seconds": 5}
    machine.settings["SYNCD_FOLDERS"] = json.dumps(
        [{"path": f"{machine.tmp_path}/{name}", "name": name} | timing for name in ("one", "many")]
    )
    return machine


def copy_a_colleague_makes(machine, name):
    """Upload something else under the remote name of ours; return its uuid."""
    boundary, body = "b0undary", b"the colleague's own version"
    part = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{name}"\r\n'
        f"content-type: text/plain\r\n\r\n"
    ).encode()
    request = Request(
        f"{machine.emulator.url}/v2/files/-/uploads",
        part + body + f"\r\n--{boundary}--\r\n".encode(),
        {"x-api-key": KEY, "content-type": f"multipart/form-data; boundary={boundary}"},
    )
    with urlopen(request, timeout=10) as answer:
        return json.load(answer)["file_uuid"]


def goes_on(machine):
    """Start this program, and wait until it has settled what 0.1.0 left open."""
    machine.start()

    def is_settled():
        rows = machine.manifest()
        return all(rows[name]["status"] == "synced" for name in (*KEPT, "doubt.txt", "clip.mp4"))

    machine.until(is_settled)


@pytest.mark.long
@pytest.mark.row(28)
def test_a_state_of_the_first_version_goes_on_without_sending_or_deleting_twice(upgraded):
    (doubt,) = (o for o in upgraded.ask("objects") if "doubt" in o["local_file_path"])
    copy_a_colleague_makes(upgraded, doubt["local_file_path"])
    sent, before = len(upgraded.mutations()), set(upgraded.objects())
    goes_on(upgraded)
    rows = upgraded.manifest()
    assert rows["doubt.txt"]["file_uuid"] == doubt["file_uuid"]
    assert rows["clip.mp4"]["frame_count"] == 2
    assert upgraded.holds() == {("deletions", "many_missing")}
    time.sleep(1.5)
    assert len(upgraded.mutations()) == sent
    assert set(upgraded.objects()) == before


@pytest.mark.long
@pytest.mark.row(28)
def test_a_hold_of_the_first_version_is_approved_and_deletes_what_it_names(upgraded):
    sent, before = len(upgraded.mutations()), set(upgraded.objects())
    goes_on(upgraded)
    rows = upgraded.manifest()
    named = {rows[name]["file_uuid"] for name in TAKEN_AWAY}
    assert upgraded.command("deletes", "approve", "--yes", "1").returncode == 0
    upgraded.until(lambda: set(upgraded.objects()) == before - named, 30)
    requests = upgraded.mutations()[sent:]
    assert [r["method"] for r in requests] == ["DELETE"] * len(TAKEN_AWAY)
