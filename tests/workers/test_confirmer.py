"""A presigned copy is live once the service says so, and the storage's word proves nothing."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest

from syncd.files_api import Aborted, AbortedUnsent, UnprocessableError
from syncd.state import confirming, manifest
from syncd.state.lifecycle import CopyStatus
from syncd.workers import confirmer
from syncd.workers.confirmation import Confirmation, Told
from syncd.workers.confirmer import LONGEST_LOOK_SECONDS
from syncd.workers.preparation import UploadOptions

RESEND_SECONDS = 120.0


@pytest.fixture
def shop(shop):
    shop.uploader._preparation.options = UploadOptions(workers=2, method="presigned")
    return shop


def without_sizes(shop, monkeypatch, *, length=False):
    """Have the service tell no sizes, and no download URL unless that tells a `length`."""
    get, page = shop.client.get, shop.client.list

    def shown(item):
        url = item.file_url if length else None
        return replace(item, file_size_bytes=None, file_url=url)

    monkeypatch.setattr(shop.client, "get", lambda uuid: shown(get(uuid)))
    monkeypatch.setattr(
        shop.client,
        "list",
        lambda **how: replace(found := page(**how), items=tuple(map(shown, found.items))),
    )


def wait(shop, seconds=RESEND_SECONDS + 1):
    """Let time go by, confirming now and then."""
    end = shop.now + seconds
    while shop.now < end:
        shop.now += LONGEST_LOOK_SECONDS
        shop.confirmer.step()


def word(shop, name):
    return shop.store.read(lambda db: manifest.word(db, shop.file(name).id))


def test_what_the_service_confirms_is_live(shop):
    shop.drop("a", b"one")
    shop.drop("empty", b"")
    shop.drop("v.mp4", b"\0\0\0\x10ftypisom cut off")
    shop.upload()
    assert [shop.copy(name).status for name in ("a", "empty")] == [CopyStatus.LIVE] * 2
    assert shop.copy("v.mp4").status is CopyStatus.PROCESSING
    assert shop.store.fact(confirming.SIZES) == confirming.TOLD


def test_a_presigned_file_is_told_of_once(shop, caplog):
    caplog.set_level(logging.INFO)
    shop.drop("only", b"one")
    shop.upload()
    told = [record.getMessage() for record in caplog.records if "only" in record.getMessage()]
    assert told == [f"only: live, {shop.copy('only').file_uuid} (3 bytes)"]


@pytest.mark.row(46)
def test_a_look_cut_short_by_the_stop_is_made_at_once_after_the_next_start(shop, monkeypatch):
    def stopped(_uuid):
        raise AbortedUnsent("stopped", operation="get")

    with monkeypatch.context() as patch:
        patch.setattr(shop.client, "get", stopped)
        shop.drop("a", b"one")
        with pytest.raises(Aborted):
            shop.upload()
    shop.confirmer.step()
    assert shop.copy("a").status is CopyStatus.LIVE


@pytest.mark.row(68)
def test_a_storage_that_answers_200_and_stores_nothing_is_not_believed(shop):
    shop.faults({"match": "PUT /_storage/{file_uuid}", "action": "lie"})
    shop.drop("a", b"one")
    shop.upload()
    assert shop.copy("a").status is CopyStatus.SENDING
    assert word(shop, "a") == "uploading"
    shop.now += RESEND_SECONDS - 2
    shop.confirmer.step()
    assert shop.copy("a").status is CopyStatus.SENDING, "its time is not over"
    wait(shop, 31)
    assert shop.copy("a").status is CopyStatus.RETIRING
    assert shop.live() == {}
    shop.faults()
    shop.now += 1000
    shop.upload()
    assert [copy.status for copy in shop.copies("a")] == [CopyStatus.LIVE, CopyStatus.RETIRING]
    shop.deleter.step()
    states = sorted(o["state"] for o in shop.ask("objects"))
    assert states == ["deleted", "live"]


@pytest.mark.long
@pytest.mark.row(68)
def test_lies_do_not_teach_that_sizes_are_never_told(shop, monkeypatch):
    """Where a listing shows the size of anything at all, an object without one has no bytes."""
    shop.uploader._preparation.options = UploadOptions(workers=2, method="direct")
    shop.drop("stored", b"stored for certain")
    shop.upload()
    shop.uploader._preparation.options = UploadOptions(workers=2, method="presigned")
    shop.faults({"match": "PUT /_storage/{file_uuid}", "action": "lie"})
    for number in range(5):
        shop.drop(f"{number}", b"%d" % number)
    shop.upload()
    wait(shop)
    assert {shop.copy(f"{n}").status for n in range(5)} == {CopyStatus.RETIRING}
    assert shop.store.fact(confirming.SIZES) == confirming.TOLD


@pytest.mark.row(68)
def test_another_size_is_retired_and_sent_again(shop, monkeypatch):
    get = shop.client.get
    monkeypatch.setattr(
        shop.client, "get", lambda uuid: replace(get(uuid), file_size_bytes=2, file_url=None)
    )
    shop.drop("a", b"one")
    shop.upload()
    kept, record = shop.copies("a")
    assert record.status is CopyStatus.RETIRING
    assert (kept.status, kept.due_at > shop.now) == (CopyStatus.PLANNED, True)
    monkeypatch.undo()
    shop.now += 1000
    shop.upload()
    assert shop.copies("a")[0].status is CopyStatus.LIVE


def test_a_size_that_comes_late_is_waited_for(shop, monkeypatch):
    with monkeypatch.context() as lag:
        without_sizes(shop, lag)
        shop.drop("a", b"one")
        shop.upload()
        assert shop.copy("a").status is CopyStatus.SENDING
    shop.now += 20
    shop.confirmer.step()
    assert [copy.status for copy in shop.copies("a")] == [CopyStatus.LIVE]


def test_a_size_that_only_the_download_tells_confirms(shop, monkeypatch):
    without_sizes(shop, monkeypatch, length=True)
    shop.drop("a", b"one")
    shop.drop("empty", b"")
    shop.upload()
    assert [shop.copy(name).status for name in ("a", "empty")] == [CopyStatus.LIVE] * 2


def test_a_download_url_that_leads_nowhere_confirms_nothing(shop, monkeypatch):
    without_sizes(shop, monkeypatch, length=True)
    shop.faults({"match": "GET /_storage/*", "action": {"status": 404}})
    shop.drop("a", b"one")
    shop.upload()
    assert shop.copy("a").status is CopyStatus.SENDING
    wait(shop)
    assert shop.copy("a").status is CopyStatus.RETIRING
    assert shop.store.fact(confirming.SIZES) is None


@pytest.mark.parametrize("shown", [True, False], ids=["by a direct upload", "by many"])
def test_that_sizes_are_never_told_is_learned_and_then_the_storage_is_believed(
    shop, monkeypatch, shown
):
    without_sizes(shop, monkeypatch)
    names = ["a"] if shown else ["a", "b", "c"]
    if shown:
        shop.uploader._preparation.options = UploadOptions(workers=2, method="direct")
        shop.drop("direct", b"stored for certain")
        shop.upload()
        shop.uploader._preparation.options = UploadOptions(workers=2, method="presigned")
    for name in names:
        shop.drop(name, name.encode())
    shop.upload()
    assert {shop.copy(name).status for name in names} == {CopyStatus.SENDING}
    wait(shop)
    assert shop.store.fact(confirming.SIZES) == confirming.UNTOLD
    # The last one that is looked at; the threads decide which.
    assert CopyStatus.LIVE in {shop.copy(name).status for name in names}
    shop.drop("next", b"next")
    shop.upload()
    assert shop.copy("next").status is CopyStatus.LIVE


@pytest.mark.long
def test_what_gives_no_etag_never_teaches_that_sizes_are_untold(shop, monkeypatch):
    """A portal's page in the storage's place, at a service of which nothing else is known."""
    without_sizes(shop, monkeypatch)
    shop.faults({"match": "PUT /_storage/{file_uuid}", "action": "garbage"})
    for number in range(5):
        shop.drop(f"{number}", b"%d" % number)
    shop.upload()
    wait(shop)
    assert {shop.copy(f"{n}").status for n in range(5)} == {CopyStatus.RETIRING}


@pytest.mark.row(68)
@pytest.mark.parametrize("answer", ["garbage", "drop_before"])
def test_where_no_size_is_told_only_the_word_of_a_storage_counts(shop, monkeypatch, answer):
    """A portal's page, or no answer at all, is no word of a storage's."""
    without_sizes(shop, monkeypatch)
    shop.store.set_fact(confirming.SIZES, confirming.UNTOLD)
    shop.faults({"match": "PUT /_storage/{file_uuid}", "action": answer})
    shop.drop("a", b"one")
    shop.upload()
    wait(shop)
    assert CopyStatus.LIVE not in {copy.status for copy in shop.copies("a")}
    shop.faults()
    shop.now += 1000
    shop.upload()
    assert CopyStatus.LIVE in {copy.status for copy in shop.copies("a")}


def test_a_video_that_is_processed_has_arrived_whatever_size_is_told(shop, monkeypatch):
    get = shop.client.get
    said = iter(["pending", "processing"])
    monkeypatch.setattr(
        shop.client,
        "get",
        lambda uuid: replace(
            get(uuid), file_size_bytes=None, file_url=None, processing_status=next(said)
        ),
    )
    shop.drop("v.mp4", b"\0\0\0\x10ftypisom")
    shop.upload()
    assert shop.copy("v.mp4").status is CopyStatus.SENDING
    shop.now += 2
    shop.confirmer.step()
    assert shop.copy("v.mp4").status is CopyStatus.PROCESSING


def test_a_transfer_that_broke_off_is_sent_again_without_waiting(shop):
    shop.faults({"match": "PUT /_storage/{file_uuid}", "times": 1, "action": "drop_before"})
    shop.drop("a", b"one")
    shop.upload()
    assert [copy.status for copy in shop.copies("a")] == [CopyStatus.PLANNED, CopyStatus.RETIRING]
    shop.now += 10
    shop.upload()
    assert shop.copies("a")[0].status is CopyStatus.LIVE


def test_a_transfer_whose_answer_was_lost_is_confirmed_and_not_sent_again(shop):
    shop.faults({"match": "PUT /_storage/{file_uuid}", "times": 1, "action": "drop_after"})
    shop.drop("a", b"one")
    shop.upload()
    assert [copy.status for copy in shop.copies("a")] == [CopyStatus.LIVE]


def test_nobody_who_answers_proves_nothing(shop):
    shop.drop("a", b"one")
    shop.faults({"match": "GET /v2/*", "action": {"status": 503}})
    shop.upload()
    shop.now += RESEND_SECONDS + 10
    shop.confirmer.step()
    assert shop.copy("a").status is CopyStatus.SENDING
    shop.faults()
    shop.gate.succeeded()
    shop.now += 400
    shop.confirmer.step()
    assert [copy.status for copy in shop.copies("a")] == [CopyStatus.LIVE]


@pytest.mark.long
@pytest.mark.row(35)
def test_one_that_cannot_be_asked_for_keeps_no_other_waiting(shop):
    shop.faults({"match": "PUT /_storage/*", "times": 2, "action": "drop_after"})
    with_answers = shop.confirmer.step
    shop.confirmer.step = lambda: None
    for name in "ab":
        shop.drop(name, name.encode())
        shop.upload()
    shop.confirmer.step = with_answers
    bad = shop.copy("a").file_uuid
    shop.faults({"match": f"GET /v2/files/{bad}", "action": "garbage"})
    for _ in range(20):
        shop.confirmer.step()
        shop.now += 5
    assert shop.copy("a").status is CopyStatus.SENDING
    assert shop.copy("b").status is CopyStatus.LIVE
    asked = [r for r in shop.ask("requests") if r["path"].endswith(bad) and r["method"] == "GET"]
    assert len(asked) <= 5, "twice a minute"
    shop.faults()
    shop.now += 31
    shop.confirmer.step()
    assert shop.copy("a").status is CopyStatus.LIVE


class Shelf:
    """A service that holds objects of one size, and counts what it is asked; newest first."""

    def __init__(self, number, *, listed=True, most_items=1000):
        self.copies = [
            SimpleNamespace(id=n, file_uuid=f"{n}", size=1, workspace_uuid=None, is_video=False)
            for n in range(number)
        ]
        self.listed, self.most_items = listed, most_items
        self.pages = self.gets = 0

    def newest_pages(self, *, workspace_uuid, limit):
        limit = min(limit, self.most_items)
        for end in range(len(self.copies), 0, -limit):
            self.pages += 1
            shown = self.copies[max(end - limit, 0) : end] if self.listed else []
            yield [self.get(copy.file_uuid, asked=False) for copy in reversed(shown)]

    def get(self, file_uuid, *, asked=True):
        self.gets += asked
        return SimpleNamespace(
            file_uuid=file_uuid, file_size_bytes=1, processing_status=None, file_url=None
        )


def test_thousands_of_copies_are_confirmed_by_a_few_large_pages(shop):
    shelf = Shelf(4000)
    told = Confirmation(client=shelf, gate=shop.gate).ask(shelf.copies)
    assert set(told.values()) == {Told.WHOLE}
    assert len(told) == 4000
    assert (shelf.pages, shelf.gets) == (4, 0)


def test_a_service_with_short_pages_is_asked_for_more_of_them(shop):
    shelf = Shelf(400, most_items=20)
    told = Confirmation(client=shelf, gate=shop.gate).ask(shelf.copies)
    assert (len(told), shelf.pages, shelf.gets) == (400, 20, 0)


def test_a_listing_of_others_objects_is_not_read_to_its_end(shop):
    shelf = Shelf(100_000)
    told = Confirmation(client=shelf, gate=shop.gate).ask(shelf.copies[:1000], alone=0)
    assert told == {}
    assert shelf.pages <= 18, "it may cost no more than asking for some of them one by one"


def test_few_of_those_that_no_listing_shows_are_asked_for_at_a_time(shop):
    shelf = Shelf(60, listed=False)
    told = Confirmation(client=shelf, gate=shop.gate).ask(shelf.copies, alone=20)
    assert (shelf.gets, list(told)) == (20, list(range(20)))


def test_those_that_were_not_asked_for_are_due_at_once(shop, monkeypatch):
    monkeypatch.setattr(confirmer, "ALONE", 2)
    real, asked = shop.client.get, []
    monkeypatch.setattr(shop.client, "get", lambda uuid: asked.append(uuid) or real(uuid))
    monkeypatch.setattr(shop.client, "newest_pages", lambda **_: iter(()))
    for name in "abcd":
        shop.drop(name, name.encode())
    shop.upload()
    assert len(asked) == 2
    shop.confirmer.step()
    assert {shop.copy(name).status for name in "abcd"} == {CopyStatus.LIVE}


@pytest.mark.long
def test_many_small_files_take_few_requests_beside_their_bytes(shop):
    """Created together and confirmed together: at most 1.2 round trips a file beyond the PUT."""
    number = 64
    for n in range(number):
        shop.drop(f"{n}", b"%d" % n)
    before = len(shop.ask("requests"))
    shop.upload()
    while any(copy.status is CopyStatus.SENDING for copy in shop.copies()):
        shop.confirmer.step()
    asked = [r["method"] for r in shop.ask("requests")[before:]]
    assert len(shop.live()) == number
    assert asked.count("PUT") == number
    assert len(asked) - number <= 1.2 * number
    assert asked.count("POST") < number / 2, "objects are reserved together"


@pytest.mark.long
def test_one_name_that_is_refused_keeps_no_other_from_being_reserved(shop, monkeypatch):
    """A refusal of several together says nothing of any: each goes alone then."""
    make, together = shop.uploader.make_client, []

    def picky(stop):
        client = make(stop)
        create = client.create

        def checked(files, **how):
            if any("evil" in (new.local_file_path or "") for new in files):
                together.append(len(files))
                raise UnprocessableError("no", operation="create", status=422, enveloped=True)
            return create(files, **how)

        client.create = checked
        return client

    monkeypatch.setattr(shop.uploader, "make_client", picky)
    for n in range(30):
        shop.drop(f"{n}", b"%d" % n)
        if n == 12:
            shop.drop("evil", b"evil")
    for _ in range(4):
        shop.upload()
        shop.now += 10
    shop.drop("another", b"that passes")
    for _ in range(2):
        shop.upload()
        shop.now += 4000
    assert len(shop.live()) == 31
    assert shop.copy("evil").status is CopyStatus.FAILED
    assert together[0] > 1
    assert set(together[1:]) == {1}


@pytest.mark.long
def test_a_create_without_an_answer_puts_all_of_its_files_in_doubt(shop):
    for n in range(30):
        shop.drop(f"{n}", b"%d" % n)
    shop.faults({"match": "POST /v2/files", "action": "drop_after"})
    shop.upload()
    shop.faults()
    for _ in range(10):
        shop.now += 400
        shop.gate.try_now()
        shop.gate.succeeded()
        shop.reconciler.step()
        shop.upload()
        shop.deleter.step()
    assert len(shop.live()) == 30
    assert not [o for o in shop.ask("objects") if o["state"] == "reserved"]
