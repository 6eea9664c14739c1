"""Colleagues who upload under names that the service has shown: ours, with our tokens in them.

Whatever they do, nothing of theirs is ours. What they cannot do is know a name that was never
shown, and they do not remove what they copied: these two limits the README states.
"""

import random

from .objects import FOREIGN, TOKEN, Object
from .server import Service


def upload_under_our_name(service: Service, rng: random.Random, *, genuine: bool) -> None:
    """Have a colleague upload under a shown name of ours, or under one that is made of it.

    Without `genuine`, none of the names holds a token of ours at its place.
    """
    now = service.clock()
    shown = [
        item
        for item in service.objects.values()
        if item.owner != FOREIGN and item.token and item.visible_at <= now
    ]
    if not shown or not service.echo:
        return
    original = rng.choice(shown)
    name, uri = _name(original.name, rng.randrange(10 if genuine else 6), rng)
    body = _body(original, rng)
    item = service.add_foreign(body, name, content_type=original.content_type, remote_uri=uri)
    size = "no content" if body is None else f"{len(body)} bytes"
    service.tell(f"a colleague uploads {uri or name} ({size}) as {item.file_uuid[-4:]}")


def _name(name: str, kind: int, rng: random.Random) -> tuple[str, str | None]:
    """Return the name that is sent, and the URL where it is fetched from one."""
    last = name.rpartition("/")[2]
    match kind:
        case 0:
            return last.replace(".", ".copy.", 1) + ".old.bak", None
        case 1:
            return f"{last}/notes.txt", None
        case 2:
            return "theirs.txt", f"https://elsewhere.example/get?name={last}"
        case 3 | 4:
            return _forged(last, rng), None
        case 5:
            return last.upper(), None
        case 6:
            return "theirs.txt", f"https://elsewhere.example/{last}"
        case _:
            return last, None


def _forged(name: str, rng: random.Random) -> str:
    """Return a name whose token says that it is of a later attempt, or has other last digits."""
    found = TOKEN.search(name)
    if found is None:
        return name
    *parts, mac = found[1].split("-")
    if len(parts) > 2 and rng.random() < 0.5:
        parts[-1] = f"{int(parts[-1], 16) + rng.randrange(1, 1 << 20):0{len(parts[-1])}x}"
    else:
        mac = mac[:-4] + f"{rng.randrange(1 << 16):04x}"
    return name.replace(found[1], "-".join([*parts, mac]))


def _body(original: Object, rng: random.Random) -> bytes | None:
    """Return the bytes they upload: the same, edited, of another size, or none."""
    body = original.body or b"what was to come of some length"
    match rng.randrange(5):
        case 0 | 1:
            return body
        case 2:
            return bytes(byte ^ 1 for byte in body)
        case 3:
            return body + b"edited"
        case _:
            return None
