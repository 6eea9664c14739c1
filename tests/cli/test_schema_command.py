"""`schema`: what it prints describes what commands print."""

import json

import click
import pytest

from syncd.cli import group
from syncd.report.schemas import DOCUMENTS


def with_json(command, name=""):
    """Yield the names of the commands that take --json."""
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for part in command.list_commands(ctx):
            yield from with_json(command.get_command(ctx, part), f"{name} {part}".strip())
    elif any("--json" in option.opts for option in command.params):
        yield name


def test_every_command_that_prints_documents_has_a_schema():
    known = {name.removesuffix(" HOLD").partition(" --")[0] for name in DOCUMENTS}
    assert {*with_json(group.cli)} == known


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_schema_names_the_keys_and_refuses_no_further_ones(syncd, name):
    code, out, _ = syncd("schema", *name.split())
    schema = json.loads(out)
    assert code == 0
    assert schema["type"] in ("object", "array")
    assert 'additionalProperties": false' not in out
    assert 'Document"' not in out


def test_another_name_is_refused_with_those_that_there_are(syncd):
    code, _, err = syncd("schema", "run")
    assert code == 2
    assert "there are schemas for status, ls" in " ".join(err.split())


def test_the_schema_of_status_describes_its_document(desk, syncd_json):
    desk.sync(b"a")
    _, schema = syncd_json("schema", "status")
    _, document = syncd_json("status", "--json")
    assert schema["required"] == list(document)


def test_a_schema_calls_types_by_their_plain_names(syncd_json):
    _, schema = syncd_json("schema", "why")
    assert schema["title"] == "Story"
    assert {*schema["$defs"]} == {"Hold", "Past", "Word"}
    assert schema["$defs"]["Hold"]["title"] == "Hold"
    assert schema["properties"]["holds"]["items"] == {"$ref": "#/$defs/Hold"}
