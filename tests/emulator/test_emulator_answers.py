import json

import pytest
from emulator_wire import KEY

A, B = "0a000000-0000-4000-8000-000000000000", "0b000000-0000-4000-8000-000000000000"
WORKSPACE = "6f0c2f1e-0000-4000-8000-000000000001"
NOBODY = "00000000-0000-4000-8000-000000000009"


def error(answer):
    """Check that an answer is the API's envelope; return status and code."""
    body = answer.json()
    assert body.keys() == {"error", "request_id"}
    assert body["error"].keys() == {"code", "message", "details"}
    assert body["request_id"] == answer.headers["x-request-id"] != ""
    return answer.status_code, body["error"]["code"]


@pytest.fixture
def two(run):
    """One emulator, as two organizations see it."""
    first = run(api_key=None, api_keys={"a": A, "b": B})
    with first.__class__(first.emulator.url, "b") as second:
        first.headers["x-api-key"] = "a"
        yield first, second


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "wrong"}, {"authorization": "Bearer no"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v2/files"), ("POST", "/v2/files/-/uploads"), ("DELETE", f"/v2/files/{NOBODY}")],
)
def test_a_request_without_a_valid_key_is_answered_401(caller, method, path, headers):
    del caller.headers["x-api-key"]
    answer = caller.request(method, path, headers=headers)
    assert error(answer) == (401, "auth.invalid_key")


def test_without_configured_keys_any_key_is_accepted_but_one_is_required(run):
    caller = run(api_key=None)
    assert caller.upload(headers={"x-api-key": "whatever"}).status_code == 200
    assert error(caller.get("/v2/files", headers={"x-api-key": ""}))[0] == 401


def test_another_organizations_file_is_not_found(two):
    ours, theirs = two
    file_uuid = ours.upload("v.mp4", b"x", "video/mp4").json()["file_uuid"]
    for path in ("", "/status", "/frames"):
        assert error(theirs.get(f"/v2/files/{file_uuid}{path}")) == (404, "file.not_found")
    assert error(theirs.delete(f"/v2/files/{file_uuid}"))[0] == 404
    assert theirs.get("/v2/files").json() == {"items": [], "count": 0}
    assert ours.get(f"/v2/files/{file_uuid}").json()["organization_uuid"] == A


def test_another_organizations_workspace_is_forbidden(two):
    ours, theirs = two
    query = {"workspace_uuid": WORKSPACE}
    assert ours.upload(params=query).status_code == 200
    assert error(theirs.upload(params=query)) == (403, "auth.forbidden")
    assert error(theirs.get("/v2/files", params=query))[0] == 403
    create = theirs.create({"local_file_path": "a"}, workspace_uuid=WORKSPACE)
    assert error(create)[0] == 403


def test_a_deleted_file_is_not_found_and_cannot_be_deleted_twice(caller):
    file_uuid = caller.upload().json()["file_uuid"]
    answer = caller.delete(f"/v2/files/{file_uuid}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert error(caller.delete(f"/v2/files/{file_uuid}")) == (404, "file.not_found")
    assert error(caller.get(f"/v2/files/{file_uuid}"))[0] == 404
    assert caller.get("/v2/files").json()["count"] == 0
    (line,) = caller.lines("objects")
    assert line["state"] == "deleted"
    assert line["deleted_at"] > line["created_at"]


def test_deleting_an_unknown_file_is_answered_404(caller):
    assert error(caller.delete(f"/v2/files/{NOBODY}")) == (404, "file.not_found")


def test_an_unknown_path_is_answered_404(caller):
    assert error(caller.get("/v2/nothing")) == (404, "request.not_found")


def test_a_trailing_slash_is_answered_404_and_not_redirected(caller):
    for path in ("/v2/files/", f"/v2/files/{NOBODY}/"):
        assert error(caller.get(path)) == (404, "request.not_found")


def test_an_unsupported_method_is_answered_405_with_the_allowed_ones(caller):
    answer = caller.put(f"/v2/files/{NOBODY}")
    assert error(answer) == (405, "request.method_not_allowed")
    assert answer.headers["allow"] == "DELETE, GET, HEAD"


@pytest.mark.parametrize("path", ["/v2/files/no-uuid", "/v2/files/no-uuid/status"])
def test_an_invalid_file_uuid_is_unprocessable(caller, path):
    answer = caller.get(path)
    assert error(answer) == (422, "request.validation_error")
    assert answer.json()["error"]["details"] == {"fields": [{"file_uuid": "must be a UUID"}]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"), ("limit", "1001"), ("limit", "many"), ("limit", "-1"), ("limit", "1e2"),
        ("offset", "-1"), ("offset", "x"), ("offset", "9" * 30), ("offset", "0" * 5000),
        ("file_type", "audio"), ("workspace_uuid", "w"),
    ],
)  # fmt: skip
def test_an_invalid_query_is_unprocessable(caller, name, value):
    answer = caller.get("/v2/files", params={name: value})
    assert error(answer)[0] == 422
    assert name in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe{", b"[" * 100_000, b"1" * 5000])
def test_a_create_that_is_not_json_is_a_bad_request(caller, body):
    assert error(caller.post("/v2/files", content=body)) == (400, "request.invalid")


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ([], "body"),
        ({}, "files"),
        ({"files": []}, "files"),
        ({"files": "x"}, "files"),
        ({"files": [1]}, "files[0]"),
        ({"files": [{}]}, "files[0]"),
        ({"files": [{"local_file_path": "a"}, {"local_file_path": 1}]}, "files[1].local_file_path"),
        ({"files": [{"remote_uri": "file:///etc/passwd"}]}, "files[0].remote_uri"),
        ({"files": [{"local_file_path": "a", "content_type": "png"}]}, "files[0].content_type"),
        ({"files": [{"local_file_path": "a"}], "workspace_uuid": 7}, "workspace_uuid"),
        ({"files": [{"local_file_path": "half a pair: \ud800"}]}, "files[0].local_file_path"),
        ({"files": [{"local_file_path": "a"}] * 1001}, "files"),
    ],
)
def test_a_create_of_the_wrong_shape_is_unprocessable_and_names_the_field(caller, document, where):
    answer = caller.post("/v2/files", content=json.dumps(document))
    assert error(answer)[0] == 422
    assert answer.json()["error"]["message"].startswith(f"{where}: ")
    assert caller.lines("objects") == []


def test_pages_are_newest_first_and_cover_every_file(caller):
    names = [f"{number}.txt" for number in range(7)]
    for name in names:
        caller.upload(name)
    pages = [
        caller.get("/v2/files", params={"limit": 3, "offset": offset}).json()
        for offset in (0, 3, 6, 9)
    ]
    assert [page["count"] for page in pages] == [7] * 4
    listed = [item for page in pages for item in page["items"]]
    assert [item["original_file_url"] for item in listed] == names[::-1]
    times = [item["created_at"] for item in listed]
    assert times == sorted(times, reverse=True)
    assert {item["file_url"] for item in listed} == {None}


def test_a_listing_can_be_filtered_by_workspace_and_type(caller):
    caller.upload("a.png", b"x", "image/png", params={"workspace_uuid": WORKSPACE})
    caller.upload("b.png", b"x", "image/png")
    caller.upload("c.txt", params={"workspace_uuid": WORKSPACE})
    query = {"workspace_uuid": WORKSPACE, "file_type": "image"}
    page = caller.get("/v2/files", params=query).json()
    assert [item["original_file_url"] for item in page["items"]] == ["a.png"]
    assert page["count"] == 1


def test_a_page_has_the_configured_size(run):
    caller = run(page_limit=2)
    for _ in range(3):
        caller.upload()
    assert len(caller.get("/v2/files").json()["items"]) == 2
    assert error(caller.get("/v2/files", params={"limit": 3}))[0] == 422


def test_exceeding_the_rate_limit_is_answered_429_with_a_retry_after(run):
    caller = run(rate_limit=0.1)
    assert caller.get("/v2/files").status_code == 200
    answer = caller.get("/v2/files")
    assert error(answer) == (429, "request.rate_limited")
    assert answer.headers["retry-after"] == "10"


def test_an_internal_error_is_answered_in_the_envelope_and_logged(caller, monkeypatch, caplog):
    def fail(*_args, **_more):
        raise RuntimeError("canary")

    monkeypatch.setattr("syncd.emulator.store.ObjectIndex.page", fail)
    answer = caller.get("/v2/files")
    assert error(answer) == (500, "server.error")
    assert "canary" not in answer.text
    assert [record.exc_info[1].args for record in caplog.records] == [("canary",)]
    assert [line["status"] for line in caller.lines("requests")] == [500]


def test_every_answer_has_a_request_id_of_its_own(caller):
    answers = [caller.upload(), caller.get("/v2/files"), caller.get("/v2/nothing")]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 3
    assert [line["request_id"] for line in caller.lines("requests")] == ids


def test_the_description_covers_exactly_the_operations_of_the_api(caller):
    """The table of api.md: method, path, schema of the answer, and the parameters."""
    table = {
        ("post", "/v2/files/-/uploads"): ("FileUpload", {"workspace_uuid"}),
        ("post", "/v2/files"): ("CreatedFiles", set()),
        ("get", "/v2/files"): ("FilePage", {"workspace_uuid", "file_type", "limit", "offset"}),
        ("get", "/v2/files/{file_uuid}"): ("FileDetail", {"file_uuid"}),
        ("get", "/v2/files/{file_uuid}/status"): ("FileStatus", {"file_uuid"}),
        ("get", "/v2/files/{file_uuid}/frames"): ("FileFrames", {"file_uuid"}),
        ("delete", "/v2/files/{file_uuid}"): (None, {"file_uuid"}),
    }
    del caller.headers["x-api-key"]
    document = caller.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1.")
    documented = {"400", "401", "403", "404", "409", "422", "429", "500", "503"}
    described = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path == "/health/":
                continue
            assert documented <= operation["responses"].keys()
            good = operation["responses"].get("200", {})
            schema = good and good["content"]["application/json"]["schema"]["$ref"]
            names = {parameter["name"] for parameter in operation["parameters"]}
            described[method, path] = (schema.rpartition("/")[2] if schema else None, names)
    assert described == table


def test_exactly_the_described_operations_are_routed(caller):
    described = caller.get("/openapi.json").json()["paths"]
    for path, operations in described.items():
        for method in ("get", "post", "put", "patch", "delete"):
            answer = caller.request(method, path.replace("{file_uuid}", NOBODY))
            assert (answer.status_code != 405) == (method in operations), (method, path)


def test_the_description_states_the_page_limit_in_force(run):
    listing = run(page_limit=7).get("/openapi.json").json()["paths"]["/v2/files"]["get"]
    (limit,) = (one for one in listing["parameters"] if one["name"] == "limit")
    assert limit["schema"]["maximum"] == 7


def test_answers_have_exactly_the_described_members(caller):
    schemas = caller.get("/openapi.json").json()["components"]["schemas"]
    upload = caller.upload().json()
    path = f"/v2/files/{upload['file_uuid']}"
    page = caller.get("/v2/files").json()
    answers = {
        "FileUpload": upload,
        "CreatedFiles": caller.create({"local_file_path": "a"}).json(),
        "FileDetail": caller.get(path).json(),
        "FilePage": page,
        "FileStatus": caller.get(f"{path}/status").json(),
        "Error": caller.get("/v2/files", headers={"x-api-key": "no"}).json(),
    }
    for name, answer in answers.items():
        assert answer.keys() == schemas[name]["properties"].keys(), name
    assert caller.headers["x-api-key"] == KEY


def test_health_needs_no_key(caller):
    del caller.headers["x-api-key"]
    answer = caller.get("/health/")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert caller.get("/v2/files").status_code == 401


def test_a_file_may_have_both_a_path_and_a_uri(caller):
    both = {"local_file_path": "a/b.csv", "remote_uri": "http://127.0.0.1:1/x.txt"}
    (created,) = caller.create(both).json()["files"]
    assert {name: created[name] for name in both} == both
    assert (created["content_type"], created["file_url"]) == ("text/csv", None)


def test_urls_begin_with_the_public_url(run):
    caller = run(public_url="https://files.example/")
    file_uuid = caller.upload().json()["file_uuid"]
    (reserved,) = caller.create({"local_file_path": "a"}).json()["files"]
    for answer in (caller.get(f"/v2/files/{file_uuid}").json(), reserved):
        assert answer["file_url"].startswith("https://files.example/_storage/")
