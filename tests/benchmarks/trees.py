"""Folders of very many tiny files, and ledgers that know them."""

import os
from uuid import UUID

IN_DIRECTORY = 100


def make_tree(root, files):
    """Make so many files of one byte, 100 a directory; return the root."""
    for number in range(files):
        directory = root / f"{number // IN_DIRECTORY // 100}" / f"{number // IN_DIRECTORY}"
        if number % IN_DIRECTORY == 0:
            directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / f"{number}.bin", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(descriptor, b"x")
        os.close(descriptor)
    return root


def make_synced(syncd):
    """Have a ledger know each file of its folder as live: scanned by syncd, the copies made here.

    Sending them would take minutes, and shows nothing here.
    """
    settings = syncd.settings["SYNCD_FOLDERS"]
    syncd.settings["SYNCD_FOLDERS"] = settings.replace('"upload"', '"skip"')
    syncd.anew().run("once")
    syncd.settings["SYNCD_FOLDERS"] = settings
    with syncd.writes() as db:
        numbers = [number for (number,) in db.execute("SELECT id FROM files")]
        db.execute(
            "UPDATE files SET is_skipped = 0, status = 'ready', due_at = NULL, sha256 = 'ab'"
        )
        db.executemany(
            "INSERT INTO copies (file_id, token, file_uuid, status, generation, sha256, size, "
            "content_type, method, created_at, sent_at, stored_at, live_at) "
            "SELECT id, 't' || id, ?, 'live', generation, 'ab', size, 'application/octet-stream', "
            "'direct', changed_at, changed_at, changed_at, changed_at FROM files WHERE id = ?",
            ((str(UUID(int=number)), number) for number in numbers),
        )
    return len(numbers)
