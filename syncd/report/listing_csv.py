"""The manifest as CSV (RFC 4180), for spreadsheets: no cell is taken for a formula."""

import base64
import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

JsonObject = dict[str, Any]
#: The keys of the manifest, in the order of the columns.
KEYS = (
    *("folder", "path", "path_b64", "status", "size", "sha256", "file_uuid", "remote_file_path"),
    *("content_type", "processing_status", "frame_count", "attempts", "next_attempt_at"),
    *("error", "synced_at", "changed_at"),
)
#: The characters that begin a formula in a spreadsheet.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


def lines(entries: Iterable[JsonObject]) -> Iterator[str]:
    """Yield the header, and the line of each entry of the manifest."""
    text = io.StringIO()
    writer = csv.DictWriter(text, KEYS, lineterminator="\r\n")
    writer.writeheader()
    yield text.getvalue()
    for entry in entries:
        text.seek(0)
        text.truncate()
        writer.writerow(_row(entry))
        yield text.getvalue()


def spreadsheet_safe(text: str) -> str:
    """Return `text` so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(_FORMULAS) else text


def _row(entry: JsonObject) -> JsonObject:
    """Return an entry without formulas; a path that was changed for that stands in Base64, too."""
    row = {
        name: spreadsheet_safe(value) if isinstance(value, str) else value
        for name, value in entry.items()
    }
    if row["path"] != entry["path"] and not row.get("path_b64"):
        row["path_b64"] = base64.b64encode(entry["path"].encode()).decode()
    return row
