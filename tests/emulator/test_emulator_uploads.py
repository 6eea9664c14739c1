from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from uuid import UUID

import pytest
from emulator_wire import KEY, dial, multipart_head, read_answer

from syncd.emulator import ORGANIZATION


def test_an_upload_is_stored_and_answered_like_the_service_does(caller):
    answer = caller.upload("dir/a.txt", b"some bytes")
    assert answer.status_code == 200
    body = answer.json()
    file_uuid = str(UUID(body["file_uuid"]))
    assert body.pop("file_url").startswith(f"{caller.emulator.url}/_storage/{file_uuid}?")
    assert body == {
        "file_uuid": file_uuid,
        "local_file_path": "a.txt",
        "remote_file_path": f"files/{file_uuid}/a.txt",
        "remote_uri": None,
        "content_type": "text/plain",
        "processing_status": "completed",
    }
    (stored,) = caller.lines("objects")
    assert stored["state"] == "live"
    assert stored["sha256"] == sha256(b"some bytes").hexdigest()
    assert stored["size"] == 10
    assert stored.keys() == {
        "file_uuid", "state", "sha256", "size", "content_type", "local_file_path", "remote_uri",
        "workspace_uuid", "created_at", "deleted_at",
    }  # fmt: skip


def test_a_file_is_shown_in_detail(caller):
    workspace = "6f0c2f1e-0000-4000-8000-000000000001"
    query = {"workspace_uuid": workspace}
    file_uuid = caller.upload("a.png", b"x", "image/png", params=query).json()["file_uuid"]
    detail = caller.get(f"/v2/files/{file_uuid}").json()
    assert detail.pop("created_at") <= detail.pop("updated_at")
    assert detail.pop("file_url").startswith("http://")
    assert detail == {
        "file_uuid": file_uuid,
        "organization_uuid": ORGANIZATION,
        "workspace_uuid": workspace,
        "content_type": "image/png",
        "file_type": "image",
        "file_size_bytes": 1,
        "original_file_url": "a.png",
        "remote_file_path": f"files/{file_uuid}/a.png",
        "processing_status": "completed",
        "video_metadata": None,
        "uploaded_by_uuid": None,
    }
    status = caller.get(f"/v2/files/{file_uuid}/status").json()
    assert status["processing_status"] == "completed"
    assert status["remote_file_path"] == detail["remote_file_path"]


def test_an_empty_file_is_a_file(caller):
    file_uuid = caller.upload("empty", b"").json()["file_uuid"]
    assert caller.get(f"/v2/files/{file_uuid}").json()["file_size_bytes"] == 0


def test_two_uploads_of_equal_content_are_two_files(caller):
    one, two = caller.upload().json(), caller.upload().json()
    assert one["file_uuid"] != two["file_uuid"]


@pytest.mark.parametrize(
    ("echo", "local", "last"),
    [("path", "a/b/c.txt", "c.txt"), ("name", "c.txt", "c.txt"), ("none", None, "content")],
)
def test_only_the_configured_part_of_a_name_is_echoed(run, echo, local, last):
    caller = run(echo=echo)
    direct = caller.upload("a/b/c.txt").json()
    reserved = caller.create({"local_file_path": "a/b/c.txt"}).json()["files"][0]
    assert direct["local_file_path"] == local
    # A create repeats the path as it was sent.
    assert reserved["local_file_path"] == (None if echo == "none" else "a/b/c.txt")
    for answer in (direct, reserved):
        assert answer["remote_file_path"] == f"files/{answer['file_uuid']}/{last}"
        detail = caller.get(f"/v2/files/{answer['file_uuid']}").json()
        assert detail["original_file_url"] == local
        assert ("c.txt" in str(detail)) == (echo != "none")
    assert {item["local_file_path"] for item in caller.lines("objects")} == {"a/b/c.txt"}


@pytest.mark.parametrize(
    ("kind", "name", "content_type", "file_type"),
    [
        ("image/JPEG", "a", "image/jpeg", "image"),
        ("text/csv; charset=utf-8", "a", "text/csv", "text"),
        ("application/pdf", "a", "application/pdf", "document"),
        ("application/octet-stream", "a.txt", "application/octet-stream", "document"),
        ("application/octet-stream", "a.MKV", "video/x-matroska", "video"),
    ],
)
def test_the_declared_type_counts_but_octet_stream_videos_are_recognized_by_name(
    caller, kind, name, content_type, file_type
):
    file_uuid = caller.upload(name, b"x", kind).json()["file_uuid"]
    detail = caller.get(f"/v2/files/{file_uuid}").json()
    assert (detail["content_type"], detail["file_type"]) == (content_type, file_type)


def test_a_body_without_its_closing_boundary_is_refused_and_nothing_is_stored(caller):
    with dial(caller.emulator.url) as connection:
        connection.sendall(multipart_head(5) + b"12345")
        answer = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"closing boundary" in answer
    assert caller.lines("objects") == []


def test_a_connection_that_breaks_in_the_middle_leaves_nothing(caller, tmp_path):
    with dial(caller.emulator.url) as connection:
        connection.sendall(multipart_head(1_000_000) + b"x" * 200_000)
    with dial(caller.emulator.url) as connection:
        connection.sendall(multipart_head(1_000_000) + b"x" * 200_000)
    while len(caller.lines("requests")) < 2:
        pass
    assert caller.lines("objects") == []
    assert list((tmp_path / "data" / "contents").iterdir()) == []
    assert {line["status"] for line in caller.lines("requests")} == {499}


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"", 415),
        ("multipart/form-data; boundary=b", b"no multipart at all", 400),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 422),
        (
            "multipart/form-data; boundary=wrong",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n1\r\n--b--',
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data; " + b"x" * 9999,
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="other"; filename="x"\r\n\r\n1\r\n--b--',
            422,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n1\r\n--b--',
            422,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n1\r\n' * 2
            + b"--b--",
            422,
        ),
    ],
)
def test_an_invalid_upload_is_refused_and_nothing_is_stored(
    caller, tmp_path, content_type, body, status
):
    headers = {"content-type": content_type}
    answer = caller.post("/v2/files/-/uploads", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert caller.lines("objects") == []
    assert list((tmp_path / "data" / "contents").iterdir()) == []


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        ('filename="a b;c.txt"', "a b;c.txt"),
        ("filename=bare.txt", "bare.txt"),
        (r'filename="a \"b\" \\c.txt"', r'a "b" \c.txt'),
        ('filename="a%22b.txt"', "a%22b.txt"),
        ('filename="\u20ac.txt"', "\u20ac.txt"),
        # RFC 7578: the extended notation has no place in multipart/form-data.
        ("filename=\"plain.txt\"; filename*=UTF-8''%E2%82%AC.txt", "plain.txt"),
        ("filename*=UTF-8''%E2%82%AC.txt", None),
        ('filename=""', None),
    ],
)
def test_a_filename_is_unescaped_and_required(caller, sent, known):
    body = f'--b\r\nContent-Disposition: form-data; name="file"; {sent}\r\n\r\n1\r\n--b--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=b"}
    answer = caller.post("/v2/files/-/uploads", content=body.encode(), headers=headers)
    assert answer.status_code == (422 if known is None else 200), answer.text
    assert answer.json().get("local_file_path") == known


def test_other_parts_are_ignored(caller):
    file = ("a.txt", b"mine", "text/plain")
    parts = [("before", (None, b"1")), ("file", file), ("after", ("b", b"3"))]
    assert caller.post("/v2/files/-/uploads", files=parts).status_code == 200
    (stored,) = caller.lines("objects")
    assert (stored["local_file_path"], stored["size"]) == ("a.txt", 4)


def test_a_client_that_sends_everything_first_can_still_read_the_413(run):
    caller = run(max_body=1000)
    with dial(caller.emulator.url) as connection:
        connection.sendall(multipart_head(30_000_000))
        for _ in range(30):
            connection.sendall(b"x" * 1_000_000)
        assert read_answer(connection).startswith(b"HTTP/1.1 413 ")


def test_a_body_declared_too_large_is_refused_before_it_is_sent(run):
    caller = run(max_body=1000)
    with dial(caller.emulator.url) as connection:
        connection.sendall(multipart_head(5000))
        answer = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_of_unknown_length_is_refused_once_it_is_too_large(run):
    caller = run(max_body=100_000)
    head = multipart_head(0).partition(b"\r\n\r\n")[2]
    answer = caller.post(
        "/v2/files/-/uploads",
        content=iter([head, *[b"x" * 50_000] * 4]),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code == 413
    assert answer.json()["error"]["details"] == {"limit": 100_000}
    assert caller.lines("objects") == []
    assert caller.upload().status_code == 200


def test_a_connection_survives_a_refusal_in_the_middle_of_a_body(run):
    caller = run(max_body=1000)
    for _ in range(3):
        assert caller.upload(content=b"x" * 300_000).status_code == 413
        assert caller.upload(content=b"x").status_code == 200


@pytest.mark.long
def test_concurrent_uploads_are_all_stored(caller):
    contents = [str(number).encode() * 1000 for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda c: caller.upload(content=c).json(), contents))
    digests = {item["file_uuid"]: item["sha256"] for item in caller.lines("objects")}
    sent = [sha256(content).hexdigest() for content in contents]
    assert [digests[answer["file_uuid"]] for answer in answers] == sent


def test_a_name_that_httpx_escapes_arrives_unchanged(caller):
    answer = caller.upload('ü "q" \n.txt').json()
    assert answer["local_file_path"] == "ü %22q%22 %0A.txt"


def test_either_header_carries_the_key(caller):
    del caller.headers["x-api-key"]
    assert caller.upload(headers={"authorization": f"Bearer {KEY}"}).status_code == 200
