"""A lost ledger is rebuilt from the listing: no bytes are sent, nothing is deleted blindly."""

import os
import tempfile
from contextlib import closing
from dataclasses import replace
from hashlib import sha256

import pytest

from syncd.disk import Fingerprint
from syncd.files_api import FilesApiError, ForbiddenError, Listing, NewFile, UploadSource
from syncd.repair.adopt import Adopter, AdoptError
from syncd.repair.verify import Verifier
from syncd.state import attempts, copies, holds, observations, tokens
from syncd.state.database.store import Store
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.observations import Observation, Seen, Settling
from syncd.state.planner import Policy
from syncd.workers.organization_check import OrganizationCheck
from tests import schemas


@pytest.fixture
def lost(shop, tmp_path):
    """Take the shop's ledger away, and return a shop over an empty one with the same files."""

    def lose(*, instance_file=True, quiet_seconds=None):
        names = sorted(
            str(path.relative_to(shop.root)) for path in shop.root.rglob("*") if path.is_file()
        )
        shop.store.close()
        for part in shop.store.directory.glob("state.db*"):
            part.unlink()
        if not instance_file:
            (shop.store.directory / "instance.json").unlink()
        store = Store(shop.store.directory)
        store.open(shop.now)
        again = type(shop)(store, tmp_path, shop.emulator)
        again.now = shop.now
        for name in names:
            if quiet_seconds is None:
                again.notice(name)
            else:
                settle(again, name, quiet_seconds)
        shops.append(again)
        return again

    shops = []
    yield lose
    for again in shops:
        with closing(again.client):
            again.store.close()


def adopter(shop, **changes):
    organization_check = OrganizationCheck(
        store=shop.store, client=shop.client, gate=shop.gate, mark="mark", clock=shop.clock
    )
    values = {
        "store": shop.store,
        "ledger": shop.ledger,
        "client": shop.client,
        "organization_check": organization_check,
        "policies": shop.policies,
        "roots": {"f": os.fsencode(shop.root)},
        "clock": shop.clock,
    }
    return Adopter(**values | changes)


def adopt(shop, **arguments):
    return list(adopter(shop).adopt(**arguments))[-1]


def mutations(shop):
    return [r for r in shop.ask("requests") if r["method"] in ("POST", "PUT", "DELETE")]


def work(shop):
    """Let every stage do what is due, until nothing is."""
    for _ in range(3):
        shop.reconciler.step()
        shop.upload()
        shop.poller.step()
        shop.deleter.step()
        shop.now += 130


@pytest.mark.row(27)
@pytest.mark.parametrize("echo", ["name", "path"])
def roll_back(shop):
    """Have the ledger held as one that was put back from a backup."""
    shop.store.write(
        lambda db: holds.place(
            db,
            stops="sending",
            scope=holds.EVERYWHERE,
            reason=holds.STATE_LOST,
            message="an older database was put back",
            now=shop.now,
        )
    )


@pytest.mark.long
def test_every_file_gets_its_own_object_back_and_no_byte_is_sent(shop, lost, echo):
    names = ["a.txt", "b", "twice 1", "twice 2", "wei\udcdf%20.md", "é" * 120 + ".bin"]
    contents = {name: b"equal" if "twice" in name else os.fsencode(name) for name in names}
    for name, content in contents.items():
        shop.drop(name, content)
    shop.upload()
    before, requests = {n: shop.copy(n).file_uuid for n in names}, len(mutations(shop))
    again = lost()
    assert holds.STATE_LOST in {reason for _, reason in again.holds()}
    work(again)
    assert len(mutations(again)) == requests, "nothing is sent or deleted before"

    told = adopt(again)

    assert (told["live"], told["second"], told["previous"], told["unknown"]) == (6, 0, 0, 0)
    assert {n: again.copy(n).file_uuid for n in names} == before
    work(again)
    assert again.holds() == []
    assert len(mutations(again)) == requests, "nor after"


def settle(shop, name, seconds):
    """Have the file be seen as one that must stay quiet for `seconds` before it is ready."""
    mark = Fingerprint.of((shop.root / name).lstat())
    shop.store.write(
        lambda db: observations.record(
            db,
            "f",
            [Observation(os.fsencode(name), Seen.PRESENT, mark)],
            settling=Settling(seconds, 60.0),
            policies=shop.policies,
            now=shop.now,
        )
    )


@pytest.mark.row(27)
def test_a_file_that_was_just_copied_back_is_not_sent_again(shop, lost):
    shop.drop("a", b"content")
    shop.upload()
    before = shop.copy("a").file_uuid
    again = lost(quiet_seconds=20.0)
    assert again.file("a").status is FileStatus.SETTLING

    assert adopt(again)["live"] == 1

    again.now += 30
    again.notice("a")
    work(again)
    (copy,) = again.copies("a")
    assert (copy.file_uuid, copy.status) == (before, CopyStatus.LIVE)
    assert set(again.live()) == {before}


def test_what_changed_meanwhile_goes_up_and_its_earlier_content_is_kept(shop, lost):
    shop.drop("a", b"earlier")
    shop.upload()
    (earlier,) = shop.live()
    (shop.root / "a").write_bytes(b"changed while the ledger was lost")
    again = lost()
    assert adopt(again)["previous"] == 1
    assert again.copy("a").status is CopyStatus.RELEASED
    work(again)
    assert again.live().keys() == {again.copies("a")[-1].file_uuid, earlier}
    assert [finding["path"] for finding in verify(again)["kept"]] == ["a"]


def test_an_earlier_content_is_kept_where_that_of_now_is_found_as_well(shop, lost):
    """The ledger was lost before what had been superseded was deleted."""
    shop.drop("a", b"earlier")
    shop.upload()
    shop.drop("a", b"of now")
    shop.upload()
    of_now = shop.copy("a").file_uuid
    again = lost()
    told = adopt(again)
    assert (told["live"], told["previous"]) == (1, 1)
    assert again.copies("a")[-1].file_uuid == of_now or again.copies("a")[0].file_uuid == of_now
    work(again)
    assert len(again.live()) == 2, "an adoption deletes nothing, then or later"


def test_content_of_the_same_length_is_told_apart(shop, lost):
    shop.drop("a", b"old")
    shop.upload()
    (shop.root / "a").write_bytes(b"new")
    again = lost()
    told = adopt(again)
    assert (told["live"], told["previous"]) == (0, 1)


def test_places_with_one_digest_are_told_apart_by_content_and_else_left_alone(
    shop, lost, monkeypatch
):
    monkeypatch.setattr(tokens, "place_digest", lambda *_: "0" * 12)
    for name in ("x", "y", "same", "again"):
        shop.drop(name, name.encode() if len(name) == 1 else b"equal")
    shop.upload()
    before = {name: shop.copy(name).file_uuid for name in ("x", "y")}
    again = lost()
    for name in ("x", "y", "same", "again"):
        digest = sha256((shop.root / name).read_bytes()).hexdigest()
        again.store.write(
            lambda db, name=name, digest=digest: db.conn.execute(
                "UPDATE files SET sha256 = ? WHERE path = ?", (digest, name.encode())
            )
        )
    told = adopt(again)
    assert (told["live"], told["unknown"]) == (2, 2)
    assert {name: again.copy(name).file_uuid for name in ("x", "y")} == before


@pytest.mark.row(27)
def test_a_renamed_file_is_found_by_its_content_and_size(shop, lost):
    shop.drop("a", b"a")
    shop.drop("b", b"other")
    shop.upload()
    before = shop.copy("a").file_uuid
    (shop.root / "a").rename(shop.root / "renamed")
    again = lost()
    assert adopt(again)["live"] == 2
    assert again.copy("renamed").file_uuid == before


@pytest.mark.row(63)
@pytest.mark.parametrize("content", [b"genuine!", b"forgery!", b"longer than ours"])
@pytest.mark.parametrize("older", [True, False])
def test_the_oldest_object_that_carries_a_token_is_taken_up_and_no_other(
    shop, lost, content, older
):
    """A copy of our name comes later; an object that does not fit is not ours."""
    shop.drop("clip.txt", b"genuine!")
    shop.upload()
    ours = shop.copy("clip.txt").file_uuid
    name = shop.client.get(ours).original_file_url
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        source = UploadSource(fd=file.fileno(), size=len(content))
        theirs = shop.client.upload(source, name=name, content_type="text/plain").file_uuid
    if older:
        shop.client.delete(ours)
    again = lost()
    told = adopt(again)
    fits = not older or len(content) == 8
    taken = theirs if older and fits else ours if not older else None
    assert (told["live"], told["unknown"]) == (int(fits), 2 - older - fits)
    work(again)
    assert theirs in again.live(), "an adoption deletes nothing, then or later"
    assert taken is None or again.copy("clip.txt").file_uuid == taken


def test_open_attempts_end_with_an_adoption(shop):
    """A request that is carried out after it is anybody's: it is not deleted."""
    shop.prove_echo()
    shop.faults({"match": "POST /v2/files/-/uploads", "times": 2, "action": "drop_before"})
    shop.drop("a", b"a")
    shop.upload()
    shop.now += 121
    shop.reconciler.step()
    shop.upload()
    assert shop.copy("a").in_doubt
    adopt(shop)
    assert shop.store.read(attempts.every) == []
    assert shop.copy("a").status is CopyStatus.GONE
    work(shop)
    assert shop.copy("a").status is CopyStatus.LIVE
    assert len(shop.live()) == 1


def test_attempts_after_an_adoption_are_far_above_all_that_were_seen(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    before = tokens.read(shop.copy("a").token).attempt
    again = lost()
    adopt(again)
    again.drop("b", b"b")
    again.upload()
    assert tokens.read(again.copy("b").token).attempt > before + tokens.UNSEEN_ATTEMPTS


def damage(tmp_path, content):
    """Put other bytes of the same length in the place of what the service stores."""
    (stored,) = (
        path
        for path in (tmp_path / "emulator" / "contents").rglob("*")
        if path.is_file() and path.read_bytes() == content
    )
    stored.write_bytes(bytes(len(content)))


@pytest.mark.row(27)
def test_with_check_only_what_holds_what_was_sent_is_taken_up(shop, lost, tmp_path):
    contents = {name: f"content of {name}".encode() for name in ("good", "bad", "old", "worn")}
    for name, content in contents.items():
        shop.drop(name, content)
    shop.upload()
    for name in ("bad", "worn"):
        damage(tmp_path, contents[name])
    again = lost()
    for name in ("old", "worn"):
        # The remote objects are earlier contents of these files.
        again.drop(name, b"newer")
    result = adopt(again, check=True)
    assert (result["live"], result["previous"], result["unknown"]) == (1, 1, 2)
    assert {refused["path"] for refused in result["refused"]} == {"bad", "worn"}
    assert all("SHA-256" in refused["why"] for refused in result["refused"])
    work(again)
    assert sha256(contents["bad"]).hexdigest() in again.live().values()
    assert again.copy("good").status is CopyStatus.LIVE
    assert len(again.live()) == 7, "the refused ones stay, and three are sent"


def test_an_object_that_cannot_be_downloaded_is_not_taken_up_with_check(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    again = lost()
    again.faults({"match": "GET /_storage/*", "action": {"status": 403}})
    (refused,) = adopt(again, check=True)["refused"]
    assert "403" in refused["why"]
    assert "http" not in refused["why"], "a download URL is a secret"


def test_a_download_that_breaks_off_ends_the_adoption_and_not_the_hold(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    again = lost()
    again.faults({"match": "GET /_storage/*", "action": "drop_before"})
    with pytest.raises(FilesApiError):
        adopt(again, check=True)
    assert again.store.read(holds.is_ledger_incomplete)
    again.faults()
    assert adopt(again, check=True)["live"] == 1


def test_what_is_gone_here_is_kept_there_and_shown_by_verify(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    (shop.root / "a").unlink()
    again = lost()
    assert adopt(again)["unknown"] == 1
    work(again)
    assert len(again.live()) == 1
    assert kinds(again) == ["foreign"]


def test_where_files_are_taken_away_an_adoption_deletes_nothing(shop, lost):
    """An earlier object of a name is a file of its own, and no earlier version."""
    shop.drop("a", b"first drop")
    shop.upload()
    (shop.root / "a").write_bytes(b"second drop")
    again = lost()
    again.policies["f"] = Policy(after_upload="delete")
    told = adopt(again)
    assert (told["previous"], told["unknown"]) == (0, 1)
    work(again)
    assert len(again.live()) == 2


def test_a_rolled_back_ledger_deletes_nothing_that_may_have_been_taken_away(shop):
    shop.policies["f"] = Policy(after_upload="delete")
    shop.drop("a", b"a")
    shop.upload()
    roll_back(shop)
    (shop.root / "a").unlink()
    shop.notice("a", Seen.MISSING)
    adopt(shop)
    shop.now += 100
    work(shop)
    assert len(shop.live()) == 1
    assert shop.copies()[0].status is CopyStatus.RELEASED


def test_what_a_rolled_back_ledger_counts_on_and_nobody_has_any_more_is_sent_again(shop):
    shop.drop("a", b"a")
    shop.drop("b", b"b")
    shop.upload()
    shop.client.delete(shop.copy("a").file_uuid)
    roll_back(shop)
    assert adopt(shop)["gone"] == 1
    assert [copy.status for copy in shop.copies("a")] == [CopyStatus.GONE]
    work(shop)
    assert shop.live().keys() == {shop.copy("a").file_uuid, shop.copy("b").file_uuid}


def test_what_a_listing_does_not_show_and_is_there_when_asked_for_is_not_gone(shop, monkeypatch):
    shop.drop("a", b"a")
    shop.upload()
    read = shop.client.read_listing
    monkeypatch.setattr(
        shop.client, "read_listing", lambda _take, **kwargs: read(lambda _: None, **kwargs)
    )
    roll_back(shop)
    assert adopt(shop)["gone"] == 0
    assert shop.copy("a").status is CopyStatus.LIVE


def test_what_a_rolled_back_ledger_has_yet_to_send_and_has_arrived_is_not_sent_twice(shop):
    shop.prove_echo()
    shop.faults({"match": "POST /v2/files/-/uploads", "times": 1, "action": "drop_after"})
    shop.drop("a", b"a")
    shop.upload()
    shop.faults()
    shop.store.write(lambda db: shop.ledger.absent(db, shop.copy("a"), shop.now))
    assert shop.copy("a").status is CopyStatus.PLANNED
    sent = mutations(shop)
    roll_back(shop)
    adopt(shop)
    work(shop)
    assert mutations(shop) == sent
    assert shop.copy("a").file_uuid in shop.live()


def test_newer_content_than_a_rolled_back_ledger_knows_of_takes_the_place_of_the_old(shop):
    shop.drop("a", b"one")
    shop.upload()
    shop.drop("a", b"other")
    shop.upload()
    first, second = shop.copies("a")
    shop.store.write(lambda db: db.conn.execute("DELETE FROM copies WHERE id = ?", (second.id,)))
    shop.store.write(lambda db: copies.move(db, first, CopyStatus.LIVE))
    roll_back(shop)
    told = adopt(shop)
    assert (told["live"], told["second"]) == (1, 0)
    work(shop)
    assert list(shop.live()) == [second.file_uuid]


def test_of_two_objects_with_the_content_of_a_file_one_is_taken_up_and_the_other_kept(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    # The same upload once more, as by a request that was given up and carried out late.
    shop.store.write(lambda db: db.conn.execute("DELETE FROM copies"))
    shop.store.write(lambda db: db.conn.execute("UPDATE files SET sha256 = NULL, due_at = 0"))
    shop.upload()
    assert len(shop.live()) == 2
    again = lost()
    told = adopt(again)
    assert (told["live"], told["second"]) == (1, 1)
    work(again)
    assert len(again.live()) == 2
    assert sorted(copy.status for copy in again.copies("a")) == ["live", "released"]


def test_a_record_without_content_is_not_taken_for_the_file(shop, lost):
    shop.drop("a", b"a")
    shop.uploader._preparation.options = type(shop.uploader._preparation.options)(
        method="presigned"
    )
    shop.faults({"match": "PUT /*", "times": 100, "action": {"status": 500}})
    shop.upload()
    assert shop.live() == {}
    shop.faults()
    again = lost()
    assert adopt(again)["live"] == 0
    work(again)
    assert list(again.live()) == [again.copies("a")[-1].file_uuid]


def test_a_listing_that_does_not_stay_the_same_is_no_ground_to_go_on(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    again = lost()

    class Shifting:
        def read_listing(self, _take, **_):
            return Listing(complete=False, reason="it shifts")

    with pytest.raises(AdoptError, match="it shifts"):
        list(adopter(again, client=Shifting()).adopt())
    assert holds.STATE_LOST in {reason for _, reason in again.holds()}


def test_another_instances_objects_are_told_of_and_left_alone(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    theirs = shop.store.instance
    again = lost(instance_file=False)
    told = adopt(again)
    assert (told["live"], told["other_instances"]) == (0, {theirs: 1})


def test_what_the_ledger_has_is_known(shop):
    shop.drop("a", b"a")
    shop.upload()
    told = adopt(shop)
    assert (told["listed"], told["known"], told["live"]) == (1, 1, 0)


def test_an_empty_state_can_become_an_earlier_instance(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    earlier, (uuid,) = shop.store.instance, shop.live()
    again = lost(instance_file=False)
    assert adopt(again, instance=earlier)["live"] == 1
    assert (again.store.instance, again.copy("a").file_uuid) == (earlier, uuid)


@pytest.mark.parametrize("instance", ["", "zz", "0011AABB", "0011aabbcc", "../../xx"])
def test_what_is_no_instance_is_refused(shop, instance):
    with pytest.raises(AdoptError, match="is no instance"):
        adopt(shop, instance=instance)


def test_a_state_that_has_sent_something_cannot_become_another_instance(shop):
    shop.drop("a", b"a")
    shop.upload()
    with pytest.raises(AdoptError, match="cannot become another instance"):
        adopt(shop, instance="0011aabb")


# The report of verify


def verify(shop, **arguments):
    verifier = Verifier(
        store=shop.store,
        ledger=shop.ledger,
        client=shop.client,
        policies=shop.policies,
        clock=shop.clock,
    )
    result = list(verifier.verify(**arguments))[-1]
    schemas.adapter("verify").validate_python(result)
    return result


def kinds(shop):
    return sorted(finding["kind"] for finding in verify(shop)["findings"])


def test_where_ledger_and_listing_agree_there_are_no_findings(shop):
    shop.drop("a", b"a")
    shop.drop("b", b"b")
    shop.upload()
    told = verify(shop)
    assert (told["findings"], told["listed"], told["compared"]) == ([], 2, 2)


def test_a_file_that_others_deleted_is_found_with_its_path(shop):
    shop.drop("a", b"a")
    shop.upload()
    shop.client.delete(shop.copy("a").file_uuid)
    (finding,) = verify(shop)["findings"]
    assert (finding["kind"], finding["folder"], finding["path"]) == ("gone", "f", "a")
    assert ("sending", "remote_gone") in shop.holds(), "it is recorded"
    assert verify(shop)["findings"] == [], "and told once"


@pytest.mark.row(63)
def test_another_size_and_a_foreign_object_are_found(shop):
    for name in ("size", "foreign"):
        shop.drop(name, name.encode())
    shop.upload()
    size, lost_one = shop.copy("size"), shop.copy("foreign")
    shop.store.write(lambda db: copies.update(db, size.id, size=99))
    shop.store.write(lambda db: db.conn.execute("DELETE FROM copies WHERE id = ?", (lost_one.id,)))
    told = verify(shop)
    assert sorted(finding["kind"] for finding in told["findings"]) == ["foreign", "size"]
    assert (told["listed"], told["ours"], told["compared"]) == (2, 1, 1)
    work(shop)
    assert lost_one.file_uuid in shop.live()


@pytest.mark.row(88)
def test_an_object_that_the_ledger_has_as_deleted_and_the_service_has_not_is_found(shop):
    shop.drop("a", b"a")
    shop.upload()
    copy = shop.copy("a")
    shop.store.write(lambda db: copies.move(db, copy, CopyStatus.GONE, gone_at=shop.now))
    (finding,) = verify(shop)["findings"]
    assert (finding["kind"], finding["path"]) == ("undeleted", "a")


@pytest.mark.parametrize("learned", [True, False])
def test_an_object_without_the_size_that_it_should_have_is_found_where_sizes_are_told(
    shop, monkeypatch, learned
):
    shop.drop("a", b"a")
    shop.upload()
    if learned:
        shop.reconciler.step()
    listed = shop.client.list

    def silent(**arguments):
        page = listed(**arguments)
        return replace(page, items=tuple(replace(i, file_size_bytes=None) for i in page.items))

    monkeypatch.setattr(shop.client, "list", silent)
    assert kinds(shop) == (["size"] if learned else [])


def test_an_object_of_a_request_that_got_no_answer_is_no_finding(shop):
    shop.prove_echo()
    shop.faults({"match": "POST /v2/files/-/uploads", "times": 1, "action": "drop_after"})
    shop.drop("a", b"a")
    shop.upload()
    assert verify(shop)["findings"] == []


def twice(shop, seconds):
    """Have what a proxy makes of one request: a second object, made `seconds` after the first."""
    shop.drop("a", b"a")
    shop.upload()
    copy = shop.copy("a")
    with tempfile.TemporaryFile() as file:
        file.write(b"a")
        file.flush()
        source = UploadSource(fd=file.fileno(), size=1)
        name = shop.client.get(copy.file_uuid).original_file_url
        uuid = shop.client.upload(source, name=name, content_type="text/plain").file_uuid
    shop.store.write(lambda db: copies.update(db, copy.id, sent_at=copy.stored_at - seconds))
    return uuid


def test_what_a_proxy_made_by_repeating_our_request_is_removed_when_that_is_asked_for(shop):
    theirs = twice(shop, 60.0)
    assert kinds(shop) == ["duplicate"]
    work(shop)
    assert theirs in shop.live(), "not before"
    assert verify(shop, remove_duplicates=True)["findings"][0]["retired"]
    work(shop)
    assert list(shop.live()) == [shop.copies("a")[0].file_uuid]


def test_what_was_made_after_our_request_is_nobodys_duplicate(shop):
    theirs = twice(shop, -3.0)
    verify(shop, remove_duplicates=True)
    work(shop)
    assert theirs in shop.live()
    assert kinds(shop) == ["foreign"]


# A workspace that the key may not read


FORMER = "77777777-7777-4777-8777-777777777777"


@pytest.fixture
def closed(shop, others):
    """Two files are synced, one of them to a workspace that is another organization's now."""
    for name in ("a", "b"):
        shop.drop(name, name.encode())
    shop.upload()
    b = shop.copy("b")
    shop.store.write(lambda db: copies.update(db, b.id, workspace_uuid=FORMER))
    # The first to write to a workspace owns it.
    others.create([NewFile(local_file_path="x")], workspace_uuid=FORMER)
    return shop


def test_verify_compares_what_it_may_read_and_counts_what_it_may_not(closed):
    closed.client.delete(closed.copy("a").file_uuid)
    told = verify(closed)
    assert [finding["path"] for finding in told["findings"]] == ["a"]
    assert told["unread"] == {FORMER: 1}
    assert closed.copy("b").status is CopyStatus.LIVE


def test_adopt_leaves_the_copies_of_a_former_workspace_as_they_are(closed):
    told = adopt(closed)
    assert told["unread"] == [FORMER]
    assert closed.copy("b").status is CopyStatus.LIVE


def test_adopt_ends_where_the_key_may_not_read_a_workspace_of_today(closed):
    folders = closed.policies | {"g": Policy(workspace_uuid=FORMER)}
    with pytest.raises(ForbiddenError):
        list(adopter(closed, policies=folders).adopt())
