"""The OpenAPI description of what the emulator serves."""

from http import HTTPStatus
from typing import Any

from syncd import __version__
from syncd.emulator.answers import Refusal
from syncd.emulator.checks import CREATE_FILES, FILE_TYPES, MOST_OFFSET, MOST_TEXT

Schema = dict[str, Any]
HEALTH = "/health/"
_STRICTER = f"""The emulator is stricter than the published documentation of the API:
- A file to create needs a `local_file_path` or a `remote_uri`; with both, the `remote_uri` is
  fetched and named by the path. The documentation allows a file with neither.
- `files` has 1 to {CREATE_FILES} members, `limit` is at least 1, texts have at most {MOST_TEXT}
  characters, `file_type` is one of {", ".join(FILE_TYPES)}, and ids are UUIDs.
- An upload has exactly one part `file`, with a filename, and ends with its closing boundary.
- A presigned PUT repeats the declared content type, and carries no key.
- Required members are always present; the documentation makes most of a FileUpload optional.
"""
_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_UUID: Schema = {"type": "string", "format": "uuid"}
_UUID_OR_NULL: Schema = {"type": ["string", "null"], "format": "uuid"}
_URL: Schema = {"type": "string", "format": "uri"}
_URL_OR_NULL: Schema = {"type": ["string", "null"], "format": "uri"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_STATUS: Schema = {"enum": ["pending", "processing", "completed", "failed"]}
_FILE_TYPE: Schema = {"enum": list(FILE_TYPES)}
_VIDEO: Schema = {
    "type": ["object", "null"],
    "properties": {
        "fps": {"type": "number"},
        "duration": {"type": "number", "description": "seconds"},
        "frame_count": _COUNT,
        "width": _COUNT,
        "height": _COUNT,
    },
}


def description(page_limit: int) -> Schema:
    """Return the OpenAPI 3.1 document; `page_limit` is the largest `limit` of a listing."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Files API, emulated by syncd",
            "version": __version__,
            "description": _STRICTER,
        },
        "security": [{"key": []}, {"bearer": []}],
        "paths": _paths(page_limit),
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _paths(page_limit: int) -> Schema:
    workspace = _parameter("query", "workspace_uuid", _UUID)
    listing = [
        workspace,
        _parameter("query", "file_type", _FILE_TYPE),
        _parameter("query", "limit", _COUNT | {"minimum": 1, "maximum": page_limit}),
        _parameter("query", "offset", _COUNT | {"maximum": MOST_OFFSET}),
    ]
    form = _object(file={"type": "string", "contentMediaType": "application/octet-stream"})
    one = [_parameter("path", "file_uuid", _UUID)]
    healthy = {"200": {"description": "OK"}}
    return {
        "/v2/files/-/uploads": {
            "post": _operation("upload", "FileUpload", [workspace], {"multipart/form-data": form})
        },
        "/v2/files": {
            "get": _operation("list", "FilePage", listing),
            "post": _operation(
                "create", "CreatedFiles", [], {"application/json": _reference("CreateFiles")}
            ),
        },
        "/v2/files/{file_uuid}": {
            "get": _operation("get", "FileDetail", one),
            "delete": _operation("delete", None, one),
        },
        "/v2/files/{file_uuid}/status": {"get": _operation("get_status", "FileStatus", one)},
        "/v2/files/{file_uuid}/frames": {"get": _operation("get_frames", "FileFrames", one)},
        HEALTH: {"get": {"operationId": "health", "security": [], "responses": healthy}},
    }


def _operation(
    name: str, answer: str | None, parameters: list[Schema], body: Schema | None = None
) -> Schema:
    good = _content("OK", answer) if answer else {"description": "No Content"}
    errors = {str(n): _content(HTTPStatus(n).phrase, "Error") for n in Refusal.codes}
    operation: Schema = {
        "operationId": name,
        "parameters": parameters,
        "responses": {"200" if answer else "204": good, **errors},
    }
    if body is not None:
        content = {kind: {"schema": schema} for kind, schema in body.items()}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _schemas() -> Schema:
    sent = _TEXT_OR_NULL | {"minLength": 1, "maxLength": MOST_TEXT}
    new_file = _object(
        local_file_path=sent,
        remote_uri=sent | {"pattern": "^https?://"},
        content_type=_TEXT_OR_NULL | {"maxLength": MOST_TEXT},
    )
    # A null counts as absent.
    named = [_object(**{name: _TEXT}) for name in ("local_file_path", "remote_uri")]
    new_files = _list(new_file | {"required": [], "anyOf": named})
    error = _object(code=_TEXT, message=_TEXT, details={"type": "object"})
    return {
        "CreateFiles": _object(
            workspace_uuid=_UUID_OR_NULL,
            files=new_files | {"minItems": 1, "maxItems": CREATE_FILES},
        )
        | {"required": ["files"]},
        "CreatedFiles": _object(
            workspace_uuid=_UUID_OR_NULL, files=_list(_reference("FileUpload"))
        ),
        "FileUpload": _object(
            file_uuid=_UUID,
            file_url=_URL_OR_NULL,
            local_file_path=_TEXT_OR_NULL,
            remote_file_path=_TEXT,
            remote_uri=_TEXT_OR_NULL,
            content_type=_TEXT,
            processing_status=_STATUS,
        ),
        "FileDetail": _object(
            file_uuid=_UUID,
            organization_uuid=_UUID,
            workspace_uuid=_UUID_OR_NULL,
            content_type=_TEXT,
            file_type=_FILE_TYPE,
            file_size_bytes={"type": ["integer", "null"]},
            file_url=_URL_OR_NULL,
            original_file_url=_TEXT_OR_NULL,
            remote_file_path=_TEXT,
            processing_status=_STATUS,
            video_metadata=_VIDEO,
            uploaded_by_uuid=_UUID_OR_NULL,
            created_at=_TIME,
            updated_at=_TIME,
        ),
        "FilePage": _object(items=_list(_reference("FileDetail")), count=_COUNT),
        "FileStatus": _object(
            file_uuid=_UUID,
            processing_status=_STATUS,
            error_message=_TEXT_OR_NULL,
            remote_file_path=_TEXT_OR_NULL,
            created_at=_TIME,
            updated_at=_TIME,
        ),
        "FileFrames": _object(file_uuid=_UUID, frame_count=_COUNT, frame_urls=_list(_URL)),
        "Error": _object(error=error, request_id=_TEXT),
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(place: str, name: str, schema: Schema) -> Schema:
    return {"in": place, "name": name, "required": place == "path", "schema": schema}


def _content(text: str, schema: str) -> Schema:
    return {
        "description": text,
        "content": {"application/json": {"schema": _reference(schema)}},
    }
