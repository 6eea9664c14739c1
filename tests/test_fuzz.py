"""Anything that others may write is taken, or refused with an error of ours.

Answers of the service: tests/files_api (SYNCD_FUZZ_EXAMPLES); requests to the emulator:
tests/emulator. `pytest tests/test_fuzz.py -m "long or not long" --timeout 0 --hypothesis-profile
long --hypothesis-show-statistics` tries very many, and tells how many were taken and refused.
"""

import json
import re
import shutil
import time

import pytest
from hypothesis import HealthCheck, event, given, settings, strategies as st

from syncd.config import loading as configuration
from syncd.config.settings import FolderSettings, Settings
from syncd.config.targets import HookSettings
from syncd.exceptions import ConfigError, StateError
from syncd.files_api.framing import multipart
from syncd.state.database.store import Store
from syncd.watch.gitignore import PatternError, Patterns

RULE_BYTES = st.lists(st.sampled_from([*b"*?[]!^-\\/#: \t\r\0ab1", *range(256)]), max_size=40).map(
    bytes
)
PATHS = st.lists(
    st.binary(min_size=1, max_size=30).map(lambda name: re.sub(rb"[/\0]", b"*", name)), min_size=1
).map(b"/".join)
VALUES = st.recursive(
    st.none().map(lambda _: "x")
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["auto", "off", "1GiB", "any", "[z-a]", "\x00", "/", "~", "127.0.0.1:0"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def settings_of(model):
    """Return a table of a few settings that `model` knows, with values that it may not take."""
    return st.dictionaries(st.sampled_from([*model.model_fields, "unknown"]), VALUES, max_size=4)


LISTED = ("folders", "hooks")
SECTIONS = {name: type(getattr(Settings(), name)) for name in Settings.model_fields}
FILES = st.fixed_dictionaries(
    {},
    optional={
        **{name: settings_of(model) for name, model in SECTIONS.items() if name not in LISTED},
        "hooks": st.lists(settings_of(HookSettings), max_size=3),
        "folders": st.just([{"path": "drop"}])
        | st.lists(
            settings_of(FolderSettings).map(lambda folder: {"path": "drop"} | folder), max_size=2
        )
        | VALUES,
    },
)


@pytest.mark.long
@pytest.mark.row(84)
@given(st.lists(RULE_BYTES, max_size=5), PATHS, st.booleans())
def test_any_rules_are_taken_or_refused_and_decide_at_once(lines, path, is_dir):
    try:
        patterns = Patterns(lines)
    except PatternError:
        event("refused")
        return
    event("taken")
    began = time.process_time()
    matches, index = patterns.find(path, is_dir=is_dir)
    patterns.find_within(path)
    assert time.process_time() - began < 1
    assert (matches is None) == (index == -1)


def as_toml(value):
    """Write a value as TOML; the text may be none, and that is fine as well."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {as_toml(inner)}' for name, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    return json.dumps(value) if isinstance(value, str | bool) else str(value)


TEXTS = FILES.map(lambda file: "\n".join(f"{k} = {as_toml(v)}" for k, v in file.items()))


@pytest.mark.long
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS | st.text())
def test_any_configuration_is_taken_or_refused_with_a_message(tmp_path, text):
    file, said = tmp_path / "syncd.toml", "taken"
    file.write_text(text, "utf-8", "replace")
    environ = {"AYMARA_AI_API_KEY": "a-key-that-is-secret", "HOME": str(tmp_path)}
    try:
        configuration.load(config=file, environ=environ, working_directory=tmp_path)
    except ConfigError as error:
        said = str(error)
    event("taken" if said == "taken" else "refused")
    assert said
    assert "a-key-that-is-secret" not in said


@pytest.mark.row(62)
@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_no_name_reaches_beyond_its_part_of_a_request(name):
    framing = multipart(name, "text/plain")
    head = framing.head.split(b"\r\n")
    assert [line.partition(b":")[0] for line in head[1:]] == [
        *(b"Content-Disposition", b"Content-Type", b"", b"")
    ]
    assert head[1].count(b'"') == 4
    assert not set(head[1]) & {*range(32), 127}


@pytest.mark.long
@pytest.mark.row(26)
@settings(
    max_examples=max(10, settings.default.max_examples // 100),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1))
def test_any_damage_to_the_state_is_refused_or_harmless_to_the_start(tmp_path, new_state, changes):
    directory = tmp_path / "state"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(new_state, directory)
    content = bytearray((directory / "state.db").read_bytes())
    for part, byte in changes:
        content[int(part * len(content))] = byte
    (directory / "state.db").write_bytes(content)
    store = Store(directory)
    try:
        store.open(1.0)
    except StateError:
        event("refused")
    else:
        event("taken")
    finally:
        store.close()
