import sys

import pytest
from emulator_wire import ask

from syncd.emulator import video
from syncd.emulator.video import VideoError, make_video, read_video


def upload(caller, content, name="clip.mp4", kind="video/mp4"):
    return caller.upload(name, content, kind).json()


def test_a_video_is_processed_and_its_facts_are_read(caller, clip):
    answer = upload(caller, clip)
    assert answer["processing_status"] == "pending"
    assert not answer["remote_file_path"].endswith("/")
    status = caller.processed(answer["file_uuid"])
    assert status["processing_status"] == "completed"
    assert status["remote_file_path"] == f"files/{answer['file_uuid']}/clip.mp4/"
    assert caller.get(f"/v2/files/{answer['file_uuid']}").json()["video_metadata"] == {
        "fps": 12.0,
        "duration": 2.0,
        "frame_count": 24,
        "width": 64,
        "height": 48,
    }


def test_frames_are_ordered_jpegs_with_one_url_each(caller, clip):
    file_uuid = upload(caller, clip)["file_uuid"]
    caller.processed(file_uuid)
    frames = caller.get(f"/v2/files/{file_uuid}/frames").json()
    assert frames["file_uuid"] == file_uuid
    assert frames["frame_count"] == len(frames["frame_urls"]) == 24
    numbers = [url.partition("?")[0].rpartition("_")[2] for url in frames["frame_urls"]]
    assert numbers == [f"{number:06d}.jpg" for number in range(1, 25)]
    first, last = (ask("GET", frames["frame_urls"][index]) for index in (0, -1))
    assert first.content.startswith(b"\xff\xd8")
    assert first.headers["content-type"] == "image/jpeg"
    assert first.content != last.content
    tampered = frames["frame_urls"][0].replace("_000001.jpg", "_000002.jpg")
    assert ask("GET", tampered).status_code == 403


def test_a_presigned_video_is_processed_once_its_bytes_arrive(caller, clip):
    file = {"local_file_path": "clip.mp4", "content_type": "video/mp4"}
    created = caller.create(file).json()["files"][0]
    assert created["processing_status"] == "pending"
    ask("PUT", created["file_url"], content=clip, headers={"content-type": "video/mp4"})
    assert caller.processed(created["file_uuid"])["processing_status"] == "completed"


@pytest.mark.long
def test_the_same_video_put_twice_is_processed_once(caller, clip, monkeypatch):
    read = []

    def counted(*words, **more):
        read.append(words)
        return read_video(*words, **more)

    monkeypatch.setattr("syncd.emulator.processing.read_video", counted)
    created = caller.create({"local_file_path": "clip.mp4"}).json()["files"][0]
    ask("PUT", created["file_url"], content=clip)
    ask("PUT", created["file_url"], content=clip)
    status = caller.processed(created["file_uuid"])
    ask("PUT", created["file_url"], content=clip)
    # There is one queue, so earlier videos are done once this one is.
    caller.processed(upload(caller, clip)["file_uuid"])
    assert caller.get(f"/v2/files/{created['file_uuid']}/status").json() == status
    assert len(read) == 2


def test_a_broken_video_fails_with_a_reason(caller, clip):
    for content in (b"no video at all", b"", clip[:100]):
        status = caller.processed(upload(caller, content)["file_uuid"])
        assert status["processing_status"] == "failed"
        assert "cannot be read" in status["error_message"]
        assert status["remote_file_path"] is None


def test_frames_before_completion_are_a_conflict_that_names_the_status_path(run, clip):
    caller = run(processing_seconds=60)
    file_uuid = upload(caller, clip)["file_uuid"]
    answer = caller.get(f"/v2/files/{file_uuid}/frames")
    assert answer.status_code == 409
    assert f"/v2/files/{file_uuid}/status says completed" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_frames_of_a_failed_video_are_a_conflict(caller):
    file_uuid = upload(caller, b"no video")["file_uuid"]
    caller.processed(file_uuid)
    answer = caller.get(f"/v2/files/{file_uuid}/frames")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "file.processing_failed"
    assert "cannot be read" in answer.json()["error"]["details"]["error_message"]


def test_frames_of_another_file_are_a_bad_request(caller):
    file_uuid = caller.upload().json()["file_uuid"]
    answer = caller.get(f"/v2/files/{file_uuid}/frames")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "file.not_a_video")


@pytest.mark.long
def test_a_video_deleted_while_it_is_processed_stays_deleted(run, clip):
    caller = run(processing_seconds=0.1)
    first, second = (upload(caller, clip)["file_uuid"] for _ in range(2))
    assert caller.delete(f"/v2/files/{first}").status_code == 204
    caller.processed(second)
    assert [line["state"] for line in caller.lines("objects")] == ["deleted", "live"]


@pytest.mark.long
def test_a_stop_does_not_wait_for_a_video_and_a_restart_processes_it(run, clip):
    with run.here(processing_seconds=60) as caller:
        ids = [upload(caller, clip)["file_uuid"] for _ in range(2)]
        while caller.get(f"/v2/files/{ids[0]}").json()["processing_status"] != "processing":
            pass
    caller = run()
    assert [caller.processed(uuid)["processing_status"] for uuid in ids] == ["completed"] * 2


def test_without_pyav_a_video_fails_with_the_install_command(caller, clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    status = caller.processed(upload(caller, clip)["file_uuid"])
    assert status["processing_status"] == "failed"
    assert "pip install 'syncd[emulator]'" in status["error_message"]


def test_every_nth_frame_of_a_long_video_is_extracted(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MOST_FRAMES", 10)
    path, frames = tmp_path / "long.mp4", tmp_path / "frames"
    make_video(path, seconds=1, fps=24, size=(16, 16))
    assert read_video(path, frames).frame_count == 8
    assert len(list(frames.iterdir())) == 8


def test_an_audio_file_is_not_a_video(tmp_path):
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame("fltp", "stereo", 1024)
        frame.sample_rate = 48_000
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="contains no video"):
        read_video(path, tmp_path / "frames")
