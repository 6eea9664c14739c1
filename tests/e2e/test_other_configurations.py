"""Commands under another configuration than the daemon's: only `run` and `once` apply it."""

import json
from contextlib import closing
from urllib.request import Request, urlopen

import pytest

from syncd.state.database import schema
from tests.e2e.conftest import KEY

pytestmark = pytest.mark.long


@pytest.fixture
def site(place, tmp_path):
    """Two folders with a synced file each, and a configuration that has only one of them."""
    (tmp_path / "other").mkdir()
    (folder,) = json.loads(place.machine.settings["SYNCD_FOLDERS"])
    both = [folder | {"name": "drop"}, folder | {"name": "other", "path": str(tmp_path / "other")}]
    place.both = json.dumps(both)
    place.machine.settings["SYNCD_FOLDERS"] = place.both
    place.configure()
    place.machine.write("one.txt", b"1")
    (tmp_path / "other" / "two.txt").write_bytes(b"2")
    assert place.call("once")[0] == 0
    place.machine.settings["SYNCD_FOLDERS"] = json.dumps(both[:1])
    place.configure()
    return place


def tables(site):
    """What the state holds of folders, files and copies."""
    with closing(schema.open_readonly(site.machine.state / schema.FILE_NAME)) as db:
        return {
            name: [dict(row) for row in db.conn.execute(f"SELECT * FROM {name}")]
            for name in ("folders", "parts", "files", "copies", "holds", "history", "hooks")
        }


def of_other(site):
    found = tables(site)
    rows = [row for row in found["files"] if row["folder"] == "other"]
    ids = [row["id"] for row in rows]
    return rows, [row for row in found["copies"] if row["file_id"] in ids]


@pytest.mark.parametrize(
    "words",
    [
        ("verify",),
        ("status",),
        ("ls",),
        ("ls", "other"),
        ("why", "one.txt"),
        ("log",),
        ("deletes", "list"),
        ("retry",),
        ("retry", "other/two.txt"),
        ("once", "--dry-run"),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_a_command_leaves_a_folder_alone_that_its_configuration_lacks(site, words):
    before = tables(site)
    site.call(*words)
    assert tables(site) == before


def test_adopt_and_a_pass_over_one_directory_leave_another_folder_alone(site):
    before = of_other(site)
    assert site.call("adopt")[0] == 0
    assert site.call("once", str(site.machine.drop))[0] == 0
    assert of_other(site) == before
    site.machine.settings["SYNCD_FOLDERS"] = site.both
    site.configure()
    sent = len(site.machine.mutations())
    assert site.call("once")[0] == 0
    assert len(site.machine.mutations()) == sent


def test_verify_tells_what_is_gone_of_such_a_folder_and_changes_nothing(site):
    (uuid,) = (u for u, o in site.machine.objects().items() if "two" in o["local_file_path"])
    headers = {"Authorization": f"Bearer {KEY}", "x-api-key": KEY}
    address = f"{site.machine.emulator.url}/v2/files/{uuid}"
    urlopen(Request(address, method="DELETE", headers=headers), timeout=10).close()
    before = tables(site)
    code, out, _ = site.call("verify", "--json")
    assert (code, json.loads(out)["counts"]) == (1, {"gone": 1})
    assert tables(site) == before
