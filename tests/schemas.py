"""Validates what commands print with --json, as the tests run them, against their schemas."""

import json
from functools import cache

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import is_typeddict

from syncd.report import documents, results
from syncd.report.schemas import DOCUMENTS


@cache
def adapter(name):
    """Return what validates a command's documents, and refuses each key that it does not know."""
    known = vars(documents) | vars(results)
    kinds = [kind for kind in known.values() if is_typeddict(kind)]
    for kind in kinds:
        kind.__pydantic_config__ = ConfigDict(extra="forbid")
    try:
        return TypeAdapter(DOCUMENTS[name])
    finally:
        for kind in kinds:
            del kind.__pydantic_config__


#: The names of the documents that were validated in this process.
validated = set()


def described(arguments):
    """Return the name by which the schema of a command line is known; None where there is none."""
    words = [word for word in arguments if not word.startswith("-")]
    name = " ".join(words[: 2 if words[:1] in (["deletes"], ["config"]) else 1])
    if name == "deletes list" and len(words) > 2:
        name = "deletes list HOLD"
    with_option = {f"{name} {'--dry-run' if word == '-n' else word}" for word in arguments}
    name = next(iter(with_option & DOCUMENTS.keys()), name)
    return name if name in DOCUMENTS else None


def validate(arguments, out):
    """Refuse what a command printed with --json if its schema does not describe it."""
    arguments = [str(argument) for argument in arguments]
    name = described(arguments)
    if "--json" not in arguments or name is None:
        return
    decoder, text = json.JSONDecoder(), out.lstrip()
    while text:
        validated.add(name)
        document, end = decoder.raw_decode(text)
        adapter(name).validate_python(document)
        text = text[end:].lstrip()
