"""`schema`: the JSON Schema of what a command prints with `--json`."""

import json
import re

import click

from syncd.cli import completion
from syncd.cli.lines import print_json
from syncd.report.schemas import DOCUMENTS


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument(
    "command",
    metavar="COMMAND...",
    nargs=-1,
    required=True,
    shell_complete=completion.documents,
)
def schema(command: tuple[str, ...]) -> None:
    """Print the JSON Schema of what COMMAND prints with --json: `syncd schema deletes list`.

    For ls, log, wait, why, frames and fetch it describes each line or document. `once --dry-run`
    and `adopt --new` have schemas of their own. Keys may be added later, so none refuses further
    ones.
    """
    from pydantic import TypeAdapter  # noqa: PLC0415 - it starts slowly

    name = " ".join(command)
    if name not in DOCUMENTS:
        raise click.UsageError(f"there are schemas for {', '.join(DOCUMENTS)}, and not for {name}")
    text = json.dumps(TypeAdapter(DOCUMENTS[name]).json_schema())
    # Code is generated from schemas: names of types stay as published, without the suffix of ours.
    print_json(json.loads(re.sub(r'(?<=\w)Document"', '"', text)), indent=2)
