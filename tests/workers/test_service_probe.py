"""The findings of `doctor --probe` on services that differ; it leaves nothing behind."""

import json
import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

from syncd.emulator import PERSONALITIES, Emulator
from syncd.files_api import FilesClient, NewFile, StopFlag, UnauthorizedError
from syncd.files_api.transport import Transport
from syncd.state import confirming, echo, probing
from syncd.state.database.store import Store
from syncd.state.ledger import Ledger
from syncd.workers import service_probe
from syncd.workers.gate import Gate
from syncd.workers.organization_check import OrganizationCheck
from syncd.workers.reconciler import ReconcileOptions, Reconciler
from syncd.workers.service_facts import ORDERED_FILES, Facts, order_of
from syncd.workers.service_probe import ProbeError, ServiceProbe

EXPECTED = Facts(
    order="newest",
    refuses_limit=False,
    sizes="record",
    put_needs_type=True,
    video_status="completed",
    video_frames=4,
    video_metadata=True,
    second_delete=404,
)
CAPPED = {"page_cap": 20, "refuses_limit": False}
#: By personality: how names come back, and what else differs from the expected.
TABLE = {
    "newest-first": ("name", {}),
    "oldest-first": ("name", {"order": "oldest"}),
    "unordered": ("name", {"order": "none"}),
    "page-cap": ("name", CAPPED),
    "page-refused": ("name", {"page_cap": 20, "refuses_limit": True}),
    "slow-list": ("name", {}),
    "whole-path": ("path", {}),
    "last-segment": ("name", {}),
    "no-echo": ("none", {}),
    "no-sizes": ("name", {"sizes": "url"}),
    "no-states": ("name", {}),
    "no-video-metadata": ("name", {"video_metadata": False}),
    "no-zone": ("name", {}),
    "delete-204": ("name", {"second_delete": 204}),
    "delete-404": ("name", {}),
    "no-head": ("name", {}),
    "stranger": (
        "none",
        CAPPED | {"order": "oldest", "sizes": "url", "video_metadata": False, "second_delete": 204},
    ),
}
THEIRS = 22


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "state")
    store.open(time.time())
    yield store
    store.close()


class Between(httpx.BaseTransport):
    """Stands between client and service: `change(request, document)` alters each JSON answer."""

    def __init__(self, change=lambda *_: None, *, portal=False):
        """A `portal` takes what is PUT in the storage's place."""
        self._inner = Transport()
        self._change = change
        self._portal = portal

    def handle_request(self, request):
        if self._portal and request.method == "PUT":
            b"".join(request.stream)
            return httpx.Response(200, html="<html>welcome</html>")
        answer = self._inner.handle_request(request)
        if not answer.headers.get("content-type", "").startswith("application/json"):
            return answer
        document = json.loads(b"".join(answer.stream))
        answer.close()
        self._change(request, document)
        headers = {name: answer.headers[name] for name in ("date",) if name in answer.headers}
        return httpx.Response(answer.status_code, headers=headers, json=document)

    def close(self):
        self._inner.close()


@pytest.fixture
def serve(tmp_path):
    """Start a service; return a maker of clients of it."""
    with ExitStack() as running:

        def serve(**chosen):
            emulator = running.enter_context(Emulator(data=tmp_path / "service", **chosen))
            return lambda **more: running.enter_context(
                FilesClient(base_url=emulator.url, api_key="key", **more)
            )

        yield serve


def reconciler_of(store, client):
    gate = Gate(store=store, clock=time.time, monotonic=time.monotonic)
    organization_check = OrganizationCheck(
        store=store, client=client, gate=gate, mark="mark", clock=time.time
    )
    return Reconciler(
        store=store,
        ledger=Ledger(policies={}, instance=store.instance),
        client=client,
        gate=gate,
        organization_check=organization_check,
        options=ReconcileOptions(),
        clock=time.time,
    )


def probe_of(store, client, pause=time.sleep, reconciler=None):
    reconciler = reconciler or reconciler_of(store, client)
    return ServiceProbe(
        store=store,
        client=client,
        gate=reconciler.gate,
        objects=reconciler.probe_objects,
        learn=reconciler.lessons.learn,
        workspace=None,
        clock=time.time,
        pause=pause,
    )


def faults(client, *rules):
    httpx.put(f"{client.base_url}/_emulator/faults", json=rules).raise_for_status()


def interrupt(_seconds):
    raise KeyboardInterrupt


def objects(client):
    lines = httpx.get(f"{client.base_url}/_emulator/objects").text.splitlines()
    return [json.loads(line) for line in lines]


def left(store):
    return store.read(probing.every)


@pytest.mark.parametrize(
    "name",
    [n if n == "stranger" else pytest.param(n, marks=pytest.mark.long) for n in TABLE],
)
def test_each_kind_of_service_is_seen_as_it_is(store, serve, name):
    slow = PERSONALITIES[name].get("list_seconds", 0.0)
    client = serve(personality=[name], processing_seconds=1 + 4 * slow)()
    client.create([NewFile(local_file_path=f"theirs {n}.txt") for n in range(THEIRS)])
    probe = probe_of(store, client)
    *_, last = probe.run()
    how, differs = TABLE[name]
    assert probe.facts.list_seconds >= slow
    assert set(probe.facts.echo.values()) == {how}
    assert probe.facts.url_seconds == 1800
    found = replace(Facts(**last["facts"]), echo=None, list_seconds=None, url_seconds=None)
    why = {} if "page_cap" in differs else {"page_cap": "26 files are too few to tell"}
    assert found == replace(EXPECTED, unseen=why, **differs)
    known = store.read(echo.echoes)
    assert set(known.values()) == {how != "none"}
    # On a busy machine the video may be processed before it is looked at the first time.
    missed = set(echo.KINDS) - known.keys()
    assert missed <= {"direct video", "presigned video"}
    # "auto" knows from the first file which way to send.
    for is_video in (False, True):
        proven = store.read(lambda db, video=is_video: echo.is_proven(db, "direct", is_video=video))
        assert proven == (how != "none") or (is_video and missed)
    assert store.fact(confirming.SIZES) == confirming.TOLD
    assert client.list().count == THEIRS
    assert not left(store)


def of_times(*numbers):
    return [datetime.fromtimestamp(number, UTC) for number in numbers]


def test_an_order_is_told_only_by_more_files_than_may_be_in_one_by_chance():
    few, many = range(ORDERED_FILES - 1), range(ORDERED_FILES)
    assert order_of(of_times(*few)) is None
    assert order_of(of_times(*reversed(few))) is None
    assert order_of(of_times(0, 0, 0, *few)) is None
    assert order_of(of_times(*many)) == "oldest"
    assert order_of(of_times(*reversed(many))) == "newest"
    assert order_of(of_times(1, 2, 1)) == "none"


def test_every_personality_stands_in_the_table():
    assert TABLE.keys() == PERSONALITIES.keys()


@pytest.mark.long
def test_what_was_made_is_deleted_when_the_probe_ends_early(store, serve):
    client = serve(processing_seconds=60)()
    with pytest.raises(KeyboardInterrupt):
        list(probe_of(store, client, pause=interrupt).run())
    assert [o["state"] for o in objects(client)] == ["deleted"] * 4
    assert not left(store)


@pytest.mark.parametrize(
    "by", [pytest.param("the next probe", marks=pytest.mark.long), "the daemon"]
)
def test_what_a_stopped_probe_left_is_deleted_later(store, serve, by):
    client_of, stop = serve(processing_seconds=60), StopFlag()
    client, doomed = client_of(), client_of(stop=stop)
    with pytest.raises(ProbeError, match="the daemon stops"):
        list(probe_of(store, doomed, pause=lambda _: stop.set()).run())
    assert client.list().count == len(left(store)) == 4
    if by == "the daemon":
        reconciler_of(store, client).probe_objects.step()
    else:
        with pytest.raises(KeyboardInterrupt):
            list(probe_of(store, client, pause=interrupt).run())
    assert client.list().count == len(left(store)) == 0


@pytest.mark.parametrize("call", ["upload", pytest.param("create", marks=pytest.mark.long)])
def test_an_object_is_noted_before_its_request(store, serve, call, monkeypatch):
    """As kill -9 ends a probe, between the storing of an object and its answer."""
    client = serve()()
    send = getattr(client, call)

    def killed(*args, **how):
        send(*args, **how)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(client, call, killed)
        # Nothing is cleaned up by the one that is killed.
        patch.setattr("syncd.workers.probe_objects.ProbeObjects.clean_up", lambda *_: None)
        with pytest.raises(SystemExit):
            list(probe_of(store, client).run())
    made = client.list().items[0]
    client.create([NewFile(local_file_path="theirs.txt")])
    # Another object with a name of the kind.
    other = left(store)[-1].token.replace("sy2-", "sy2-0")[:-1]
    client.create([NewFile(local_file_path=f"probe.{other}.txt")])
    reconciler_of(store, client).probe_objects.step()
    assert not [one for one in left(store) if one.file_uuid]
    assert made.file_uuid not in {item.file_uuid for item in client.list().items}
    assert client.list().count == 2


@pytest.mark.long
def test_an_object_of_another_size_is_not_deleted_for_its_token(store, serve):
    client = serve()()
    noted = store.write(
        lambda db: probing.intend(db, b"probe.txt", b"text", "direct", None, time.time())
    )
    name = f"syncd-probe/probe.{noted.token}.txt"
    (theirs,) = client.create([NewFile(local_file_path=name, content_type="text/plain")]).files
    httpx.put(theirs.file_url, content=b"other", headers={"content-type": "text/plain"})
    reconciler_of(store, client).probe_objects.step()
    assert [item.file_uuid for item in client.list().items] == [theirs.file_uuid]
    assert left(store) == [noted]


@pytest.mark.long
def test_a_deletion_that_fails_is_made_up_for_however_many_probes_come_between(store, serve):
    client = serve()()
    faults(client, {"match": "DELETE /v2/files/{file_uuid}", "action": {"status": 500}})
    for count in (4, 8):
        *_, last = probe_of(store, client, reconciler=reconciler_of(store, client)).run()
        assert len(last["left"]) == len(left(store)) == client.list().count == count
    faults(client)
    reconciler_of(store, client).probe_objects.step()
    assert client.list().count == len(left(store)) == 0


@pytest.mark.long
def test_an_upload_without_an_answer_leaves_nothing(store, serve):
    client = serve()()
    faults(client, {"match": "POST /v2/files/-/uploads", "every": 2, "action": "drop_after"})
    *_, last = probe_of(store, client).run()
    assert client.list().count == 0
    assert (last["left"], left(store)) == ([], [])


# The evidence


def late_sizes(seconds):
    """Have sizes and download URLs told some time after the PUT."""
    since = {}

    def change(request, document):
        for item in document.get("items", [document]):
            if "organization_uuid" in item:
                began = since.setdefault(item["file_uuid"], time.monotonic())
                if time.monotonic() < began + seconds:
                    item["file_size_bytes"] = item["file_url"] = None

    return change


def test_a_minute_without_sizes_and_a_portal_teach_nothing_of_sizes(store, serve, monkeypatch):
    monkeypatch.setattr(service_probe, "SIZE_SECONDS", 0.5)
    # The video never comes to the service.
    monkeypatch.setattr(service_probe, "VIDEO_SECONDS", 0.5)
    probe = probe_of(store, serve()(transport=Between(late_sizes(60), portal=True)))
    list(probe.run())
    assert (probe.facts.sizes, store.fact(confirming.SIZES)) == (None, None)
    assert probe.facts.unseen["sizes"] == "no size was told within 0 s"
    assert "ETag" in probe.facts.unseen["put_needs_type"]
    # An object that is not known to be whole is no sample.
    assert store.read(lambda db: echo.learned(db, "presigned")) is None


@pytest.mark.long
def test_a_size_that_is_told_late_is_waited_for(store, serve):
    probe = probe_of(store, serve()(transport=Between(late_sizes(1.0))))
    list(probe.run())
    assert (probe.facts.sizes, store.fact(confirming.SIZES)) == ("record", confirming.TOLD)


@pytest.mark.long
def test_a_name_that_only_the_record_shows_is_not_learned_to_be_echoed(store, serve):
    def hide(request, document):
        if request.url.path == "/v2/files" and request.method == "GET":
            document["items"] = []
            document["count"] = 0

    probe = probe_of(store, serve()(transport=Between(hide)))
    list(probe.run())
    assert probe.facts.echo is None
    assert probe.facts.unseen["echo"] == "the listing does not show what was uploaded"
    assert store.read(echo.echoes) == {}


@pytest.mark.long
def test_four_files_show_no_order_and_no_longest_page(store, serve):
    probe = probe_of(store, serve(personality=["unordered", "page-cap"])())
    list(probe.run())
    assert probe.facts.order in (None, "none")
    assert probe.facts.page_cap is None
    assert probe.facts.unseen["page_cap"] == "4 files are too few to tell"


@pytest.mark.long
def test_times_that_are_equal_show_no_order(store, serve):
    def same(request, document):
        for item in document.get("items", ()):
            item["created_at"] = "2026-01-01T00:00:00Z"

    client = serve()(transport=Between(same))
    client.create([NewFile(local_file_path=f"theirs {n}.txt") for n in range(THEIRS)])
    probe = probe_of(store, client)
    list(probe.run())
    assert (probe.facts.order, probe.facts.second_delete) == (None, 404)


# Each fact for itself


@pytest.mark.long
@pytest.mark.parametrize(
    ("rule", "unseen"),
    [
        ("GET /v2/files/{file_uuid}/frames", {"video_frames"}),
        (
            "GET /v2/files/{file_uuid}/status",
            {"video_status", "video_frames", "video_metadata"},
        ),
        ("PUT /_storage/{file_uuid}", {"put_needs_type", "sizes"}),
        ("POST /v2/files", {"put_needs_type", "sizes", "url_seconds"}),
        ("POST /v2/files/-/uploads", {"echo"}),
        ("DELETE /v2/files/{file_uuid}", {"second_delete"}),
    ],
)
def test_a_step_that_fails_is_not_seen_and_all_else_is(store, serve, rule, unseen):
    client = serve(page_limit=4, processing_seconds=0)()
    faults(client, {"match": rule, "action": {"status": 418}})
    probe = probe_of(store, client)
    *_, last = probe.run()
    facts = last["facts"]
    missing = {name for name, value in facts.items() if value is None}
    assert missing <= unseen | {"order"}
    assert unseen <= facts["unseen"].keys()
    assert all(
        "418" in facts["unseen"][name] or "not known" in facts["unseen"][name] for name in unseen
    )


@pytest.mark.parametrize("member", ["file_uuid", pytest.param("file_url", marks=pytest.mark.long)])
def test_an_answer_that_names_no_object_or_no_url_is_told(store, serve, member):
    def null(request, document):
        for item in document.get("files", ()):
            item[member] = None

    client = serve()(transport=Between(null))
    probe = probe_of(store, client)
    *_, last = probe.run()
    assert member in probe.facts.unseen["sizes"]
    assert probe.facts.video_frames == 4
    assert client.list().count == 0
    assert last["left"] == []


@pytest.mark.parametrize("cap", [pytest.param(1, marks=pytest.mark.long), 5])
def test_the_longest_page_that_is_not_refused_is_found(store, serve, cap):
    probe = probe_of(store, serve(page_limit=cap, refuses_limit=True)())
    list(probe.run())
    assert (probe.facts.refuses_limit, probe.facts.page_cap) == (True, cap)
    assert probe.facts.second_delete == 404


def test_a_dead_service_is_told_before_anything_is_made(store, serve):
    client = serve()()
    faults(client, {"match": "GET /v2/files", "action": {"status": 401}})
    with pytest.raises(UnauthorizedError):
        list(probe_of(store, client).run())
    assert objects(client) == []


def test_two_probes_are_not_made_at_once(store, serve):
    client = serve()()
    reconciler = reconciler_of(store, client)
    first, second = (probe_of(store, client, reconciler=reconciler) for _ in range(2))
    steps = first.run()
    next(steps)
    with pytest.raises(ProbeError, match="another probe is at work"):
        list(second.run())
    steps.close()
    list(second.run())
    assert second.facts.second_delete == 404


def test_a_service_that_asks_for_patience_is_not_asked(store, serve):
    client = serve()()
    reconciler = reconciler_of(store, client)
    reconciler.gate._shut(60)
    with pytest.raises(ProbeError, match="no request is made for 60 s"):
        list(probe_of(store, client, reconciler=reconciler).run())
    assert objects(client) == []


@pytest.mark.long
def test_a_quota_that_is_used_up_ends_the_uploads(store, serve):
    client = serve()()
    faults(client, {"match": "POST /v2/*", "action": {"status": 402}})
    probe = probe_of(store, client)
    list(probe.run())
    requests = httpx.get(f"{client.base_url}/_emulator/requests").text
    assert requests.count('"POST"') == 1
    assert "quota" in probe.facts.unseen["sizes"]


@pytest.mark.long
def test_a_probe_ends_in_time_and_tells_what_it_saw(store, serve, monkeypatch):
    monkeypatch.setattr(service_probe, "MOST_SECONDS", 4.0)
    monkeypatch.setattr(service_probe, "CLEAN_SECONDS", 2.0)
    monkeypatch.setattr(service_probe, "LIST_SECONDS", 1.0)
    client = serve(personality=["page-cap", "unordered"], list_seconds=0.3)()
    client.create([NewFile(local_file_path=f"theirs {n}.txt") for n in range(600)])
    probe, began = probe_of(store, client), time.monotonic()
    list(probe.run())
    assert time.monotonic() - began < 8
    assert (probe.facts.order, probe.facts.page_cap) == ("none", 20)
    assert "minute" in probe.facts.unseen["echo"]
    assert not left(store)
