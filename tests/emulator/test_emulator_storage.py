from hashlib import sha256
from urllib.parse import urlsplit

import pytest
from emulator_wire import ask


class Clock:
    now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def caller(run, clock):
    return run(clock=clock, max_body=100_000)


@pytest.fixture
def reserved(caller):
    answer = caller.create({"local_file_path": "d/a.png", "content_type": "image/png"})
    return answer.json()["files"][0]


def put(url, content=b"pixels", kind="image/png", **headers):
    return ask("PUT", url, content=content, headers={"content-type": kind} | headers)


def refused(answer, status, code):
    """Return whether storage refused in XML and not in the API's envelope."""
    xml = answer.headers["content-type"].startswith("application/xml")
    return xml and answer.status_code == status and f"<Code>{code}</Code>" in answer.text


def test_a_reserved_file_is_listed_and_has_no_bytes(caller, reserved):
    assert reserved["processing_status"] == "completed"
    (item,) = caller.get("/v2/files").json()["items"]
    assert item["file_size_bytes"] is None
    assert caller.get(f"/v2/files/{reserved['file_uuid']}").json()["file_url"] is None
    assert [line["state"] for line in caller.lines("objects")] == ["reserved"]


def test_a_put_makes_a_reserved_file_live(caller, reserved):
    assert put(reserved["file_url"]).status_code == 200
    (line,) = caller.lines("objects")
    assert (line["state"], line["size"]) == ("live", 6)
    assert line["sha256"] == sha256(b"pixels").hexdigest()
    detail = caller.get(f"/v2/files/{reserved['file_uuid']}").json()
    assert ask("GET", detail["file_url"]).content == b"pixels"
    assert ask("GET", detail["file_url"]).headers["content-type"] == "image/png"


def test_the_same_bytes_twice_are_one_object(caller, reserved, tmp_path):
    assert [put(reserved["file_url"]).status_code for _ in range(2)] == [200, 200]
    assert len(caller.lines("objects")) == 1
    assert len(list((tmp_path / "data" / "contents").iterdir())) == 1


def test_other_bytes_replace_the_first(caller, reserved):
    put(reserved["file_url"])
    put(reserved["file_url"], b"others")
    (line,) = caller.lines("objects")
    assert line["sha256"] == sha256(b"others").hexdigest()


def test_a_put_to_a_deleted_file_does_not_restore_it(caller, reserved):
    caller.delete(f"/v2/files/{reserved['file_uuid']}")
    assert put(reserved["file_url"]).status_code == 200
    assert [line["state"] for line in caller.lines("objects")] == ["deleted"]
    assert caller.get(f"/v2/files/{reserved['file_uuid']}").status_code == 404


def test_a_url_is_valid_for_30_minutes(reserved, clock):
    clock.now += 1800
    assert put(reserved["file_url"]).status_code == 200
    clock.now += 1
    assert refused(put(reserved["file_url"]), 403, "AccessDenied")


@pytest.mark.parametrize(
    "tamper",
    [
        lambda url: url[:-1] + ("0" if url[-1] != "0" else "1"),
        lambda url: url.replace("X-Expires=1", "X-Expires=2"),
        lambda url: url.partition("?")[0],
        lambda url: url.replace("/_storage/", "/_storage/0"),
        lambda url: url.replace("X-Signature=", "X-Signature=%C3%BC"),
    ],
)
def test_a_url_that_was_tampered_with_is_refused(caller, reserved, tamper):
    assert refused(put(tamper(reserved["file_url"])), 403, "SignatureDoesNotMatch")
    assert [line["state"] for line in caller.lines("objects")] == ["reserved"]


def test_storage_refuses_in_xml_with_a_request_id(caller, reserved):
    answers = [ask("POST", reserved["file_url"]), put(reserved["file_url"].partition("?")[0])]
    assert refused(answers[0], 405, "MethodNotAllowed")
    assert refused(answers[1], 403, "SignatureDoesNotMatch")
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert [line["request_id"] for line in caller.lines("requests")][1:] == ids


def test_a_url_is_valid_for_one_method_only(reserved):
    assert refused(ask("GET", reserved["file_url"]), 403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_a_presigned_request_with_a_key_is_refused(caller, reserved, header):
    assert refused(put(reserved["file_url"], **{header: "secret"}), 400, "InvalidArgument")
    assert [line["state"] for line in caller.lines("objects")] == ["reserved"]


def test_a_put_must_repeat_the_declared_content_type(reserved):
    assert refused(put(reserved["file_url"], kind="text/plain"), 403, "SignatureDoesNotMatch")


def test_a_put_without_a_declared_content_type_accepts_any(caller):
    url = caller.create({"local_file_path": "a.png"}).json()["files"][0]["file_url"]
    assert put(url, kind="application/x-anything").status_code == 200


def test_a_too_large_object_is_refused_in_xml(caller, reserved):
    assert refused(put(reserved["file_url"], b"x" * 100_001), 400, "EntityTooLarge")
    streamed = put(reserved["file_url"], iter([b"x" * 60_000] * 2))
    assert refused(streamed, 400, "EntityTooLarge")
    assert [line["state"] for line in caller.lines("objects")] == ["reserved"]


def test_files_are_created_in_the_order_sent(caller):
    names = [f"{number}.txt" for number in range(20)]
    answer = caller.create(*({"local_file_path": name} for name in names)).json()
    assert [file["local_file_path"] for file in answer["files"]] == names
    listed = caller.get("/v2/files").json()["items"]
    assert [item["original_file_url"] for item in listed] == names[::-1]


def test_a_remote_file_is_fetched(run, caller, tmp_path):
    source = run(data=tmp_path / "source", api_key=None)
    url = source.upload("a.csv", b"1,2\n", "text/csv").json()["file_url"]
    created = caller.create({"remote_uri": url}).json()["files"][0]
    assert created["processing_status"] == "pending"
    assert created["remote_uri"] == url
    assert created["file_url"] is None
    assert caller.processed(created["file_uuid"])["processing_status"] == "completed"
    detail = caller.get(f"/v2/files/{created['file_uuid']}").json()
    assert detail["original_file_url"] == url
    assert detail["file_type"] == "text"
    assert ask("GET", detail["file_url"]).content == b"1,2\n"


@pytest.mark.parametrize(
    "url",
    ["http://", "http://[", "https://127.0.0.1:99999/", "http://x\x00y/", "http://\u00fc..x/"],
)
def test_an_invalid_remote_url_fails_with_a_reason(caller, url):
    created = caller.create({"remote_uri": url}).json()["files"][0]
    status = caller.processed(created["file_uuid"])
    assert status["processing_status"] == "failed"
    assert status["error_message"].startswith("the remote file cannot be fetched: ")


def test_a_too_large_remote_file_fails_and_leaves_nothing(run, caller, tmp_path):
    source = run(data=tmp_path / "source", api_key=None)
    url = source.upload(content=b"x" * 100_001).json()["file_url"]
    created = caller.create({"remote_uri": url}).json()["files"][0]
    assert "larger than 100000" in caller.processed(created["file_uuid"])["error_message"]
    assert list((tmp_path / "data" / "contents").iterdir()) == []


def test_an_unreachable_remote_file_fails_with_a_reason(caller):
    url = f"{caller.emulator.url}/nothing.txt"
    created = caller.create({"remote_uri": url}, {"remote_uri": "http://127.0.0.1:1/"}).json()
    refused, unreachable = (caller.processed(file["file_uuid"]) for file in created["files"])
    assert refused["processing_status"] == unreachable["processing_status"] == "failed"
    assert "401" in refused["error_message"]
    assert "cannot be fetched" in unreachable["error_message"]


def test_the_list_of_requests_contains_no_url(caller, reserved):
    put(reserved["file_url"])
    path = urlsplit(reserved["file_url"]).path
    assert [line["path"] for line in caller.lines("requests")][-1] == path
    assert "Signature" not in caller.get("/_emulator/requests").text
