"""The project's documents, for the tests and rigs that check what they say.

`python -m tests.documents NAME` prints the commands, or the file, that stand in one of them between
`<!-- NAME commands -->` (or `command`, `file`) and `<!-- end -->`.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: For those who use syncd: each command, setting, path and reason in them is checked.
FOR_USERS = ("README.md", ".github/OPERATIONS.md", "systemd/README.md")
#: For those who change it.
FOR_DEVELOPERS = (
    ".github/ARCHITECTURE.md",
    ".github/CONTRIBUTING.md",
    ".github/RELEASING.md",
    ".github/SECURITY.md",
    "tests/MATRIX.md",
    "CHANGELOG.md",
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_MARKED = re.compile(
    r"^<!-- ([\w-]+) (?:commands?|file) -->\n+```\w*\n(.*?)^```\n+<!-- end -->",
    re.DOTALL | re.MULTILINE,
)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def text(name: str) -> str:
    """Return a document by its path in the repository."""
    return (ROOT / name).read_text("utf-8")


def prose(document: str) -> str:
    """Return a document without its blocks of code."""
    return _BLOCK.sub("", document)


def blocks(document: str) -> list[tuple[str, str]]:
    """Return the blocks of code in a document, each with its language."""
    return _BLOCK.findall(document)


def marked() -> Mapping[str, str]:
    """Return the blocks that carry a marker, by its name; ValueError where two have the same."""
    found: dict[str, str] = {}
    for document in FOR_USERS:
        for name, block in _MARKED.findall(text(document)):
            if name in found:
                raise ValueError(f"two blocks are marked {name}")
            found[name] = block
    return found


def anchors(document: str) -> set[str]:
    """Return what a link into a document may name: each heading, as GitHub writes it."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(prose(document))
    }


def main(name: str) -> int:
    """Print a marked block; return 1 where there is none of that name."""
    block = marked().get(name)
    if block is None:
        print(f"no document has {name} commands or a {name} file", file=sys.stderr)
        return 1
    print(block, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
