"""Asks the emulator for the rigs: `emulator.py URL live [DIGEST] | posts | faults JSON`."""

import json
import sys
import urllib.request
from typing import Any


def lines(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return [json.loads(line) for line in answer]


def main(base: str, what: str, argument: str = "") -> None:
    match what:
        case "live":
            # The objects that are there now: uuid and digest, sorted.
            for found in sorted(
                (o["sha256"], o["file_uuid"])
                for o in lines(f"{base}/_emulator/objects")
                if o["state"] == "live" and argument in (o["sha256"] or "")
            ):
                print(*found)
        case "posts":
            seen = lines(f"{base}/_emulator/requests")
            print(sum(r["method"] == "POST" and "uploads" in r["path"] for r in seen))
        case "faults":
            request = urllib.request.Request(
                f"{base}/_emulator/faults", argument.encode(), method="PUT"
            )
            urllib.request.urlopen(request, timeout=10).close()


main(*sys.argv[1:])
