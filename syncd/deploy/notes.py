"""The comments of a printed manifest: what to replace in it, and what must be there first."""

import re
from collections.abc import Iterator
from typing import Any

from syncd import __version__
from syncd.config.settings import Config
from syncd.deploy import containers, environment

_BESIDE = {
    containers.IMAGE: (
        "for other machines, tag and push it to your registry, and put that name here: "
        f"HOST/syncd:{__version__}"
    ),
    containers.PROGRAM: "the image of your program",
}


def compose(config: Config, key_file: str, project: dict[str, Any]) -> Iterator[str]:
    """Yield the lines above a project of Compose."""
    user = project["services"]["syncd"].get("user", str(containers.USER)).partition(":")[0]
    yield f"User {user} must be allowed to read the folders and {key_file}."
    if user != str(containers.USER):
        image = containers.USER
        yield "Rootless podman: leave out `user`, `depends_on` and the service `state`, and add"
        yield f'userns_mode: "keep-id:uid={image},gid={image}"'
    if config.server.listen and config.server.token_file is None:
        token = containers.COMPOSE_TOKEN
        yield f"openssl rand -hex 16 > {token}   # {user} must be allowed to read it, too"
    yield from _left_out(config)


def kubernetes(config: Config, kind: str) -> Iterator[str]:
    """Yield the lines above the objects of Kubernetes of one kind."""
    drops = [(name, str(path)) for name, path, _ in containers.drops(config)]
    paths = ", ".join(path for _, path in drops)
    yield "Before `kubectl apply`:"
    yield f"- image: {containers.IMAGE} is what the nodes pull; name the one in your registry."
    if kind not in ("daemonset", "sharded"):
        yield f"- image: {containers.PROGRAM} stands for your program, which writes to {paths}."
    if kind == "statefulset":
        yield (
            f"- Sizes: {containers.STATE_SIZE} of state serves 300,000 files; "
            f"{containers.FOLDER_SIZE} for each folder is a guess."
        )
    elif kind == "sharded":
        yield from _sharded([name for name, _ in drops])
    elif kind == "daemonset":
        yield f"- {paths}: must be on each node, for user {containers.USER} to use."
        yield f"- {containers.NODE_STATE} of each node holds its state, and is made there."
    for line in _left_out(config):
        yield f"- {line}"


def _sharded(claims: list[str]) -> Iterator[str]:
    last = containers.SHARDS - 1
    yield (
        f"- Claims that must exist: {', '.join(claims)} (ReadWriteMany, if the pods run on several "
        "nodes)."
    )
    yield f"- In each claim, a directory for each pod: shard-0 to shard-{last}."
    yield "- WORKSPACE-OF-SHARD-N: the uuid of a workspace for each shard."
    yield "- For more shards, raise `replicas` and add their files to the ConfigMap."
    yield f"- Size: {containers.LARGE_STATE_SIZE} of state serves a million files in each shard."


def _left_out(config: Config) -> Iterator[str]:
    for variable in environment.withheld(config):
        name = environment.setting(variable)
        yield f"{name} is left out, since it may hold a secret: set {variable}."


def with_images(text: str) -> str:
    """Return a manifest with a comment beside each image that is to be replaced."""
    for image, comment in _BESIDE.items():
        text = re.sub(rf"^[ -]*image: {image}$", rf"\g<0>  # {comment}", text, flags=re.MULTILINE)
    return text
