"""The documents: what they show exists, nothing is left out, and no link leads nowhere."""

import json
import re
import tomllib
from pathlib import Path

import click
import documents
import pytest
import yaml

from syncd import __version__, cli, config, credentials, locations
from syncd.emulator import faults
from syncd.emulator.personalities import PERSONALITIES
from syncd.metrics import TALLIES
from syncd.server import exposition
from syncd.server.listener import Listener
from syncd.settings import Folder, Settings
from syncd.state import holds, schema
from syncd.state.lifecycle import ARROWS, CopyStatus
from syncd.workers import gate, introduction, rollback

ROOT = documents.ROOT
README, OPERATIONS, ARCHITECTURE = map(
    documents.text, ("README.md", ".github/OPERATIONS.md", ".github/ARCHITECTURE.md")
)
#: All that is written for those who use syncd.
GUIDE = "\n".join(map(documents.text, documents.FOR_USERS))
SOURCE = "".join(path.read_text() for path in (ROOT / "syncd").rglob("*.py"))
BLOCKS = documents.blocks(GUIDE)
#: The whole configuration, and each section's part of it.
TOML = next(text for kind, text in BLOCKS if kind == "toml")
PARTS = dict(re.findall(r"^\[+(\w+)\]+\n(.*?)(?=^\[|\Z)", TOML, re.DOTALL | re.MULTILINE))
VARIABLES = {
    *config._variables(),
    *(locations.FILE_VARIABLE, config.WATCH_VARIABLE),
    *(credentials.KEY_VARIABLE, credentials.KEY_FILE_VARIABLE),
    *(credentials.TOKEN_VARIABLE, credentials.TOKEN_FILE_VARIABLE),
    *(config.URL_VARIABLE, config.SANDBOX_VARIABLE),
}


def keys(section):
    field = Settings.model_fields[section]
    return set((Folder if section == "folders" else field.annotation).model_fields)


def called():
    """Return every call of syncd that the documents show, as words."""
    lines = [line.split("#")[0] for kind, text in BLOCKS if not kind for line in text.splitlines()]
    # Code among words may be broken over two lines.
    for code in [*lines, *re.findall(r"`([^`]+)`", documents.prose(GUIDE))]:
        shown = code.replace("\n", " ").strip()
        if match := re.search(
            r"(?:^(?:sudo )?|bin/|exec syncd )syncd ((?:-c \S+ )?[a-z].*)", shown
        ):
            yield [word.strip("[].,") for word in re.sub(r"^-c \S+ ", "", match[1]).split()]


def command_of(words):
    """Return the command that `words` call, and its options; None for the group alone."""
    group, options, found = cli.cli, [], None
    for word in words:
        if word.startswith("-"):
            options.append(word.split("=")[0])
        elif isinstance(group, click.Group):
            found = group.get_command(click.Context(group), word)
            assert found is not None, f"there is no command {word!r}: syncd {' '.join(words)}"
            group = found
    return found, options


def test_every_setting_stands_in_its_section_and_nothing_else_does():
    assert set(PARTS) == set(Settings.model_fields)
    for section, part in PARTS.items():
        named = set(re.findall(r"\b([a-z]+(?:_[a-z0-9]+)*)\b", part))
        assert keys(section) <= named, (section, keys(section) - named)
        assigned = set(re.findall(r"\b(\w+) = ", part))
        assert assigned <= keys(section), (section, assigned - keys(section))


def test_the_configuration_can_be_used_as_it_stands_and_shows_the_defaults(tmp_path):
    Settings.model_validate(tomllib.loads(TOML))
    # Each line that is commented out is one, too.
    whole = re.sub(r"^# (?=\w+ = )", "", TOML, flags=re.MULTILINE)
    settings = Settings.model_validate(tomllib.loads(whole))
    shown = tomllib.loads(TOML)
    for section in shown.keys() - {"folders"}:
        for key, value in shown[section].items():
            default = getattr(Settings.model_validate({section: {key: value}}), section)
            assert getattr(type(default)(), key) == getattr(default, key), (section, key)
    folder = Folder(path=tmp_path)
    for key, value in shown["folders"][0].items():
        if key not in ("path", "exclude"):
            assert getattr(folder, key) == getattr(settings.folders[0], key), (key, value)


def test_every_variable_exists_and_those_that_stand_alone_are_named():
    named = set(re.findall(r"\b((?:SYNCD|AYMARA_AI)_[A-Z_]+)\b", GUIDE))
    assert named <= VARIABLES, named - VARIABLES
    assert {name for name in VARIABLES if "__" not in name} <= named


def test_every_command_is_in_the_table_and_every_call_is_one():
    table = re.findall(r"^\| `syncd (\w+)", README, re.MULTILINE)
    assert set(table) == set(cli.COMMANDS)
    assert len(list(called())) > 30
    for words in called():
        command, options = command_of(words)
        known = {name for parameter in cli.cli.params for name in parameter.opts} | {"--help"}
        if command is not None:
            known |= {name for parameter in command.params for name in parameter.opts}
        assert set(options) <= known, words


def options_of(command):
    """Return every option of a command and of those beneath it."""
    beneath = getattr(command, "commands", {})
    if command is cli.cli:
        beneath = {name: command.get_command(None, name) for name in cli.COMMANDS}
    own = {name for parameter in command.params for name in parameter.opts}
    return own.union(*map(options_of, beneath.values()))


def test_every_option_that_stands_alone_is_one():
    named = re.findall(r"`(--[\w-]+)", documents.prose(GUIDE))
    assert len(named) > 10
    # `--user` is Docker's.
    assert set(named) - options_of(cli.cli) == {"--user"}


def test_every_path_of_the_page_exists():
    routes = {route.path for route in Listener(config=lambda: None, steps=list)._routes()}
    named = set(re.findall(r"[` (](/\w+z|/metrics|/\w+\.json)\b", GUIDE))
    assert named == routes - {"/", "/page.json"}


def reasons(document, heading):
    """Return what the first column of the table beneath a heading names."""
    table = document.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return {reason for cell in first for reason in re.findall(r"`(\w+)`", cell)}


def test_every_hold_reason_is_explained_and_each_that_is_explained_is_given():
    given = {
        value
        for module in (holds, gate)
        for name, value in vars(module).items()
        if re.fullmatch(r"[A-Z][A-Z_]+", name)
        and isinstance(value, str)
        and re.fullmatch(r"[a-z]+(_[a-z]+)*", value)
    } - {gate.REST}
    given |= {introduction.UNPROVEN, rollback.UNCHECKED}
    explained = reasons(OPERATIONS, "When something is wrong")
    assert explained == given
    assert [reason for reason in explained if f'"{reason}"' not in SOURCE] == []
    in_short = reasons(README, "Two in the morning")
    assert len(in_short) > 5
    assert in_short <= explained


def test_every_metric_is_explained_and_each_that_is_explained_exists():
    made = set(re.findall(r'"(syncd_\w+)"', Path(exposition.__file__).read_text()))
    made |= {tally.name for tally in TALLIES}
    shown = {name.removesuffix("_total") for name in re.findall(r"`(syncd_\w+)`", GUIDE)}
    assert shown == made


def test_the_blocks_that_rigs_and_gate_run_are_there():
    scripts = [*(ROOT / "tests/rigs").glob("*.sh"), ROOT / ".ci/run"]
    run = {
        name
        for path in scripts
        for name in re.findall(r"(?<!-)block ([\w-]+)[ )]", path.read_text())
    }
    assert {"systemd", "container"} <= run <= documents.marked().keys()
    # The gate reads the README alone, with nothing installed yet.
    assert documents.marked()["test"] in README
    assert "<!-- test command -->" in (ROOT / ".ci/run").read_text()


def test_every_way_in_which_the_emulator_misbehaves_is_explained():
    section = OPERATIONS.split("\n### The emulator\n")[1].split("\n## ")[0]
    assert [name for name in PERSONALITIES if f"`{name}`" not in section] == []
    for action in (*faults._WORDS, "status", "delay", "commit_late"):
        assert f'"{action}"' in section, action


def test_the_readme_can_be_read_at_one_sitting():
    assert len(README.encode()) <= 13 * 1024


@pytest.mark.parametrize("name", [*documents.FOR_USERS, *documents.FOR_DEVELOPERS])
def test_every_link_and_every_file_that_is_named_leads_somewhere(name):
    text = documents.prose(documents.text(name))
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    links += re.findall(r"^\[\w+\]: (\S+)", text, re.MULTILINE)
    for link in links:
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.is_relative_to(ROOT)
        assert target.exists(), link
        if anchor:
            assert anchor in documents.anchors(target.read_text()), link
    for path in re.findall(r"(?<![/\w])((?:systemd|tests|\.github|\.ci)/[\w./@-]+\w)", text):
        assert (ROOT / path).exists(), path


def table(document, heading):
    """Return the rows of the first table beneath a heading, without its head."""
    section = re.split(rf"^#+ {heading}$", document, flags=re.MULTILINE)[1].split("\n## ")[0]
    first = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in first]


def test_the_table_of_rooms_has_every_room_and_no_other():
    named = {
        room
        for _, rooms, _ in table(ARCHITECTURE, "Rooms")
        for room in re.findall(r"`(syncd/[\w/.]+)`", rooms)
    }
    assert [room for room in named if not (ROOT / room).exists()] == []
    top = {
        f"syncd/{path.name}"
        for path in (ROOT / "syncd").iterdir()
        if not path.name.startswith("__")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert top - named == set()
    assert ARCHITECTURE.count("`syncd/") == sum(
        rooms.count("`syncd/") for _, rooms, _ in table(ARCHITECTURE, "Rooms")
    ), "a module is named outside the table of rooms"


def test_bold_names_in_the_architecture_are_rooms_of_the_table():
    rooms = {name for cell, *_ in table(ARCHITECTURE, "Rooms") for name in cell.split(", ")}
    recipes = ARCHITECTURE.split("\n## Recipes\n")[1]
    bold = set(re.findall(r"\*\*[\w ]+\*\*", recipes))
    assert bold - rooms == set()


def test_the_arrows_and_columns_are_those_of_the_code(tmp_path):
    shown = {
        CopyStatus(source): {CopyStatus(target) for target in targets.split(", ")}
        for source, targets in table(ARCHITECTURE, "The arrows")
    }
    assert shown | {CopyStatus.GONE: set()} == {s: set(t) for s, t in ARROWS.items()}
    db = schema.open_writable(tmp_path / "state.db")
    section = ARCHITECTURE.split("\n## The two tables\n")[1].split("\n## ")[0]
    for name in ("files", "copies"):
        first = section.split(f"**`{name}`**")[1]
        columns = re.findall(r"^\| (`.+?) \|", first.split("\n\n")[1], re.MULTILINE)
        named = {column for cell in columns for column in re.findall(r"`(\w+[a-z0-9])`", cell)}
        assert named
        assert named <= set(db[name].columns_dict), name
    beside = section.split("Beside them:")[1]
    assert set(re.findall(r"`(\w+)`", beside)) - {"adopt"} <= set(db.table_names())
    db.close()


def test_the_steps_are_those_that_the_daemon_repeats():
    source = (ROOT / "syncd/daemon.py").read_text()
    added = re.findall(r'^ +add\(f?"([^"]+)"', source, re.MULTILINE)
    shown = [
        name for row in table(ARCHITECTURE, "Steps and threads") for name in row[0].split(", ")
    ]
    assert shown == [name.replace("{name}", "FOLDER") for name in added]


def test_the_image_is_as_the_documents_say():
    image = (ROOT / "Dockerfile").read_text()
    assert f"VERSION={__version__}\n" in image
    assert f"\n## {__version__} - 20" in documents.text("CHANGELOG.md")
    assert "SYNCD_WATCH=/data" in image
    assert "SYNCD_STATE__DIRECTORY=/state" in image
    assert "10001" in image


def test_every_promise_leads_to_a_test_that_is_there():
    section = OPERATIONS.split("\n## Promises\n")[1].split("\n## ")[0]
    promises = section.split("\n### Limits\n")[0]
    assert re.findall(r"^- (?!\[)", promises, re.MULTILINE) == []
    tests = re.findall(r'^\[(\w+)\]: \.\./(\S+) "(\w+)"$', section, re.MULTILINE)
    assert sorted(re.findall(r"\]\[(\w+)\]", section)) == sorted(name for name, *_ in tests)
    for _, path, test in tests:
        assert f"def {test}(" in (ROOT / path).read_text(), test


def test_every_promise_in_short_leads_to_the_sentences_that_spell_it_out():
    section = README.split("\n## Promises\n")[1].split("\n## ")[0]
    promises = section.split("It does not promise")[0]
    for promise in promises.split("\n- ")[1:]:
        assert re.search(r"\(\[\w+\]\(\.github/OPERATIONS\.md#\w+\)\)\s*$", promise), promise


def test_the_examples_for_containers_fit_the_image_and_leave_time_to_drain():
    compose, pod = (yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml")
    service = compose["services"]["syncd"]
    key_file = service["environment"]["AYMARA_AI_API_KEY_FILE"]
    assert Path(key_file).name in service["secrets"]
    assert set(service["secrets"]) == set(compose["secrets"])
    assert [mount.split(":")[1] for mount in service["volumes"]] == ["/data", "/state"]
    drain = float(service["environment"]["SYNCD_UPLOAD__DRAIN_SECONDS"])
    assert drain < float(service["stop_grace_period"].removesuffix("s"))

    spec = pod["spec"]["template"]["spec"]
    (sidecar,) = spec["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    given = {variable["name"]: variable["value"] for variable in sidecar["env"]}
    assert given.keys() <= VARIABLES
    assert float(given["SYNCD_UPLOAD__DRAIN_SECONDS"]) < spec["terminationGracePeriodSeconds"]
    mounts = {mount["name"]: mount["mountPath"] for mount in sidecar["volumeMounts"]}
    assert (mounts["drop"], mounts["state"]) == ("/data", "/state")
    assert Path(given["AYMARA_AI_API_KEY_FILE"]).parent == Path(mounts["key"])
    volumes = {volume["name"] for volume in spec["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in pod["spec"]["volumeClaimTemplates"]}
    assert volumes == set(mounts)
    for probe in ("startupProbe", "livenessProbe"):
        command, options = command_of(sidecar[probe]["exec"]["command"][1:])
        assert (command.name, options) == ("status", ["--alive"])
    # A key there may be read by its group: it is no key that lies about.
    assert json.dumps(spec["volumes"]).count("secretName") == 1
