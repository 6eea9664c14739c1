"""Prints what was measured: a table for people, JSON for programs."""

import json
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

COLUMNS = ("measure", "figure", "syncd", "before", "peer", "ratio", "target", "stretch", "met")
WIDTH = 150


def number(value):
    """Return a number with three digits that count."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 or not value else f"{value:.2g}"


def cells(row, *, before):
    """Return a row as texts; `before` tells whether another tree is compared with."""
    peer = f"{row.peer_name} {number(row.peer)}" if row.peer_name else ""
    ratio = number(row.ratio) if row.peer_name else ""
    if before and row.ratio_before is not None:
        ratio += f" (was {number(row.ratio_before)})"
    shown = [row.measure, row.what, number(row.ours), number(row.before), peer, ratio]
    shown += [row.target, row.stretch, row.met]
    return shown if before else shown[:3] + shown[4:]


def show(rows, file, *, before=False):
    """Print the table, then each note once."""
    console = Console(file=file, width=None if file.isatty() else WIDTH, highlight=False)
    table = Table(box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        if before or column != "before":
            numeric = column in ("syncd", "before", "peer", "ratio")
            table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*cells(row, before=before))
    console.print(table)
    for note in dict.fromkeys(f"{row.measure}: {row.note}" for row in rows if row.note):
        console.print(note, markup=False, soft_wrap=True)
    judged = [row for row in rows if row.met in ("yes", "stretch", "no")]
    missed = [f"{row.measure} ({row.what})" for row in judged if row.met == "no"]
    console.print(f"{len(judged) - len(missed)} of {len(judged)} targets met", markup=False)
    if missed:
        console.print(f"missed: {', '.join(missed)}", markup=False, soft_wrap=True)


def as_json(rows):
    return json.dumps([asdict(row) for row in rows], indent=1)
