"""The findings of `doctor --probe` on services that differ; it leaves nothing behind."""

import time
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest

from syncd.emulator import PERSONALITIES, Emulator
from syncd.files_api import FilesApiError, FilesClient, NewFile, StopFlag
from syncd.state import confirming, echo
from syncd.state.store import Store
from syncd.workers import service_probe
from syncd.workers.service_probe import LEFT, Facts, ServiceProbe

EXPECTED = Facts(
    order="newest",
    sizes="record",
    put_needs_type=True,
    video_status="completed",
    video_frames=4,
    video_metadata=True,
    second_delete=404,
)
CAPPED = {"page_cap": 20}
#: By personality: how names come back, and what else differs from the expected.
TABLE = {
    "newest-first": ("name", {}),
    "oldest-first": ("name", {"order": "oldest"}),
    "unordered": ("name", {"order": "none"}),
    "page-cap": ("name", CAPPED),
    "page-refused": ("name", {"page_cap": 10, "refused_limit": 100}),
    "slow-list": ("name", {}),
    "whole-path": ("path", {}),
    "last-segment": ("name", {}),
    "no-echo": ("none", {}),
    "no-sizes": ("name", {"sizes": "url"}),
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


def probe_of(store, client, pause=time.sleep):
    def learn(kind, what, uploader):
        store.write(lambda db: echo.learn(db, kind, what))

    return ServiceProbe(
        store=store, client=client, learn=learn, workspace=None, clock=time.time, pause=pause
    )


def interrupt(_seconds):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name",
    [n if n == "stranger" else pytest.param(n, marks=pytest.mark.long) for n in TABLE],
)
def test_each_kind_of_service_is_seen_as_it_is(store, serve, name):
    slow = PERSONALITIES[name].get("list_seconds", 0.0)
    client = serve(personality=[name], processing_seconds=1 + 4 * slow)()
    client.create([NewFile(local_file_path=f"theirs {n}.txt") for n in range(THEIRS)])
    probe = probe_of(store, client)
    list(probe.run())
    how, differs = TABLE[name]
    assert probe.facts.list_seconds >= slow
    assert set(probe.facts.echo.values()) == {how}
    # The service tells the time in whole seconds.
    assert probe.facts.url_seconds == pytest.approx(1800, abs=3)
    found = replace(probe.facts, echo={}, files=None, list_seconds=None, url_seconds=None)
    assert found == replace(EXPECTED, **differs)
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
    assert store.fact(LEFT) == "[]"


def of_times(*numbers):
    return [datetime.fromtimestamp(number, UTC) for number in numbers]


def test_an_order_is_told_only_by_more_files_than_may_be_in_one_by_chance():
    few, many = range(service_probe.LEAST_TIMES - 1), range(service_probe.LEAST_TIMES)
    assert service_probe._order(of_times(*few)) is None
    assert service_probe._order(of_times(*reversed(few))) is None
    assert service_probe._order(of_times(0, 0, 0, *few)) is None
    assert service_probe._order(of_times(*many)) == "oldest"
    assert service_probe._order(of_times(*reversed(many))) == "newest"
    assert service_probe._order(of_times(1, 2, 1)) == "none"


def test_what_too_few_files_cannot_show_is_not_told(store, serve):
    client = serve(personality=["unordered", "page-cap"])()
    probe = probe_of(store, client)
    list(probe.run())
    assert probe.facts.order in (None, "none")
    assert (probe.facts.files, probe.facts.page_cap) == (4, None)


def test_what_the_listing_does_not_show_teaches_nothing_of_names(store, serve, monkeypatch):
    client = serve()()
    monkeypatch.setattr(client, "read_listing", lambda *_, **__: None)
    list(probe_of(store, client).run())
    assert store.read(echo.echoes) == {}


def test_every_personality_stands_in_the_table():
    assert TABLE.keys() == PERSONALITIES.keys()


@pytest.mark.parametrize("ending", [KeyboardInterrupt(), FilesApiError("x", operation="x")])
def test_what_was_made_is_deleted_when_the_probe_ends_early(store, serve, ending):
    client = serve(processing_seconds=60)()

    def end(_seconds):
        assert client.list().count == 4
        raise ending

    with pytest.raises(type(ending)):
        list(probe_of(store, client, pause=end).run())
    assert client.list().count == 0


def test_what_a_stopped_probe_left_is_deleted_by_the_next(store, serve):
    client_of, stop = serve(processing_seconds=60), StopFlag()
    client, doomed = client_of(), client_of(stop=stop)
    with pytest.raises(FilesApiError):
        list(probe_of(store, doomed, pause=lambda _: stop.set()).run())
    assert client.list().count == 4
    with pytest.raises(KeyboardInterrupt):
        list(probe_of(store, client, pause=interrupt).run())
    assert client.list().count == 0


def test_an_upload_without_an_answer_leaves_nothing(store, serve):
    client = serve()()
    rule = {"match": "POST /v2/files/-/uploads", "every": 2, "action": "drop_after"}
    httpx.put(f"{client.base_url}/_emulator/faults", json=[rule]).raise_for_status()
    with pytest.raises(FilesApiError):
        list(probe_of(store, client).run())
    assert client.list().count == 0
