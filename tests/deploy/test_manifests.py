"""The manifests for containers say the configuration whole, and fit Compose and Kubernetes."""

import importlib.util
import json
import os
import tomllib

import documents
import pytest
import yaml

from syncd import __version__
from syncd.cli import group as cli
from syncd.config import loading
from syncd.config.settings import Settings
from syncd.deploy import containers, yaml as writer

CONFIG = """\
[[folders]]
path = "/srv/drop"
include = ["*.mp4", "$x"]
hold_files = "off"
[[folders]]
path = "/srv/out"
after_upload = "move"
move_to = "/srv/sent"
grace_seconds = 7
[api]
environment = "staging"
ca_file = "/etc/ssl/ours.pem"
storage_hosts = ["minio.lan"]
[upload]
workers = 3
token = false
[deletions]
hold_files = 5
hold_percent = "off"
[state]
on_new = "adopt"
"""


@pytest.fixture
def init(tmp_path, monkeypatch, capsys):
    """Print a manifest; return its documents and all of its text."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SYNCD_CONFIG", str(tmp_path / "syncd.toml"))
    monkeypatch.chdir(tmp_path)

    def printed(*options, config=CONFIG):
        (tmp_path / "syncd.toml").write_text(config)
        code = cli.call(["init", *options])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return [*yaml.safe_load_all(out)], out

    return printed


def containing(work):
    """Return the pod of a piece of work, and syncd's container in it."""
    pod = work["spec"]["template"]["spec"]
    return pod, next(
        each
        for each in [*pod["containers"], *pod.get("initContainers", [])]
        if each["name"] == "syncd"
    )


def settings(given):
    """Return the configuration that variables alone make."""
    return loading.load(config=None, environ=given, to_sync=False)


def same(one, other, *, but=()):
    """Fail where two configurations differ in more than where they run."""
    for section in Settings.model_fields.keys() - {"state", "server"} - {*but}:
        assert getattr(one, section) == getattr(other, section), section
    assert one.state.on_new == other.state.on_new


def test_compose_says_the_whole_configuration(init, tmp_path):
    ((project,), _) = init("--compose")
    service = project["services"]["syncd"]
    environment = {k: v.replace("$$", "$") for k, v in service["environment"].items()}
    here = loading.load(config=tmp_path / "syncd.toml", environ={"HOME": "/"}, to_sync=False)
    there = settings(environment | {"HOME": "/"})
    assert there.api.ca_file.name in project["secrets"]
    same(there, here, but={"api"})
    assert there.api.model_copy(update={"ca_file": here.api.ca_file}) == here.api
    assert service["volumes"] == [
        "/srv/drop:/srv/drop:ro",
        "/srv/out:/srv/out",
        "/srv/sent:/srv/sent",
        "state:/state",
    ]
    assert set(service["secrets"]) == project["secrets"].keys()
    assert float(service["stop_grace_period"].removesuffix("s")) > there.upload.drain_seconds
    assert "$$x" in service["environment"]["SYNCD_FOLDERS"]


def of_user(path, user, mode):
    """Give a path to a user; without root, it stays ours. Return whose it is."""
    path.chmod(mode)
    if os.getuid() == 0:
        os.chown(path, user, user)
    return path.stat().st_uid


def test_compose_runs_as_the_one_user_who_may_read_key_and_folder(init, tmp_path, monkeypatch):
    key, drop = tmp_path / "key", tmp_path / "drop"
    key.touch()
    drop.mkdir()
    drop.chmod(0o755)
    monkeypatch.setenv("AYMARA_AI_API_KEY_FILE", str(key))
    config = f'[[folders]]\npath = "{drop}"\n'
    key.chmod(0o644)
    ((project,), _) = init("--compose", config=config)
    assert project["services"].keys() == {"syncd"}
    assert "user" not in project["services"]["syncd"]
    owner = of_user(key, 1000, 0o600)
    ((project,), out) = init("--compose", config=config)
    syncd, state = project["services"]["syncd"], project["services"]["state"]
    assert syncd["user"].startswith(f"{owner}:")
    assert f"# User {owner} must be allowed to read the folders" in out
    assert syncd["depends_on"] == {"state": {"condition": "service_completed_successfully"}}
    assert state["entrypoint"][:4] == ["install", "-d", "-o", str(owner)]
    assert state["volumes"] == ["state:/state"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("user", "said"),
    [(0, "belongs to user 0; chown 10001"), (1001, "belongs to user 1001; give all of them to")],
)
def test_compose_says_so_where_no_user_may_read_it_all(tmp_path, monkeypatch, capsys, user, said):
    key, drop = tmp_path / "key", tmp_path / "drop"
    key.touch()
    drop.mkdir()
    monkeypatch.setenv("AYMARA_AI_API_KEY_FILE", str(key))
    monkeypatch.setenv("SYNCD_FOLDERS", json.dumps([{"path": str(drop)}]))
    monkeypatch.chdir(tmp_path)
    of_user(drop, 1000, 0o755 if user == 0 else 0o700)
    of_user(key, user, 0o600)
    assert cli.call(["init", "--compose"]) == 78
    assert said in capsys.readouterr().err


def test_compose_listens_for_other_containers_where_a_listener_is_configured(init):
    config = '[[folders]]\npath = "/srv/drop"\n'
    ((project,), _) = init("--compose", config=config)
    assert "SYNCD_SERVER__LISTEN" not in project["services"]["syncd"]["environment"]
    server = '[server]\nlisten = "127.0.0.1:9000"\nallowed_hosts = ["nas"]\n'
    ((project,), out) = init("--compose", config=config + server)
    environment = project["services"]["syncd"]["environment"]
    assert environment["SYNCD_SERVER__LISTEN"] == "0.0.0.0:9000"
    assert environment["SYNCD_SERVER__TOKEN_FILE"] == "/run/secrets/token"
    assert project["secrets"]["token"] == {"file": "./syncd-token"}
    assert "# openssl rand -hex 16 > syncd-token" in out
    # Its name there is the service's.
    assert json.loads(environment["SYNCD_SERVER__ALLOWED_HOSTS"]) == ["nas", "syncd"]


@pytest.mark.parametrize("kind", containers.KINDS)
def test_a_pod_says_the_whole_configuration_and_mounts_what_it_names(init, tmp_path, kind):
    words = ["--daemonset"] if kind == "daemonset" else ["--kubernetes", kind]
    (*others, work), out = init(*words)
    assert out.startswith("# kubectl create secret generic syncd --from-file=api-key=")
    pod, container = containing(work)
    given = {each["name"]: each.get("value") for each in container["env"]}
    own = {k: v for k, v in given.items() if k not in ("SYNCD_CONFIG", "POD_INDEX")}
    here = loading.load(config=tmp_path / "syncd.toml", environ={"HOME": "/"}, to_sync=False)
    there = settings(own | {"HOME": "/"})
    same(there, here, but={"api", "folders", "upload"})
    assert there.upload.drain_seconds < pod["terminationGracePeriodSeconds"]
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert {"/srv/drop", "/srv/out", "/srv/sent", "/state", containers.SECRETS} <= mounts.keys()
    claims = {each["metadata"]["name"] for each in work["spec"].get("volumeClaimTemplates", [])}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert claims | volumes.keys() == set(mounts.values())
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert there.server.port == container["ports"][0]["containerPort"]
    # Either folder and state live equally long, or any directory will do.
    if kind in ("deployment", "job"):
        assert {folder.root for folder in there.folders} == {"any"}
        assert "emptyDir" in volumes["drop"]
        assert "emptyDir" in volumes["state"]
    else:
        assert there.folders == here.folders
        assert "emptyDir" not in volumes.get("drop", {})
        assert "emptyDir" not in volumes.get("state", {})
    is_sidecar = kind in ("deployment", "job", "statefulset")
    assert (container.get("restartPolicy") == "Always") is is_sidecar
    assert bool(others) is (kind == "sharded")


def test_each_shard_has_a_directory_a_state_and_a_workspace_of_its_own(init):
    (shards, work), _ = init("--kubernetes", "sharded")
    _, container = containing(work)
    drop = next(each for each in container["volumeMounts"] if each["name"] == "drop")
    assert drop["subPathExpr"] == "shard-$(POD_INDEX)"
    named = {each["name"]: each.get("value") for each in container["env"]}
    spaces = []
    for index in range(work["spec"]["replicas"]):
        file = named["SYNCD_CONFIG"].replace("$(POD_INDEX)", str(index))
        text = shards["data"][file.removeprefix("/etc/syncd/")]
        spaces.append(tomllib.loads(text)["api"]["workspace_uuid"])
    assert len({*spaces}) == len(spaces) > 1
    (state,) = work["spec"]["volumeClaimTemplates"]
    assert state["spec"]["accessModes"] == ["ReadWriteOncePod"]


@pytest.mark.parametrize(("said", "printed"), [("", "new"), ('[state]\non_new = "hold"', "hold")])
def test_nodes_with_equal_files_ask_nobody_unless_that_is_configured(init, said, printed):
    ((work,), _) = init("--daemonset", config=f'[[folders]]\npath = "/srv/drop"\n{said}\n')
    _, container = containing(work)
    given = {each["name"]: each.get("value") for each in container["env"]}
    assert settings(given | {"HOME": "/"}).state.on_new == printed


def test_no_secret_stands_in_a_manifest(init, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("AYMARA_AI_API_KEY", "a-secret-of-mine")
    hook = '\n[alerts]\nwebhook = "https://x.example/a-secret-of-mine"\n'
    (tmp_path / "syncd.toml").write_text(CONFIG + hook)
    assert cli.call(["init", "--kubernetes"]) == 0
    out, err = capsys.readouterr()
    assert "a-secret" not in out + err
    assert "**" not in out
    assert "[alerts] webhook is left out" in err
    assert "set SYNCD_ALERTS__WEBHOOK" in err
    assert "# - [alerts] webhook is left out, since it may hold a secret: set SYNCD_ALERTS__" in out
    assert cli.call(["init", "--compose"]) == 0
    assert (
        "# [alerts] webhook is left out, since it may hold a secret: set" in capsys.readouterr().out
    )


def test_the_alert_rules_are_printed_as_they_are_shipped(capsys):
    assert cli.call(["init", "--prometheus-rules"]) == 0
    groups = yaml.safe_load(capsys.readouterr().out)["groups"]
    assert any(rule["alert"] == "SyncdDown" for group in groups for rule in group["rules"])


def test_the_dashboard_is_printed_as_it_is_shipped(capsys):
    assert cli.call(["init", "--grafana"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "syncd"


def test_the_printed_image_is_the_one_that_the_documented_command_builds(init):
    operations = documents.text(".github/OPERATIONS.md")
    for words in (["--compose"], ["--daemonset"], ["--kubernetes"], ["--kubernetes", "sharded"]):
        _, out = init(*words)
        images = [
            line.strip(" -") for line in out.splitlines() if line.strip(" -")[:7] == "image: "
        ]
        ours = [line for line in images if "your-program" not in line]
        assert ours
        for line in ours:
            image, comment = line.removeprefix("image: ").split("  # ")
            assert f"docker build -t {image} ." in operations
            assert f"    image: {image}\n" in operations
            assert comment.endswith(f"HOST/{image}:{__version__}")


def head(out):
    return [line for line in out.splitlines() if line.startswith("# ")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kubernetes"], ["your-program", "1Gi of state", "10Gi for each folder"]),
        (["--kubernetes", "deployment"], ["your-program"]),
        (["--kubernetes", "job"], ["your-program"]),
        (
            ["--kubernetes", "sharded"],
            [
                "Claims that must exist: drop, drop-2, drop-3 (",
                "ReadWriteMany",
                "WORKSPACE-OF-SHARD",
            ],
        ),
        (["--daemonset"], ["/srv/drop, /srv/out, /srv/sent: must be on each node"]),
    ],
)
def test_the_head_of_a_manifest_says_what_to_replace_and_what_must_be_there(init, words, said):
    _, out = init(*words)
    text = "\n".join(head(out))
    assert [part for part in ["image: syncd", *said] if part not in text] == []


def test_the_state_of_a_shard_has_room_for_a_million_files(init):
    (_, work), _ = init("--kubernetes", "sharded")
    (state,) = work["spec"]["volumeClaimTemplates"]
    assert state["spec"]["resources"]["requests"]["storage"] == "4Gi"


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--compose"], "the volume `state`"),
        (["--kubernetes"], "the volume `state`"),
        (["--daemonset"], "the directory /var/lib/syncd of each node"),
    ],
)
def test_a_state_directory_that_a_manifest_does_not_use_is_named(tmp_path, capsys, words, place):
    file = tmp_path / "syncd.toml"
    file.write_text('[[folders]]\npath = "/srv/drop"\n[state]\ndirectory = "/mnt/fast"\n')
    assert cli.call(["-c", str(file), "init", *words]) == 0
    said = capsys.readouterr().err
    assert said == f"syncd: [state] directory = /mnt/fast is not used: the state lies in {place}\n"


def test_text_that_looks_like_something_else_stays_text():
    odd = ["", "no", "1", "1.5", "0x1f", "a: b", "a #b", "- x", "ü\n", "\x7f", "*", "null", "~"]
    document = {"odd": odd, "nested": [[], {}, {"a": [{"b": 1}, {"c": None}]}], "no": True}
    assert yaml.safe_load(writer.dump(document)) == document


@pytest.mark.long
@pytest.mark.skipif(
    not importlib.util.find_spec("kubernetes_validate"), reason="needs kubernetes-validate"
)
@pytest.mark.parametrize("kind", containers.KINDS)
def test_kubernetes_accepts_each_manifest_in_the_newest_and_three_older_minors(init, kind):
    import kubernetes_validate

    words = ["--daemonset"] if kind == "daemonset" else ["--kubernetes", kind]
    documents, _ = init(*words)
    newest = kubernetes_validate.latest_version()
    major, minor = map(int, newest.split(".")[:2])
    for older in range(4):
        for document in documents:
            kubernetes_validate.validate(document, f"{major}.{minor - older}", strict=True)
