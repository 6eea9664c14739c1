"""The far side: a client of the Files API that never guesses.

    with FilesClient.from_environment() as client:
        for file in client.list_all(file_type="video"):
            print(file.file_uuid, client.get_status(file.file_uuid).processing_status)

Every failure is a FilesApiError, and its type answers whether the call was certainly not sent
(NotSentError), possibly delivered (InDoubtError) or refused (RefusedError). Nothing is retried
here, no redirect is followed, and no text shows a key or a presigned URL.
"""

from syncd.files_api.answer import Answer
from syncd.files_api.async_client import AsyncFilesClient
from syncd.files_api.bandwidth import Bandwidth
from syncd.files_api.base_url import BASE_URLS, base_url_for
from syncd.files_api.client import FilesClient
from syncd.files_api.content_types import content_type, image_type
from syncd.files_api.document import is_uuid
from syncd.files_api.errors import (
    Aborted,
    AbortedInDoubt,
    AbortedUnsent,
    BadAnswerError,
    BadRequestError,
    ConflictError,
    FilesApiError,
    ForbiddenError,
    InDoubtError,
    NotFoundError,
    NotSentError,
    QuotaError,
    RateLimitedError,
    RefusedError,
    ServerError,
    TooLargeError,
    UnauthorizedError,
    UnprocessableError,
    UnsupportedError,
)
from syncd.files_api.exchange import StopFlag
from syncd.files_api.listing import MOST_PAGES, Listing
from syncd.files_api.models import (
    CreatedFiles,
    FileDetail,
    FileFrames,
    FilePage,
    FileUpload,
    ProcessingStatus,
)
from syncd.files_api.naming import sent_name, token_of
from syncd.files_api.operations import NewFile, Operation
from syncd.files_api.sender import PerCall
from syncd.files_api.source import CHUNK_BYTES, UploadSource

__all__ = [
    "BASE_URLS",
    "CHUNK_BYTES",
    "MOST_PAGES",
    "Aborted",
    "AbortedInDoubt",
    "AbortedUnsent",
    "Answer",
    "AsyncFilesClient",
    "BadAnswerError",
    "BadRequestError",
    "Bandwidth",
    "ConflictError",
    "CreatedFiles",
    "FileDetail",
    "FileFrames",
    "FilePage",
    "FileUpload",
    "FilesApiError",
    "FilesClient",
    "ForbiddenError",
    "InDoubtError",
    "Listing",
    "NewFile",
    "NotFoundError",
    "NotSentError",
    "Operation",
    "PerCall",
    "ProcessingStatus",
    "QuotaError",
    "RateLimitedError",
    "RefusedError",
    "ServerError",
    "StopFlag",
    "TooLargeError",
    "UnauthorizedError",
    "UnprocessableError",
    "UnsupportedError",
    "UploadSource",
    "base_url_for",
    "content_type",
    "image_type",
    "is_uuid",
    "sent_name",
    "token_of",
]
