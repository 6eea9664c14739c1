"""A lost ledger is rebuilt by token: nothing sent, nothing doubled, nothing unknown deleted."""

import json
import os
import shutil
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest

from syncd import commands
from syncd.components import opened
from syncd.config import loading as configuration
from syncd.emulator import Emulator
from syncd.exceptions import ForeignStateError, StateError
from syncd.files_api import NewFile, RateLimitedError, token_of
from syncd.repair.adopt import AdoptError
from syncd.state import holds, manifest, rollback

OURS, THEIRS = "our-key", "their-key"
ORGANIZATIONS = {
    OURS: "aaaaaaaa-0000-4000-8000-000000000001",
    "rotated-key": "aaaaaaaa-0000-4000-8000-000000000001",
    THEIRS: "bbbbbbbb-0000-4000-8000-000000000002",
}
NAMES = [b"a.txt", b"sub/b.txt", b"twin/b.txt", b"caf\xe9.bin", b"new\nline", b"n" * 251 + b".txt"]


class Place:
    """Two folders with equal content, and the service."""

    def __init__(self, home, emulator):
        self.home, self.emulator = home, emulator
        for folder in ("f", "g"):
            for name in NAMES:
                path = home / folder / os.fsdecode(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"content of " + name)
                os.utime(path, (1, 1))

    @contextmanager
    def parts(self, key=OURS):
        environ = {
            "AYMARA_AI_API_KEY": key,
            "SYNCD_API__BASE_URL": self.emulator.url,
            "SYNCD_STATE__DIRECTORY": str(self.home / "state"),
            "SYNCD_UPLOAD__RESEND_AFTER_SECONDS": "1",
            "SYNCD_FOLDERS": f'[{{"path": "{self.home}/f", "settle_seconds": 0}},'
            f' {{"path": "{self.home}/g", "settle_seconds": 0}}]',
        }
        config = configuration.load(config=None, environ=environ, working_directory=self.home)
        with opened(config) as parts:
            yield parts

    def sync(self, parts):
        for _ in range(3):
            parts.watch.scan_all()
            parts.watch.look_due()
            parts.reconciler.step()
            parts.uploader.start()
            parts.uploader.step()
            parts.uploader.stop(30)
            parts.confirmer.step()
            parts.deleter.step()

    def command(self, parts, name, **arguments):
        *_, result = commands.COMMANDS[name](parts, arguments)
        return result

    def lose(self):
        for part in (self.home / "state").glob("state.db*"):
            part.unlink()

    def mutations(self):
        with urlopen(f"{self.emulator.url}/_emulator/requests", timeout=5) as answer:
            every = [json.loads(line) for line in answer]
        return [r["method"] for r in every if r["method"] in ("POST", "PUT", "DELETE")]

    def manifest(self, parts):
        return {
            (row["folder"], row["path"]): (row["status"], row["file_uuid"], row["sha256"])
            for row in parts.store.read(lambda db: list(manifest.entries(db)))
        }


@pytest.fixture
def place(tmp_path):
    data = tmp_path / "emulator"
    with Emulator(data=data, api_keys=ORGANIZATIONS) as emulator:
        yield Place(tmp_path, emulator)


@pytest.fixture
def synced(place):
    with place.parts() as parts:
        place.sync(parts)
        place.before = place.manifest(parts)
        place.instance = parts.store.instance
    assert {status for status, *_ in place.before.values()} == {"synced"}
    assert len(place.before) == 2 * len(NAMES)
    return place


@pytest.mark.row(27)
def test_a_lost_ledger_is_rebuilt_and_not_a_byte_is_sent(synced):
    sent = synced.mutations()
    synced.lose()
    with synced.parts() as parts:
        synced.sync(parts)
        assert synced.mutations() == sent, "held"
        result = synced.command(parts, "adopt")
        assert (result["live"], result["unknown"], result["second"]) == (2 * len(NAMES), 0, 0)
        assert parts.store.read(holds.open_holds) == []
        synced.sync(parts)
        assert synced.manifest(parts) == synced.before
        assert synced.command(parts, "verify")["findings"] == []
    assert synced.mutations() == sent


@pytest.mark.parametrize("name", ["adopt", "verify"])
def test_a_wait_that_the_service_asks_a_command_for_holds_for_all_requests(synced, name):
    with synced.parts() as parts:
        assert parts.gate.seconds_resting() == 0.0
        rule = {"match": "GET /v2/files", "action": {"status": 429, "retry_after": 600}}
        url = f"{synced.emulator.url}/_emulator/faults"
        urlopen(Request(url, json.dumps([rule]).encode(), method="PUT"), timeout=5).close()
        with pytest.raises(RateLimitedError):
            synced.command(parts, name)
        assert parts.gate.seconds_resting() > 500.0
    with synced.parts() as parts:
        assert parts.gate.seconds_resting() > 500.0, "a restart forgets it"


@pytest.mark.long
@pytest.mark.row(27)
@pytest.mark.parametrize("cut", [1, 3, 7, 12])
def test_an_adoption_that_was_cut_short_is_repeated(synced, monkeypatch, cut):
    sent = synced.mutations()
    synced.lose()
    with synced.parts() as parts:
        write, left = parts.store.write, [cut]

        def cut_short(verb, *args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise StateError("cut")
            return write(verb, *args, **kwargs)

        parts.adopter.store = _Cut(parts.store, cut_short)
        with pytest.raises(StateError, match="cut"):
            synced.command(parts, "adopt")
    with synced.parts() as parts:
        assert parts.store.read(holds.is_ledger_incomplete)
        synced.command(parts, "adopt")
        synced.sync(parts)
        assert synced.manifest(parts) == synced.before
    assert synced.mutations() == sent


class _Cut:
    """A store whose writes are ours."""

    def __init__(self, store, write):
        self._store, self.write = store, write

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.mark.long
@pytest.mark.row(27)
def test_an_instance_whose_whole_state_was_lost_is_taken_up_by_its_id(synced):
    sent = synced.mutations()
    synced.lose()
    (synced.home / "state" / "instance.json").unlink()
    with synced.parts() as parts:
        assert parts.store.instance != synced.instance
        assert synced.command(parts, "adopt", instance=synced.instance)["live"] == 2 * len(NAMES)
    with synced.parts() as parts:
        synced.sync(parts)
        assert synced.manifest(parts) == synced.before
    assert synced.mutations() == sent


@pytest.mark.long
@pytest.mark.row(27)
def test_what_changed_meanwhile_is_sent_and_what_is_gone_is_kept_as_unknown(synced):
    synced.lose()
    (synced.home / "f" / "a.txt").write_bytes(b"changed")
    (synced.home / "g" / "a.txt").unlink()
    with synced.parts() as parts:
        result = synced.command(parts, "adopt")
        assert (result["live"], result["previous"], result["unknown"]) == (10, 1, 1)
        synced.sync(parts)
        old = synced.before["f", "a.txt"][1], synced.before["g", "a.txt"][1]
        assert synced.manifest(parts)["f", "a.txt"][0] == "synced"
        findings = synced.command(parts, "verify")["findings"]
        assert [(f["kind"], f["file_uuid"]) for f in findings] == [("foreign", old[1])]
    assert synced.mutations().count("DELETE") == 0


@pytest.mark.long
def test_what_an_older_ledger_was_to_delete_is_not_taken_up_by_a_rename(synced):
    with synced.parts() as parts:
        _, uuid, _ = synced.manifest(parts)["f", "a.txt"]
        parts.store.write(
            lambda db: db.conn.execute(
                "UPDATE copies SET status = 'retiring' WHERE file_uuid = ?", (uuid,)
            )
        )
        # The ledger that was put back does not know that it was deleted since.
        parts.clients[1].delete(uuid)
        (synced.home / "f" / "a.txt").rename(synced.home / "f" / "moved.txt")
        synced.command(parts, "adopt")
        synced.sync(parts)
        status, moved, _ = synced.manifest(parts)["f", "moved.txt"]
        assert (status, moved != uuid) == ("synced", True)


@pytest.mark.long
def test_a_folder_that_is_not_there_refuses_adoption(synced):
    synced.lose()
    (synced.home / "g").rename(synced.home / "away")
    with synced.parts() as parts:
        with pytest.raises(AdoptError, match="folder g cannot be compared"):
            synced.command(parts, "adopt")
        assert parts.store.read(holds.is_ledger_incomplete)


@pytest.mark.long
@pytest.mark.row(38)
@pytest.mark.parametrize("command", ["adopt", "verify"])
def test_under_a_key_of_another_organization_nothing_reads_as_gone(synced, command):
    with synced.parts(THEIRS) as parts:
        with pytest.raises(AdoptError, match="another organization"):
            synced.command(parts, command)
        synced.sync(parts)
        assert {word for word, *_ in synced.manifest(parts).values()} == {"synced"}
    assert "DELETE" not in synced.mutations()


def wipe(place):
    """Delete all that is remote, as its owner may."""
    with place.parts() as parts:
        for _, uuid, _ in place.before.values():
            parts.clients[0].delete(uuid)


@pytest.mark.long
@pytest.mark.row(27)
@pytest.mark.parametrize("is_empty", [True, False])
def test_a_lost_ledger_is_not_rebuilt_from_another_organization(synced, is_empty):
    if not is_empty:
        with synced.parts(THEIRS) as parts:
            parts.clients[0].create([NewFile(local_file_path="theirs")])
    synced.lose()
    sent = synced.mutations()
    with synced.parts(THEIRS) as parts:
        with pytest.raises(AdoptError if is_empty else ForeignStateError, match="organization"):
            synced.command(parts, "adopt")
        if is_empty:
            synced.sync(parts)
        assert parts.store.read(holds.is_ledger_incomplete)
    assert synced.mutations() == sent
    with synced.parts() as parts:
        assert synced.command(parts, "adopt")["live"] == 2 * len(NAMES)


@pytest.mark.long
@pytest.mark.row(27)
def test_a_lost_ledger_is_rebuilt_where_nothing_is_left_remotely_and_the_key_is_known(synced):
    wipe(synced)
    synced.lose()
    with synced.parts("rotated-key") as parts, pytest.raises(AdoptError, match="any one file"):
        synced.command(parts, "adopt")
    with synced.parts() as parts:
        assert synced.command(parts, "adopt")["live"] == 0
        synced.sync(parts)
        assert {word for word, *_ in synced.manifest(parts).values()} == {"synced"}


@pytest.mark.long
@pytest.mark.row(38)
def test_a_key_that_shows_another_organization_ends_syncd_before_anything_is_sent(synced):
    with synced.parts(THEIRS) as parts:
        parts.clients[0].create([NewFile(local_file_path="theirs")])
    sent = synced.mutations()
    (synced.home / "f" / "new").write_bytes(b"new")
    with synced.parts(THEIRS) as parts, pytest.raises(ForeignStateError, match="belongs to"):
        parts.watch.scan_all()
        parts.uploader.step()
        parts.reconciler.step()
    assert synced.mutations() == sent


@pytest.mark.long
def test_a_rotated_key_of_the_same_organization_goes_on_after_one_list_call(synced):
    with synced.parts("rotated-key") as parts:
        assert not parts.gate.organization_known
        parts.reconciler.step()
        assert parts.gate.may_send()
    with synced.parts("rotated-key") as parts:
        assert parts.gate.organization_known, "a known key costs no request"


@pytest.mark.long
def test_an_empty_listing_under_a_new_key_holds_and_is_not_asked_for_in_a_loop(synced):
    with synced.parts(THEIRS) as parts:
        for _ in range(10):
            parts.reconciler.step()
        assert [h.reason for h in parts.store.read(holds.open_holds)] == ["organization_unproven"]
        assert not parts.gate.may_send()


# A state that is put back whole takes its evidence along


def copied(place):
    shutil.copytree(place.home / "state", place.home / "copy")


def put_back(place):
    shutil.rmtree(place.home / "state")
    shutil.copytree(place.home / "copy", place.home / "state")


def answered(place, *rules):
    url = f"{place.emulator.url}/_emulator/faults"
    urlopen(Request(url, json.dumps(rules).encode(), method="PUT"), timeout=5).close()


@pytest.mark.long
@pytest.mark.row(67)
@pytest.mark.parametrize("what", ["sent", "replaced"])
def test_a_state_that_was_put_back_is_noticed_before_anything_is_sent_or_deleted(synced, what):
    copied(synced)
    new = synced.home / "f" / ("new.txt" if what == "sent" else "a.txt")
    new.write_bytes(b"after the copy was made")
    with synced.parts() as parts:
        synced.sync(parts)
    put_back(synced)
    sent = synced.mutations()
    (synced.home / "g" / "a.txt").unlink()
    with synced.parts() as parts:
        assert not parts.gate.may_send()
        synced.sync(parts)
        assert parts.store.read(holds.is_ledger_incomplete)
        assert synced.mutations() == sent
        assert synced.command(parts, "adopt")["live"] == 1
        synced.sync(parts)
        assert parts.store.read(holds.open_holds) == []
        assert synced.manifest(parts)["f", new.name][0] == "synced"
    assert "POST" not in synced.mutations()[len(sent) :], "nothing is sent twice"


@pytest.mark.row(67)
def test_a_recent_live_copy_that_is_gone_shows_that_the_state_was_put_back(synced):
    with synced.parts() as parts:
        parts.clients[0].delete(synced.before["f", "a.txt"][1])
    with synced.parts() as parts:
        synced.sync(parts)
        assert parts.store.read(holds.is_ledger_incomplete)


@pytest.mark.long
@pytest.mark.row(67)
def test_a_state_that_was_not_put_back_goes_on_after_one_look(synced):
    with synced.parts() as parts:
        parts.reconciler.step()
        assert parts.gate.may_send()
        assert not parts.store.read(holds.is_ledger_incomplete)


@pytest.mark.long
@pytest.mark.row(63)
def test_a_later_attempt_that_somebody_made_up_is_no_evidence(synced):
    with synced.parts() as parts:
        client = parts.clients[0]
        name = client.get(synced.before["f", "a.txt"][1]).original_file_url
        token = token_of(name)
        head, path, attempt, mac = token.rsplit("-", 3)
        forged = f"a.{head}-{path}-{int(attempt, 16) + 10**9:012x}-{mac}.txt"
        client.create([NewFile(local_file_path=forged)])
    with synced.parts() as parts:
        parts.reconciler.step()
        assert not parts.store.read(holds.is_ledger_incomplete)


@pytest.mark.long
@pytest.mark.row(67)
def test_a_key_that_may_not_list_goes_on_and_doctor_can_say_so(synced):
    answered(synced, {"match": "GET /v2/files", "action": {"status": 403}})
    with synced.parts() as parts:
        parts.reconciler.step()
        assert parts.gate.checked
        assert "403" in parts.store.read(rollback.unchecked)
    answered(synced)
    with synced.parts() as parts:
        parts.reconciler.step()
        assert parts.store.read(rollback.unchecked) == ""


@pytest.mark.long
@pytest.mark.row(67)
def test_nothing_is_sent_before_a_service_that_is_down_could_be_asked(synced):
    answered(synced, {"match": "GET /v2/files", "action": {"status": 500}})
    with synced.parts() as parts:
        parts.reconciler.step()
        assert not parts.gate.may_send()
        answered(synced)
        parts.reconciler.step()
        assert parts.gate.may_send()
