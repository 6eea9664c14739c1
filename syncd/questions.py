"""Questions to the service, which change nothing: they need neither lock nor state."""

from collections.abc import Callable
from typing import Any

from syncd.exceptions import SyncdError
from syncd.files_api import FilesApiError, FilesClient, NotFoundError, UnauthorizedError

JsonObject = dict[str, Any]
#: Takes a client and its arguments; returns what the service answers, and changes nothing.
Question = Callable[[FilesClient, JsonObject], JsonObject]


def frames(client: FilesClient, arguments: JsonObject) -> JsonObject:
    """Return the frames of a video: `urls`, each valid for 30 minutes, and their `count`.

    SyncdError if there are none, in the service's words.
    """
    file_uuid = arguments["file_uuid"]
    try:
        found = client.get_frames(file_uuid)
    except UnauthorizedError:
        raise
    except NotFoundError as error:
        raise SyncdError(f"the service has no file {file_uuid}: {error.text}") from error
    except FilesApiError as error:
        raise SyncdError(f"the frames of {file_uuid} cannot be listed: {error.text}") from error
    return {"urls": found.frame_urls, "count": found.frame_count}


def processing(client: FilesClient, arguments: JsonObject) -> JsonObject:
    """Return the status of `file_uuids`, and why processing failed, by uuid."""
    return {"files": {uuid: _processed(client, uuid) for uuid in arguments["file_uuids"]}}


def _processed(client: FilesClient, file_uuid: str) -> JsonObject:
    try:
        told = client.get_status(file_uuid)
    except NotFoundError:
        return {"processing_status": "failed", "error": "the service has no such file any more"}
    except UnauthorizedError:
        raise
    except FilesApiError as error:
        raise SyncdError(f"the status of {file_uuid} cannot be asked: {error.text}") from error
    reason = told.error_message if told.processing_status == "failed" else None
    return {"processing_status": told.processing_status, "error": reason}


#: By the name of its command.
QUESTIONS: dict[str, Question] = {"frames": frames, "processing": processing}
