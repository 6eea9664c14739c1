"""A lost ledger is rebuilt from the listing: no bytes are sent, nothing is deleted blindly."""

import os
from contextlib import closing
from dataclasses import replace

import pytest

from syncd.files_api import ForbiddenError, NewFile
from syncd.state import copies, holds, unknown
from syncd.state.lifecycle import CopyStatus
from syncd.state.planner import Policy
from syncd.state.sightings import Seen
from syncd.state.store import Store
from syncd.workers.adopter import Adopter, AdoptError
from syncd.workers.introduction import Introduction
from syncd.workers.verifier import Verifier


@pytest.fixture
def lost(shop, tmp_path):
    """Take the shop's ledger away, and return a shop over an empty one with the same files."""

    def lose(*, instance_file=True):
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
            again.notice(name)
        shops.append(again)
        return again

    shops = []
    yield lose
    for again in shops:
        with closing(again.client):
            again.store.close()


def adopter(shop, **changes):
    introduction = Introduction(
        store=shop.store, client=shop.client, gate=shop.gate, mark="mark", clock=shop.clock
    )
    values = {
        "store": shop.store,
        "client": shop.client,
        "introduction": introduction,
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

    assert (told["live"], told["twin"], told["previous"], told["unknown"]) == (6, 0, 0, 0)
    assert {n: again.copy(n).file_uuid for n in names} == before
    work(again)
    assert again.holds() == []
    assert len(mutations(again)) == requests, "nor after"


def test_what_changed_meanwhile_goes_up_and_its_earlier_content_goes_then(shop, lost):
    shop.drop("a", b"earlier")
    shop.upload()
    (earlier,) = shop.live()
    (shop.root / "a").write_bytes(b"changed while the ledger was lost")
    again = lost()
    assert adopt(again)["previous"] == 1
    assert again.copy("a").status is CopyStatus.RELEASED
    work(again)
    assert list(again.live()) == [again.copies("a")[-1].file_uuid]
    assert earlier not in again.live()


def test_an_earlier_content_goes_where_that_of_now_is_found_as_well(shop, lost):
    """The ledger was lost before what had been superseded was deleted."""
    shop.drop("a", b"earlier")
    shop.upload()
    shop.drop("a", b"of now")
    shop.upload()
    of_now = shop.copy("a").file_uuid
    again = lost()
    told = adopt(again)
    assert (told["live"], told["previous"]) == (1, 1)
    work(again)
    assert list(again.live()) == [of_now]


def test_content_of_the_same_length_is_told_apart(shop, lost):
    shop.drop("a", b"old")
    shop.upload()
    (shop.root / "a").write_bytes(b"new")
    again = lost()
    told = adopt(again)
    assert (told["live"], told["previous"]) == (0, 1)


def test_places_with_one_digest_are_told_apart_by_name_and_else_left_alone(shop, lost, monkeypatch):
    monkeypatch.setattr(copies, "place_digest", lambda *_: "00000000")
    (shop.root / "d").mkdir()
    for name in ("x", "y", "same", "d/same"):
        shop.drop(name, b"equal")
    shop.upload()
    before = {name: shop.copy(name).file_uuid for name in ("x", "y")}
    again = lost()
    told = adopt(again)
    assert (told["live"], told["unknown"]) == (2, 2)
    assert {name: again.copy(name).file_uuid for name in ("x", "y")} == before


def test_what_is_gone_here_is_kept_there_and_no_trouble_any_more(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    (shop.root / "a").unlink()
    again = lost()
    assert adopt(again)["unknown"] == 1
    work(again)
    assert len(again.live()) == 1
    assert again.store.read(unknown.troubling) == 0


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
        shop.client, "read_listing", lambda **kwargs: replace(read(**kwargs), items=())
    )
    roll_back(shop)
    assert adopt(shop)["gone"] == 0
    assert shop.copy("a").status is CopyStatus.LIVE


def test_what_a_rolled_back_ledger_has_yet_to_send_and_has_arrived_is_not_sent_twice(shop):
    shop.drop("first", b"lets the echo be learned")
    shop.upload()
    shop.reconciler.step()
    shop.faults({"match": "POST /v2/files/-/uploads", "times": 1, "action": "drop_after"})
    shop.drop("a", b"a")
    shop.upload()
    shop.faults()
    shop.store.write(lambda db: shop.ledger.absent(db, shop.copy("a").id, shop.now))
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
    assert (told["live"], told["twin"]) == (1, 0)
    work(shop)
    assert list(shop.live()) == [second.file_uuid]


def test_the_newest_of_twins_is_taken_up_and_the_other_retires(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    row = shop.copy("a")
    # The same upload once more, as a server does that carries a request out twice.
    shop.store.write(lambda db: copies.update(db, row.id, file_uuid=None))
    shop.store.write(
        lambda db: db.conn.execute("UPDATE files SET sha256 = NULL, status = 'ready', due_at = 0")
    )
    shop.store.write(lambda db: db.conn.execute("DELETE FROM copies"))
    shop.upload()
    assert len(shop.live()) == 2
    again = lost()
    told = adopt(again)
    assert (told["live"], told["twin"]) == (1, 1)
    work(again)
    assert list(again.live()) == [
        c.file_uuid for c in again.copies("a") if c.status is CopyStatus.LIVE
    ]


def test_a_record_without_content_is_not_taken_for_the_file(shop, lost):
    shop.drop("a", b"a")
    shop.uploader._passage._options = type(shop.uploader._passage._options)(method="presigned")
    shop.faults({"match": "PUT /*", "times": 100, "action": {"status": 500}})
    shop.upload()
    assert shop.live() == {}
    shop.faults()
    again = lost()
    assert adopt(again)["live"] == 0
    work(again)
    assert list(again.live()) == [again.copies("a")[-1].file_uuid]
    reserved = [o for o in again.ask("objects") if o["state"] == "reserved"]
    assert reserved == []


def test_a_listing_that_does_not_stay_the_same_is_no_ground_to_go_on(shop, lost):
    shop.drop("a", b"a")
    shop.upload()
    again = lost()
    listing = again.client.read_listing()

    class Shifting:
        def read_listing(self, **_):
            return type(listing)(items=listing.items, complete=False, reason="it shifts")

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


@pytest.mark.row(30)
def test_an_object_of_ours_that_the_ledger_does_not_know_is_told_of_and_never_deleted(shop):
    shop.drop("a", b"a")
    shop.drop("b", b"b")
    shop.upload()
    forgotten = shop.copy("a").id
    shop.store.write(lambda db: db.conn.execute("DELETE FROM copies WHERE id = ?", (forgotten,)))
    shop.now += 86_401
    shop.reconciler.step()
    shop.deleter.step()
    assert shop.store.read(unknown.troubling) == 1
    assert len(shop.live()) == 2


# What verify tells


def verify(shop):
    verifier = Verifier(
        store=shop.store,
        ledger=shop.ledger,
        client=shop.client,
        policies=shop.policies,
        clock=shop.clock,
    )
    return list(verifier.verify())[-1]


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


def test_another_size_a_twin_and_an_unknown_object_are_found(shop):
    for name in ("size", "twin", "unknown"):
        shop.drop(name, name.encode())
    shop.upload()
    size, twin, lost_one = (shop.copy(name) for name in ("size", "twin", "unknown"))
    shop.store.write(lambda db: copies.update(db, size.id, size=99))
    other = "99999999-9999-4999-8999-999999999999"
    shop.store.write(lambda db: copies.update(db, twin.id, file_uuid=other))
    shop.store.write(lambda db: db.conn.execute("DELETE FROM copies WHERE id = ?", (lost_one.id,)))
    # The ledger's own uuid of the twin is not there either.
    assert kinds(shop) == ["gone", "size", "twin", "unknown"]


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
    # Whoever writes to a workspace first, owns it.
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
