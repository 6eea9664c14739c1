import json
import time

import pytest

from syncd.emulator import Emulator
from syncd.emulator.video import make_video
from syncd.files_api import FilesClient, UploadSource
from syncd.questions import QUESTIONS
from syncd.state.ledger import Failure, Offer, Stored

KEY = "canary-key-000111"
UUID = "00000000-0000-4000-8000-000000000001"


def listing(*urls, count=None, file_uuid=UUID):
    known = {"file_uuid": file_uuid, "frame_count": len(urls) if count is None else count}
    return 200, json.dumps({**known, "frame_urls": list(urls)}).encode()


@pytest.fixture
def video(desk):
    """Put a video into the ledger; return its copy."""

    def put(path=b"clip.mp4", *, file_uuid=UUID, status="completed"):
        file = desk.see(path)
        offer = Offer(file.id, file.fingerprint, "a" * 64, "video/mp4", "direct", vacated=())
        copy = desk.do(desk.ledger.begin, offer, desk.now)
        desk.do(
            desk.ledger.stored,
            copy.id,
            Stored(file_uuid, "remote", status),
            desk.now,
            look=desk.now + 2,
        )
        return copy

    return put


@pytest.fixture
def synced(desk, video):
    """A synced video that no daemon holds."""
    video()
    desk.store.close()
    return desk


def test_frames_are_listed_without_their_signatures(synced, service, syncd):
    service.answer = listing(
        "https://storage.example/f/1.jpg?X-Amz-Signature=canary",
        "https://me:canary@storage.example/f/2\x1b]0;.jpg#canary",
    )
    code, out, err = syncd("frames", "f/clip.mp4")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["1", "https://storage.example/f/1.jpg"],
        ["2", "https://storage.example/f/2\\x1b]0;.jpg"],
    ]
    code, out, _ = syncd("frames", "clip.mp4", "--json")
    assert code == 0
    assert json.loads(out.splitlines()[0]) == {
        "number": 1,
        "url": "https://storage.example/f/1.jpg",
    }
    assert service.keys[0] == (f"/v2/files/{UUID}/frames", KEY)
    assert "canary" not in out


#: Answers that tell no frames, each with a part of what is said then.
HOSTILE = [
    ((200, b"<html>sign in</html>"), "cannot read the answer"),
    ((200, b'{"file_uuid": null}'), "is missing"),
    (listing(None), "list of text"),
    (listing({"url": "x"}), "list of text"),
    (listing(file_uuid=UUID[:-1] + "2"), "another file"),
    ((200, b'{"frame_count": -1}'), "cannot read"),
    ((302, b""), "never followed"),
    ((404, b"{}"), "has no file"),
    ((500, b"<title>oops</title>"), "oops"),
]


@pytest.mark.row(55, 35)
def test_an_answer_that_tells_no_frames_is_told_in_words(synced, service, syncd):
    for service.answer, words in HOSTILE:
        code, out, err = syncd("frames", "f/clip.mp4", "--download", "out")
        assert (code, out) == (1, ""), words
        assert words in err
        assert "internal" not in err
    assert not (synced.home / "out").exists()


@pytest.mark.row(55)
def test_a_list_of_countless_frames_is_refused(synced, service, syncd, monkeypatch):
    monkeypatch.setattr("syncd.cli.frames.MOST_FRAMES", 1000)
    service.answer = listing(*["https://storage.example/"] * 1001)
    code, _, err = syncd("frames", "f/clip.mp4", "--download", "out")
    assert code == 1
    assert "more than 1,000 frames" in err


def test_a_uuid_is_taken_where_no_file_has_that_name(synced, service, syncd):
    other = UUID[:-1] + "7"
    service.answer = listing("https://storage.example/1", file_uuid=other)
    assert syncd("frames", other)[0] == 0
    assert service.keys == [(f"/v2/files/{other}/frames", KEY)]


def test_fewer_urls_than_frames_are_said(synced, service, syncd):
    service.answer = listing("https://storage.example/1", count=3)
    code, out, err = syncd("frames", "f/clip.mp4")
    assert code == 1
    assert len(out.splitlines()) == 1
    assert "URLs of 1 of the 3 frames" in err


def test_a_refused_key_ends_with_its_exit_code(synced, service, syncd):
    error = {"code": "auth.invalid_key", "message": "no such key"}
    service.answer = (401, json.dumps({"error": error}).encode())
    code, _, err = syncd("frames", "f/clip.mp4")
    assert code == 77
    assert "no such key" in err


def test_another_service_than_the_states_is_never_shown_the_key(
    desk, video, service, syncd, monkeypatch
):
    video()
    desk.store.bind(service.url, 0.0, advice="")
    desk.store.close()
    monkeypatch.setenv("SYNCD_API__BASE_URL", service.url + "/other")
    code, _, err = syncd("frames", "f/clip.mp4")
    assert code == 78
    assert f"belongs to {service.url}, and" in err
    assert service.keys == []


def test_without_a_key_it_says_where_to_put_it(synced, service, syncd, monkeypatch):
    monkeypatch.delenv("AYMARA_AI_API_KEY")
    code, _, err = syncd("frames", "f/clip.mp4")
    assert code == 78
    assert "no API key" in err


def test_a_file_without_frames_says_why(desk, video, service, syncd):
    video(b"processed.mp4", status="processing")
    copy = video(b"broken.mp4", file_uuid=UUID[:-1] + "2", status="processing")
    desk.do(desk.ledger.processing_failed, copy.id, Failure("no such codec"), desk.now)
    desk.sync(b"text.txt", 3)
    desk.see(b"new.mp4", age=0.0)
    desk.store.close()
    for name, words in {
        "processed.mp4": "is processing: its frames are there once it is synced",
        "broken.mp4": "for it failed: no such codec",
        "text.txt": "is text/plain, and no video",
        "new.mp4": "is settling",
        "nothing.mp4": "syncd knows no file",
    }.items():
        code, out, err = syncd("frames", f"f/{name}")
        assert (code, out) == (1, ""), name
        assert words in err, name
        assert "syncd why" in err
    assert service.keys == []


def test_frames_are_not_downloaded_into_a_watch_folder(synced, service, syncd):
    (synced.home / "link").symlink_to(synced.home / "f")
    for into in ("f", "f/deep/er", "link/x"):
        code, _, err = syncd("frames", "f/clip.mp4", "--download", into)
        assert code == 2
        assert "lies in the watch folder" in err
    assert not (synced.home / "f/deep").exists()
    assert service.keys == []


def test_a_daemon_asks_only_at_a_time_that_the_service_allows():
    class Gate:
        def seconds_resting(self):
            return 30.0

    from syncd.commands import COMMANDS
    from syncd.exceptions import SyncdError

    assert "frames" in QUESTIONS
    parts = type("Parts", (), {"gate": Gate()})
    with pytest.raises(SyncdError, match="asked to wait: ask again in 31 s"):
        next(COMMANDS["frames"](parts, {"file_uuid": UUID}))


@pytest.fixture
def real(desk, video, tmp_path, monkeypatch):
    """The uuid of a real video at a real service, and in the ledger."""
    clip = tmp_path / "f/clip.mp4"
    make_video(clip, seconds=1, fps=6, size=(64, 48))
    with Emulator(data=tmp_path / "emulator", api_key=KEY) as emulator:
        monkeypatch.setenv("SYNCD_API__BASE_URL", emulator.url)
        monkeypatch.setenv("AYMARA_AI_API_KEY", KEY)
        with FilesClient(base_url=emulator.url, api_key=KEY) as client, clip.open("rb") as file:
            source = UploadSource(fd=file.fileno(), size=clip.stat().st_size)
            sent = client.upload(source, name="clip.mp4", content_type="video/mp4")
            deadline = time.monotonic() + 20
            while client.get_status(sent.file_uuid).processing_status != "completed":
                assert time.monotonic() < deadline
                time.sleep(0.02)
        video(file_uuid=sent.file_uuid)
        desk.store.close()
        yield emulator


@pytest.mark.row(55)
def test_a_real_videos_frames_are_downloaded_once(desk, real, syncd):
    code, out, err = syncd("frames", "f/clip.mp4", "--download", "out")
    assert (code, err) == (0, "")
    assert out.startswith("6 frames in out (")
    files = sorted(desk.home.joinpath("out").glob("frame-*"))
    assert [file.name for file in files] == [f"frame-{number:06d}.jpg" for number in range(1, 7)]
    assert all(file.read_bytes().startswith(b"\xff\xd8\xff") for file in files)
    files[2].unlink()
    code, out, _ = syncd("frames", "f/clip.mp4", "--download", "out", "--json")
    assert code == 0
    told = {one["number"]: one for one in map(json.loads, out.splitlines())}
    assert [told[number]["downloaded"] for number in range(1, 7)] == [False] * 2 + [True] + [
        False
    ] * 3
    assert told[3]["file"] == "out/frame-000003.jpg"
    assert told[3]["size"] == files[2].stat().st_size
