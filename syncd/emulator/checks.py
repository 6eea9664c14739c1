"""Checks of a request's values: each returns the value, or raises a 422 that names the problem."""

import re
from mimetypes import MimeTypes

from syncd.emulator.answers import invalid

OCTET_STREAM = "application/octet-stream"
FILE_TYPES = ("image", "video", "text", "document")
#: The most files in one create, characters in one of its strings, and files before a page.
CREATE_FILES, MOST_TEXT, MOST_OFFSET = 1000, 4096, 10**12
_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
#: A content type (RFC 9110) without parameters.
_CONTENT_TYPE = re.compile(r"[\w!#$&^.+-]{1,100}/[\w!#$&^.+-]{1,100}", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,16}")
#: Any characters but lone surrogates, which JSON can spell and UTF-8 cannot.
_TEXT = re.compile(rf"[^\ud800-\udfff]{{1,{MOST_TEXT}}}")
# Python's own table and not the host's, so that the answers are the same everywhere.
_BY_EXTENSION = MimeTypes().types_map[True] | {
    ".mkv": "video/x-matroska",
    ".m4v": "video/mp4",
    ".wmv": "video/x-ms-wmv",
    ".flv": "video/x-flv",
    ".3gp": "video/3gpp",
}


def uuid(where: str, text: object) -> str:
    """Return a UUID in lower case."""
    if not isinstance(text, str) or not _UUID.fullmatch(text):
        raise invalid(where, "must be a UUID")
    return text.lower()


def whole(where: str, text: str, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`."""
    if not (_WHOLE.fullmatch(text) and least <= int(text) <= most):
        raise invalid(where, f"must be a whole number from {least} to {most}")
    return int(text)


def content_type(where: str, text: str) -> str:
    """Return a content type in lower case, without its parameters."""
    bare = text.partition(";")[0].strip().lower()
    if not _CONTENT_TYPE.fullmatch(bare):
        raise invalid(where, "is not a content type such as image/png")
    return bare


def new_file(where: str, item: object) -> tuple[str | None, str | None, str | None]:
    """Return the path, the remote URI and the content type of a file to create."""
    if not isinstance(item, dict):
        raise invalid(where, "must be an object")
    names = ("local_file_path", "remote_uri", "content_type")
    for name in names:
        value = item.get(name)
        if value is not None and not (isinstance(value, str) and _TEXT.fullmatch(value)):
            raise invalid(f"{where}.{name}", f"must be a string of 1 to {MOST_TEXT} characters")
    path, remote_uri, declared = map(item.get, names)
    if path is None and remote_uri is None:
        raise invalid(where, "must have a local_file_path or a remote_uri")
    if remote_uri is not None and not remote_uri.startswith(("http://", "https://")):
        raise invalid(f"{where}.remote_uri", "must be an http or https URL")
    return path, remote_uri, declared and content_type(f"{where}.content_type", declared)


def kind(declared: str | None, name: str) -> tuple[str, str]:
    """Return a file's content type and file type: as declared, else by its extension.

    A video declared as `application/octet-stream` is a video nonetheless.
    """
    _, dot, extension = name.rpartition("/")[2].rpartition(".")
    guessed = _BY_EXTENSION.get(dot + extension.lower(), OCTET_STREAM)
    if declared is None or (declared == OCTET_STREAM and guessed.startswith("video/")):
        declared = guessed
    family = declared.partition("/")[0]
    return declared, family if family in FILE_TYPES else "document"
