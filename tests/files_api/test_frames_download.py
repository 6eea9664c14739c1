"""Frames are downloaded under names of our own, whole, bounded, and from nowhere else."""

import os
import resource
import threading

import pytest
from files_api_server import KEY, OTHER_UUID, UUID, http

from syncd.files_api import FilesClient
from syncd.frames import directory as places, download as downloads
from syncd.frames.directory import FramesError, opened
from syncd.frames.download import Download, DownloadError, FrameUrls

IMAGE = b"\xff\xd8\xff\xe0" + b"picture" * 20


class Site:
    """A storage that answers for each path as told, on a connection of its own."""

    def __init__(self, serve):
        self.answers = {}
        self.server = serve(self._behave)

    def _behave(self, connection):
        while connection.read_request():
            path = connection.received.head.split(b" ")[1].decode().partition("?")[0]
            answer = self.answers.get(path, http(200, IMAGE))
            if callable(answer):
                answer(connection)
                return
            connection.sock.sendall(answer.pop(0) if isinstance(answer, list) else answer)

    def url(self, path, query="?signature=canary-signature"):
        return f"{self.server.url}{path}{query}"

    @property
    def asked(self):
        return [seen.head.split(b" ")[1].decode() for seen in self.server.requests]


@pytest.fixture
def site(serve, monkeypatch):
    monkeypatch.setattr(downloads, "backoff_seconds", lambda *_, **__: 0.0)
    return Site(serve)


@pytest.fixture
def run(site, tmp_path):
    """Download URLs into a directory; return the outcomes by number."""

    def run(urls, *, into=tmp_path / "out", most_bytes=1 << 30, base=None, **settings):
        def make_client(stop):
            base_url = base or site.server.url
            return FilesClient(base_url=base_url, api_key=None, stop=stop, **settings)

        ask = urls if callable(urls) else lambda: urls
        with opened(into, UUID) as directory:
            found = list(Download(FrameUrls(ask), directory, make_client, most_bytes).run())
        return {outcome.number: outcome for outcome in found}

    return run


def names(tmp_path):
    return sorted({path.name for path in (tmp_path / "out").iterdir()} - {places.MARKER})


@pytest.mark.row(55)
@pytest.mark.parametrize(
    "path",
    [
        *("/a/../../../../etc/cron.d/x", "//etc/passwd", "/%2e%2e%2f%2e%2e%2fx", "/x%00.jpg"),
        *("/frame_000009.jpg", "/" + "n" * 3000, "/%1b%5d0;x%07", "/.ssh/authorized_keys"),
    ],
)
def test_a_frame_has_our_name_whatever_its_url_says(site, run, tmp_path, path):
    site.answers = {}
    assert run([site.url(path)])[1].kept.name == "frame-000001.jpg"
    assert names(tmp_path) == ["frame-000001.jpg"]
    assert (tmp_path / "out/frame-000001.jpg").read_bytes() == IMAGE
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_frames_are_named_by_their_content_and_no_key_goes_along(site, run, tmp_path):
    site.answers = {"/2": http(200, b"\x89PNG\r\n\x1a\n....", "content-type: text/x-evil")}
    run([site.url("/1"), site.url("/2")])
    assert names(tmp_path) == ["frame-000001.jpg", "frame-000002.png"]
    assert all(b"x-api-key" not in seen.head.lower() for seen in site.server.requests)
    assert all(KEY.encode() not in seen.head for seen in site.server.requests)


def test_what_is_there_whole_is_not_downloaded_again(site, run, tmp_path):
    urls = [site.url(f"/{number}") for number in range(1, 6)]
    site.answers = {"/3": http(404, b"gone")}
    first = run(urls)
    assert [number for number, outcome in sorted(first.items()) if outcome.error] == [3]
    (tmp_path / "out/frame-000005.jpg").write_bytes(b"")
    site.answers, before = {}, len(site.asked)
    again = run(urls)
    assert {path.partition("?")[0] for path in site.asked[before:]} == {"/3", "/5"}
    assert [again[number].was_there for number in range(1, 6)] == [True, True, False, True, False]
    assert len(names(tmp_path)) == 5


def trickle_without_end(connection):
    connection.sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    piece = b"\xff\xd8\xff\xe0" + bytes(65532)
    while not connection.over.is_set():
        connection.sock.sendall(b"10000\r\n" + piece + b"\r\n")


BOMB = "content-encoding: gzip"


@pytest.mark.row(55, 35)
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http(200, b"<html>sign in</html>", "content-type: image/jpeg"), "no image"),
        (http(200, b""), "no image"),
        (http(200, IMAGE, BOMB), "encoded"),
        (trickle_without_end, "which no frame has"),
        (http(302, b"", "location: http://127.0.0.1:1/x"), "never followed"),
        (http(307, b"", "location: file:///etc/passwd"), "never followed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n" + IMAGE, ""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n" + IMAGE, ""),
        (b"nonsense\r\n\r\n", ""),
        (http(403, b"<Error><Code>AccessDenied</Code></Error>"), "AccessDenied"),
    ],
)
def test_a_hostile_answer_fails_its_frame_alone_and_leaves_nothing(
    site, run, tmp_path, monkeypatch, answer, words
):
    monkeypatch.setattr(places, "FRAME_BYTES", 1 << 20)

    def cut(connection):
        connection.sock.sendall(answer)

    site.answers = {"/1": answer if callable(answer) else cut}
    outcomes = run([site.url("/1"), site.url("/2")])
    assert words in outcomes[1].error
    assert outcomes[1].error
    assert "canary" not in outcomes[1].error
    assert outcomes[2].kept
    assert names(tmp_path) == ["frame-000002.jpg"]


@pytest.mark.row(55, 59)
@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1:{port}/1", "http://localhost:{port}/1", "http://2130706433:{port}/1"),
        *("file:///etc/passwd", "ftp://127.0.0.1/1", "", "\x1b[2J", "https://u:p@127.0.0.1/1"),
    ],
)
def test_no_url_leads_into_this_machine_where_the_service_is_elsewhere(site, run, tmp_path, url):
    outcomes = run([url.format(port=site.server.port)], base="https://192.0.2.1")
    assert "the presigned URL cannot be used" in outcomes[1].error
    assert site.server.connections == 0
    assert names(tmp_path) == []


def test_a_frame_is_tried_again_where_that_may_help(site, run):
    site.answers = {"/1": [http(503, b""), http(429, b""), http(200, IMAGE)]}
    assert run([site.url("/1")])[1].kept


def test_urls_that_expired_are_listed_anew(site, run, monkeypatch):
    monkeypatch.setattr(downloads, "FRESH_SECONDS", 0.0)
    expired = http(403, b"<Error><Code>AccessDenied</Code></Error>")
    site.answers = {f"/old{number}": expired for number in range(1, 4)}
    lists = [["/old1", "/old2", "/old3"], ["/new1", "/new2", "/new3"]]
    outcomes = run(lambda: [site.url(path) for path in lists.pop(0)])
    assert all(outcome.kept for outcome in outcomes.values())
    assert lists == []


def test_a_video_that_has_other_frames_meanwhile_ends_the_download(site, run, monkeypatch):
    monkeypatch.setattr(downloads, "FRESH_SECONDS", 0.0)
    site.answers = {"/1": http(403, b"")}
    lists = [["/1", "/2"], ["/1"]]
    with pytest.raises(DownloadError, match="has 1 frames now, and had 2"):
        run(lambda: [site.url(path) for path in lists.pop(0)])


def test_all_frames_together_are_bounded(site, run, tmp_path):
    urls = [site.url(f"/{number}") for number in range(50)]
    with pytest.raises(DownloadError, match="--max-size"):
        run(urls, most_bytes=len(IMAGE) * 10)
    assert len(names(tmp_path)) <= 10


def test_a_storage_that_fails_everything_is_not_asked_for_every_frame(site, run):
    urls = [site.url(f"/{number}") for number in range(300)]
    site.answers = {f"/{number}": http(404, b"") for number in range(300)}
    assert len(run(urls)) < 12 + 2 * downloads.AT_A_TIME
    assert len(site.asked) < 12 + 2 * downloads.AT_A_TIME


def test_a_disk_that_takes_no_more_ends_the_download_and_leaves_no_draft(site, run, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    site.answers = {"/2": http(200, IMAGE + bytes(100_000))}
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(DownloadError, match="cannot write a frame: File too large"):
            run([site.url("/1"), site.url("/2")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set(names(tmp_path)) <= {"frame-000001.jpg"}


@pytest.mark.row(55)
def test_links_in_the_directory_are_not_followed(site, run, tmp_path):
    (tmp_path / "canary").write_bytes(b"canary")
    with opened(tmp_path / "out", UUID):
        (tmp_path / "out/frame-000001.jpg").symlink_to(tmp_path / "canary")
        (tmp_path / "out/frame-000002.jpg").symlink_to(tmp_path / "not there")
    outcomes = run([site.url("/1"), site.url("/2")])
    assert not any(outcome.was_there for outcome in outcomes.values())
    assert (tmp_path / "canary").read_bytes() == b"canary"
    assert not (tmp_path / "not there").exists()
    assert not (tmp_path / "out/frame-000001.jpg").is_symlink()


@pytest.mark.row(55)
@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_a_marker_that_is_no_file_is_refused(tmp_path, kind):
    (tmp_path / "out").mkdir()
    marker = tmp_path / "out" / places.MARKER
    if kind == "link":
        marker.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(marker)
    else:
        marker.mkdir()
    refused(tmp_path / "out", UUID, "cannot download into|not from syncd")
    assert not (tmp_path / "elsewhere").exists()


def refused(into, file_uuid, words):
    with pytest.raises(FramesError, match=words), opened(into, file_uuid):
        pass


def test_a_directory_holds_the_frames_of_one_video(tmp_path):
    with opened(tmp_path / "out", UUID):
        refused(tmp_path / "out", UUID, "another syncd")
    refused(tmp_path / "out", OTHER_UUID, f"holds the frames of {UUID}: give another")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/frame-000001.jpg").write_bytes(b"mine")
    refused(tmp_path / "mine", UUID, "not from syncd")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["frame-000001.jpg"]


def test_what_an_earlier_call_left_half_is_removed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.syncd-0123456789abcdef.draft").write_bytes(b"half")
    (tmp_path / "out/holiday.draft").write_bytes(b"mine")
    with opened(tmp_path / "out", UUID):
        assert names(tmp_path) == ["holiday.draft"]


def test_the_end_of_the_caller_ends_every_transfer(site, tmp_path):
    def hang(connection):
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        connection.over.wait(20)

    site.answers = {"/2": hang}
    with opened(tmp_path / "out", UUID) as directory:
        download = Download(
            FrameUrls(lambda: [site.url("/1"), site.url("/2")]),
            directory,
            lambda stop: FilesClient(base_url=site.server.url, api_key=None, stop=stop),
            1 << 20,
        )
        running = download.run()
        assert next(running).number == 1
        running.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frames-")]
    assert names(tmp_path) == ["frame-000001.jpg"]
