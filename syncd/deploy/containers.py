"""Manifests of Compose and Kubernetes for one configuration, as nested dictionaries and lists."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from syncd.config.credentials import KEY_FILE_VARIABLE
from syncd.config.settings import Config
from syncd.deploy import access, environment

#: The image that `docker build -t syncd .` makes.
IMAGE = "syncd"
#: Stands for the image of the program beside it.
PROGRAM = "your-program"
PORT = 8766
#: The user of the image.
USER = 10_001
SECRETS = "/run/secrets/syncd"
_TOKEN_VARIABLE = "SYNCD_SERVER__TOKEN_FILE"  # noqa: S105 - a name
#: The file of the listener's token beside a Compose file, unless the configuration names one.
COMPOSE_TOKEN = "syncd-token"  # noqa: S105 - a name
#: Seconds for what is on its way at the end, and what it takes to end beyond that.
DRAIN_SECONDS, GRACE_SECONDS = 60, 90
#: Kinds of work to which a pod may belong; in the first two, `drop` lives only as long as the pod.
KINDS = ("deployment", "job", "statefulset", "sharded", "daemonset")
_SCRATCH = ("deployment", "job")
SHARDS = 2
#: Sizes of the claims. A state of 4 GiB, with its backups, serves a million files.
STATE_SIZE, LARGE_STATE_SIZE, FOLDER_SIZE = "1Gi", "4Gi", "10Gi"
#: The directory of a node with the state, in a DaemonSet.
NODE_STATE = "/var/lib/syncd"


def compose(config: Config, key_file: str) -> dict[str, Any]:
    """Return a project of Compose that serves the folders at the paths that they have here.

    Raise ConfigError when no user of a container may read them all, and the secrets.
    """
    variables = _variables(config) | environment.folders(config)
    drain = config.upload.drain_seconds
    mounts = [f"{path}:{path}{'' if writes else ':ro'}" for path, writes in _places(config)]
    files = {"aymara-api-key": (KEY_FILE_VARIABLE, Path(key_file)), **_files(config)}
    if config.server.listen:
        files.setdefault("token", (_TOKEN_VARIABLE, Path(COMPOSE_TOKEN)))
        variables |= _listening(config)
    variables |= {variable: f"/run/secrets/{name}" for name, (variable, _) in files.items()}
    secrets = {
        name: {"file": key_file if name == "aymara-api-key" else _beside(path)}
        for name, (_, path) in files.items()
    }
    user, group = access.user_for(
        {**dict(_places(config)), **{path: False for _, path in files.values()}}, USER
    )
    service: dict[str, Any] = {
        "image": IMAGE,
        "restart": "unless-stopped",
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "stop_grace_period": f"{int(drain) + 20}s",
        "environment": variables,
        "secrets": [*secrets],
        "volumes": [*mounts, "state:/state"],
    }
    services = {"syncd": service}
    if user != USER:
        # A new volume belongs to the image's user.
        service["user"] = f"{user}:{group}"
        service["depends_on"] = {"state": {"condition": "service_completed_successfully"}}
        services["state"] = _state_of_another(user, group)
    project = {"services": services, "secrets": secrets, "volumes": {"state": {}}}
    return {key: _without_interpolation(value) for key, value in project.items()}


def _listening(config: Config) -> dict[str, str]:
    # Other containers call it by the name of the service.
    hosts = dict.fromkeys((*config.server.allowed_hosts, "syncd"))
    return {
        "SYNCD_SERVER__LISTEN": f"0.0.0.0:{config.server.port or PORT}",
        "SYNCD_SERVER__ALLOWED_HOSTS": json.dumps([*hosts]),
    }


def _state_of_another(user: int, group: int) -> dict[str, Any]:
    """Return the service that gives the volume of the state to another user than the image's."""
    return {
        "image": IMAGE,
        "user": "0:0",
        "entrypoint": _giving(user, group),
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "cap_add": ["CHOWN", "FOWNER"],
        "security_opt": ["no-new-privileges:true"],
        "volumes": ["state:/state"],
    }


def _giving(user: int, group: int) -> list[str]:
    """Return the command that makes `/state` a directory of this user's."""
    return ["install", "-d", "-o", str(user), "-g", str(group), "-m", "0700", "/state"]


def _beside(path: Path) -> str:
    """Return a path as Compose takes it: one that is not absolute is beside its file."""
    return str(path) if path.is_absolute() else f"./{path}"


def kubernetes(config: Config, kind: str) -> list[dict[str, Any]]:
    """Return the objects that serve the folders in pods of one of `KINDS`."""
    name = "syncd" if kind in ("daemonset", "sharded") else "producer"
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": _pod(config, kind)}
    spec: dict[str, Any] = {"selector": {"matchLabels": labels}, "template": template}
    if kind == "job":
        spec = {"backoffLimit": 4, "template": template}
    elif kind == "deployment":
        spec = {"replicas": 1, **spec}
    elif kind in ("statefulset", "sharded"):
        size = LARGE_STATE_SIZE if kind == "sharded" else STATE_SIZE
        claims = [_claim("state", size, "ReadWriteOncePod")]
        if kind == "statefulset":
            claims += [_claim(drop, FOLDER_SIZE, "ReadWriteOncePod") for drop, *_ in drops(config)]
        replicas = SHARDS if kind == "sharded" else 1
        spec = {"replicas": replicas, "serviceName": name, **spec, "volumeClaimTemplates": claims}
    kinds = {"job": ("batch/v1", "Job"), "deployment": ("apps/v1", "Deployment")}
    kinds |= {"daemonset": ("apps/v1", "DaemonSet")}
    version, word = kinds.get(kind, ("apps/v1", "StatefulSet"))
    work = {"apiVersion": version, "kind": word, "metadata": {"name": name}, "spec": spec}
    if kind != "sharded":
        return [work]
    texts = {f"shard-{n}.toml": _shard(n) for n in range(SHARDS)}
    shards = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "syncd-shards"}}
    return [shards | {"data": texts}, work]


def place_of_state(kind: str) -> str:
    """Return where the state lies, in words, whatever the configuration says."""
    if kind == "daemonset":
        return f"the directory {NODE_STATE} of each node"
    return "the volume `state`"


def secret_command(config: Config, key_file: str) -> str:
    """Return the command that makes the secret to which the pods refer."""
    files = {"api-key": key_file} | {n: str(path) for n, (_, path) in _files(config).items()}
    parts = [f"--from-file={name}={path}" for name, path in files.items()]
    if config.server.token_file is None:
        parts.append("--from-literal=token=$(openssl rand -hex 16)")
    return " ".join(["kubectl create secret generic syncd", *parts])


def _pod(config: Config, kind: str) -> dict[str, Any]:
    container = _container(config, kind)
    volumes = [
        {"name": "secrets", "secret": {"secretName": "syncd", "defaultMode": 0o440}},
        {"name": "tmp", "emptyDir": {}},
    ]
    pod: dict[str, Any] = {
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {"fsGroup": USER, "fsGroupChangePolicy": "OnRootMismatch"},
    }
    is_alone = kind in ("daemonset", "sharded")
    if is_alone:
        pod["containers"] = [container]
    else:
        # Always makes it a sidecar: it starts before the program, and ends after it.
        pod["initContainers"] = [container | {"restartPolicy": "Always"}]
        mounts = [{"name": name, "mountPath": str(path)} for name, path, _ in drops(config)]
        pod["containers"] = [{"name": "producer", "image": PROGRAM, "volumeMounts": mounts}]
    if kind == "job":
        pod["restartPolicy"] = "Never"
    if kind in _SCRATCH:
        volumes += [{"name": name, "emptyDir": {}} for name, *_ in drops(config)]
        volumes.append({"name": "state", "emptyDir": {}})
    elif kind == "daemonset":
        pod["initContainers"] = [_owner_of_state()]
        volumes += [_host(name, str(path), "Directory") for name, path, _ in drops(config)]
        volumes.append(_host("state", NODE_STATE, "DirectoryOrCreate"))
    elif kind == "sharded":
        volumes += [
            {"name": name, "persistentVolumeClaim": {"claimName": name}}
            for name, *_ in drops(config)
        ]
        volumes.append({"name": "shards", "configMap": {"name": "syncd-shards"}})
    return pod | {"volumes": volumes}


def _container(config: Config, kind: str) -> dict[str, Any]:
    port = config.server.port or PORT
    alive = {"httpGet": {"path": "/healthz", "port": "http"}}
    return {
        "name": "syncd",
        "image": IMAGE,
        "env": _environment(config, kind, port),
        "ports": [{"name": "http", "containerPort": port}],
        "startupProbe": {**alive, "periodSeconds": 2, "failureThreshold": 60},
        "livenessProbe": {**alive, "periodSeconds": 30, "timeoutSeconds": 5},
        "resources": {"requests": {"memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": _mounts(config, kind),
    }


def _environment(config: Config, kind: str, port: int) -> list[dict[str, Any]]:
    variables = _variables(config) | environment.folders(config, any_root=kind in _SCRATCH)
    variables |= {
        KEY_FILE_VARIABLE: f"{SECRETS}/api-key",
        "SYNCD_SERVER__LISTEN": f"0.0.0.0:{port}",
        _TOKEN_VARIABLE: f"{SECRETS}/token",
        "SYNCD_UPLOAD__DRAIN_SECONDS": str(max(DRAIN_SECONDS, int(config.upload.drain_seconds))),
    }
    if kind == "daemonset" and "on_new" not in config.state.model_fields_set:
        # Nodes may have equal files; each keeps its state as long as its folders.
        variables["SYNCD_STATE__ON_NEW"] = "new"
    variables |= {variable: f"{SECRETS}/{name}" for name, (variable, _) in _files(config).items()}
    named = [{"name": n, "value": value} for n, value in variables.items()]
    if kind != "sharded":
        return named
    index = "metadata.labels['apps.kubernetes.io/pod-index']"
    return [
        {"name": "POD_INDEX", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        {"name": "SYNCD_CONFIG", "value": "/etc/syncd/shard-$(POD_INDEX).toml"},
        *(v for v in named if v["name"] != "SYNCD_API__WORKSPACE_UUID"),
    ]


def _mounts(config: Config, kind: str) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "state", "mountPath": "/state"},
        {"name": "secrets", "mountPath": SECRETS, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
    ]
    for name, path, writes in drops(config):
        mount = {"name": name, "mountPath": str(path), "readOnly": not writes}
        if kind == "sharded":
            mount["subPathExpr"] = "shard-$(POD_INDEX)"
        if kind == "daemonset":
            mount["mountPropagation"] = "HostToContainer"
        mounts.append(mount)
    if kind == "sharded":
        mounts.append({"name": "shards", "mountPath": "/etc/syncd", "readOnly": True})
    return mounts


def _owner_of_state() -> dict[str, Any]:
    """Return the container that gives a directory of the host to the image's user."""
    return {
        "name": "state",
        "image": IMAGE,
        "command": _giving(USER, USER),
        "securityContext": {
            "runAsUser": 0,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "FOWNER"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
    }


def _variables(config: Config) -> dict[str, str]:
    """Return the variables that do not depend on where it runs."""
    said = environment.variables(config)
    return {name: value for name, value in said.items() if name not in _file_variables(config)}


def _file_variables(config: Config) -> set[str]:
    return {variable for variable, _ in _files(config).values()}


def _files(config: Config) -> dict[str, tuple[str, Path]]:
    """Return the files that settings name, each with its variable, by their names as secrets."""
    named = {
        "token": (_TOKEN_VARIABLE, config.server.token_file),
        "ca.pem": ("SYNCD_API__CA_FILE", config.api.ca_file),
        "client.pem": ("SYNCD_API__CLIENT_CERT", config.api.client_cert),
        "client.key": ("SYNCD_API__CLIENT_KEY", config.api.client_key),
    }
    return {name: (variable, path) for name, (variable, path) in named.items() if path}


def _places(config: Config) -> Iterator[tuple[Path, bool]]:
    """Yield each directory that syncd needs beside its state, and whether it writes there."""
    seen: dict[Path, bool] = {}
    for folder in config.folders:
        seen[folder.path] = folder.after_upload != "keep"
        seen |= {path: True for path in (folder.move_to, folder.receipts_to) if path}
    yield from seen.items()


def drops(config: Config) -> list[tuple[str, Path, bool]]:
    """Return the volumes of those directories: name, path, and whether syncd writes there."""
    return [
        (f"drop-{number}" if number > 1 else "drop", path, writes)
        for number, (path, writes) in enumerate(_places(config), 1)
    ]


def _claim(name: str, size: str, mode: str) -> dict[str, Any]:
    resources = {"requests": {"storage": size}}
    return {"metadata": {"name": name}, "spec": {"accessModes": [mode], "resources": resources}}


def _host(name: str, path: str, kind: str) -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": path, "type": kind}}


def _shard(number: int) -> str:
    return f'[api]\nworkspace_uuid = "WORKSPACE-OF-SHARD-{number}"\n'


def _without_interpolation(value: Any) -> Any:
    """Return a value in which Compose finds no variable to replace."""
    if isinstance(value, dict):
        return {key: _without_interpolation(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_interpolation(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
