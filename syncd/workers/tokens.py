"""What a listing shows of our tokens, and of other instances'."""

from syncd.files_api import FileDetail, Listing, tokens_in
from syncd.state.copies import instance_of
from syncd.state.unknown import Unknown


def by_token(listing: Listing) -> dict[str, list[FileDetail]]:
    """Return the objects of a listing by each token that they carry."""
    found: dict[str, list[FileDetail]] = {}
    for item in listing.items:
        for token in tokens_in(item.strings()):
            found.setdefault(token, []).append(item)
    return found


def of_instance(
    listing: Listing, instance: str, workspace: str | None, now: float
) -> dict[str, Unknown]:
    """Return, by uuid, what carries `instance`'s token, as something that may be unknown."""
    return {
        item.file_uuid: Unknown(
            item.file_uuid, token, workspace, item.file_size_bytes, item.remote_file_path, now
        )
        for token, items in by_token(listing).items()
        if instance_of(token) == instance
        for item in items
    }
