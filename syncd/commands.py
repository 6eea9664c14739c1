"""What a person tells syncd to do: done by the daemon where one runs, else by the command itself.

Each takes the parts and its arguments as JSON has them, and yields JSON objects: first how far it
is, if it takes long, and at the end its result.
"""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

from syncd.parts import Parts
from syncd.workers.adopter import AdoptError

JsonObject = dict[str, Any]
Command = Callable[[Parts, JsonObject], Iterator[JsonObject]]


def retry(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:
    """Forget the back-off, of `files` or of all; yield how many files are tried now.

    With `failed`, what the service refused for good is tried again, too.
    """
    now = time.time()
    if (files := arguments.get("files")) is None:
        failed = bool(arguments.get("failed"))
        tried = parts.store.write(lambda db: parts.retrying.all_waiting(db, now, failed=failed))
    else:
        places = [(file["folder"], base64.b64decode(file["path_b64"])) for file in files]
        tried = parts.store.write(lambda db: parts.retrying.files(db, places, now))
    parts.gate.try_now()
    parts.store.changed.set()
    yield {"tried": tried}


def adopt(parts: Parts, arguments: JsonObject) -> Iterator[JsonObject]:
    """Rebuild what the ledger has lost from the remote listing, sending no bytes.

    AdoptError where a folder is not there to be compared with, or where the key may be another
    organization's; ForeignStateError where it is.
    """
    _see_whose_key_it_is(parts)
    for name, watched in parts.watch.folders.items():
        yield {"step": "scanning", "folder": name}
        report = watched.scan()
        if not report.complete:
            raise AdoptError(
                f"the folder {name} cannot be compared: it is not there, or cannot be listed to "
                "its end (syncd status); mount it, or mend its permissions, and try again"
            )
    yield from parts.adopter.adopt(instance=arguments.get("instance"))


def verify(parts: Parts, _arguments: JsonObject) -> Iterator[JsonObject]:
    """Compare the ledger with the remote listing; yield what differs.

    AdoptError where the key may be another organization's; ForeignStateError where it is.
    """
    _see_whose_key_it_is(parts)
    yield from parts.verifier.verify()


def _see_whose_key_it_is(parts: Parts) -> None:
    """Under a key of another organization, all that is ours would read as gone."""
    if not (parts.gate.introduced and parts.introduction.is_bound):
        parts.introduction.make()
    if not parts.gate.introduced:
        raise AdoptError(
            "the key is new, and shows none of the files that the ledger knows: it may be of "
            "another organization; use the key of before"
        )


#: By the name under which the command line and the control socket know them.
COMMANDS: dict[str, Command] = {"retry": retry, "adopt": adopt, "verify": verify}
