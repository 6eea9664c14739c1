"""Files that are their owner's alone, whatever the umask."""

import os


def private(path: str, flags: int) -> int:
    """Open a file for `open(..., opener=private)`: what is made anew has mode 0600."""
    return os.open(path, flags, 0o600)
