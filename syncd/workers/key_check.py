"""Tells a 404 for an object that is gone from one for a key that may not see it."""

from syncd.files_api import FilesApiError, FilesClient
from syncd.workers.gate import Gate


def may_list(client: FilesClient, gate: Gate, workspace: str | None) -> bool:
    """Return whether the key may list a workspace: then a 404 in it is to be believed."""
    try:
        client.list(workspace_uuid=workspace, limit=1)
    except FilesApiError as error:
        gate.failed(error)
        return False
    return True
