"""How the lines of a view break: no age within itself, and a heading with its path indented."""

from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

#: Stands for a blank at which no line breaks: rich breaks lines also at a no-break space. No name
#: contains it, because it is not printable.
_BLANK = "\ue000"


def kept(text: str) -> str:
    """Return `text` as words that stay on one line, within a view that is `Unbroken`."""
    return text.replace(" ", _BLANK)


@dataclass(frozen=True, slots=True)
class Unbroken:
    """A view in which words that are `kept` together stay so."""

    view: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, style, control in console.render(self.view, options):
            yield Segment(text.replace(_BLANK, " "), style, control)


@dataclass(frozen=True, slots=True)
class Heading:
    """A name and a path: on one line, or the path indented below."""

    name: str
    path: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if cell_len(self.name) + 2 + cell_len(self.path) <= options.max_width:
            yield Text.assemble((self.name, "bold"), "  ", self.path)
            return
        yield Text(self.name, "bold")
        yield Padding(Text(self.path), (0, 0, 0, 4))
