"""How a pass of `once` looks while it runs, and in the end."""

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncd.log import printable
from syncd.once import Tally
from syncd.units import size

#: Transfers shown at once.
_TRANSFERS = 10


def tally_view(tally: Tally, width: int) -> RenderableType:
    """Return the progress of `once`."""
    table = Table.grid(padding=(0, 1, 0, 0))
    bar_width = min(width // 4, 20)
    # The bytes of the largest ones take 22 columns.
    table.add_column(width=max(width - bar_width - 24, 12), overflow="ellipsis", no_wrap=True)
    table.add_column(width=bar_width)
    table.add_column(justify="right", no_wrap=True)
    for path, sent, whole in tally.sending[:_TRANSFERS]:
        bar = ProgressBar(total=max(whole, 1), completed=sent, width=bar_width)
        table.add_row(Text(printable(path)), bar, f"{size(sent)} of {size(whole)}")
    return Group(table, Text(tally_line(tally), "bold"))


def tally_line(tally: Tally) -> str:
    """Return how a pass stands, in one line."""
    return f"{tally.synced:,} synced, {tally.waiting:,} waiting, {tally.failed:,} failed"
