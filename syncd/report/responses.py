"""The responses of an evaluation run, one for each file, as `evals.runs.create` takes them."""

from collections.abc import Callable
from typing import Any

from syncd.state.manifest import Word

JsonObject = dict[str, Any]
#: Returns the uuid of the prompt that a file of the manifest answers; raises NoResponseError.
FindPrompt = Callable[[JsonObject], str]
_CONTENT_TYPES = ("text", "image", "video")


class NoResponseError(Exception):
    """A file cannot be a response; the text says why."""


def response(file: JsonObject, find_prompt: FindPrompt) -> JsonObject:
    """Return the response that a file of the manifest is; raise NoResponseError if it is none."""
    if file["status"] != Word.SYNCED:
        error = f": {file['error']}" if file["error"] else ""
        raise NoResponseError(f"{file['status']}, not synced{error}")
    kind = (file["content_type"] or "").partition("/")[0]
    if kind not in _CONTENT_TYPES:
        raise NoResponseError(f"{file['content_type']} is neither text, image nor video")
    return {
        "prompt_uuid": find_prompt(file),
        "content_type": kind,
        "content": {key: file[key] for key in ("file_uuid", "remote_file_path")},
    }
