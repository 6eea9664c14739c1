"""Files to be sent, and what a run over them comes to."""

import os
from hashlib import sha256

PIECE = 1 << 20


class Files:
    """`number` files of `size` random bytes in a folder; `digests` by name."""

    def __init__(self, place, number, size, *, extension="bin", prefix="", head=b""):
        self.place, self.folder = place, place / "files"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.digests = {}
        for at in range(number):
            name = f"{prefix}{at:06}.{extension}"
            self.digests[name] = write(self.folder / name, size, head)

    @property
    def total(self):
        """How many bytes all files have."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def part(self, number):
        """Return a folder with the first files."""
        folder = self.place / "part"
        if not folder.exists():
            folder.mkdir()
            for name in list(self.digests)[:number]:
                (folder / name).hardlink_to(self.folder / name)
        return folder

    def figures(self, usage):
        """Return what a run over all files came to."""
        number = len(self.digests)
        return {
            "files/s": number / usage.wall,
            "MB/s": self.total / 1e6 / usage.wall,
            "cpu": usage.cpu,
            "cpu/1000": 1000 * usage.cpu / number,
            "wall": usage.wall,
            "peak": usage.peak_mb,
            "read": usage.read_bytes,
        }


def write(path, size, head=b""):
    """Write a file of random bytes; return its SHA-256."""
    digest = sha256()
    with path.open("wb") as file:
        left = size
        while left:
            piece = (head + os.urandom(min(PIECE, left)))[: min(PIECE, left)]
            head = b""
            file.write(piece)
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()
