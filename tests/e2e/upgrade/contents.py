"""Names and contents of the files of the upgrade's fixture."""

KEY = "e2e-key"
KEPT = ("a.txt", "deep/b.txt", "na\u00efve name.txt")
MANY = tuple(f"{number:02d}.txt" for number in range(25))
#: Too many of `MANY` at once: their deletion is held.
TAKEN_AWAY = MANY[:22]


def content(name: str) -> bytes:
    """Return what is in the file of that name."""
    return f"what {name} held when syncd was 0.1.0\n".encode()
