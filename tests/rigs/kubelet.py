"""Runs pods under podman as a kubelet does, from the manifests that `syncd init` prints.

The program beside syncd is the rig itself: it writes into the volumes. `podman kube play` knows
neither sidecars, Jobs, StatefulSets and DaemonSets nor claims by template and subPathExpr.
"""

import copy
import http.client
import itertools
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from world import JsonObject, Service

#: The address of the node, on the network of its pods.
NODE = "10.91.0.1"
KEY, TOKEN = "a-key-of-the-rig", "a-token-of-the-rig-0123"
_numbers = itertools.count(2)
_ports = itertools.count(18100)


def run(*command: object) -> str:
    """Run a command; return what it printed, or raise RuntimeError with its complaint."""
    words = [*map(str, command)]
    done = subprocess.run(words, capture_output=True, check=False, text=True, timeout=180)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command[:3]))}: {done.stderr[-600:]}")
    return done.stdout.strip()


def make_network() -> None:
    """Make the node's end of the pods' network; this process has a network of its own."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "pods", "type", "bridge")
    run("ip", "addr", "add", f"{NODE}/16", "dev", "pods")
    run("ip", "link", "set", "pods", "up")


def digest(content: str) -> str:
    return sha256(content.encode()).hexdigest()


class Emulator(Service):
    """A Files API that pods reach."""

    def __init__(self, data: Path) -> None:
        self.key, self.port = KEY, next(_ports)
        super().__init__(data)

    def start(self) -> None:
        self._options = ("--listen", f"{NODE}:{self.port}", "--api-key", self.key)
        self.__enter__()

    def stop(self) -> None:
        self.__exit__()

    def _ask(self, request: urllib.request.Request | str) -> Any:
        if isinstance(request, str):
            request = urllib.request.Request(request)
        request.add_header("x-api-key", self.key)
        return super()._ask(request)

    def stored(self, *states: str) -> Counter[str]:
        """Return how many objects of each content there are, or ever were, in these states."""
        return Counter(o["sha256"] for o in self.objects() if o["state"] in states)


class Projected:
    """A secret or configuration map, which the kubelet replaces as a whole behind a link."""

    def __init__(self, place: Path, files: dict[str, str], mode: int, group: int) -> None:
        self.place, self._mode, self._group = place, mode, group
        self._versions = itertools.count()
        place.mkdir(parents=True)
        self.replace(files)
        for name in files:
            (place / name).symlink_to(f"..data/{name}")

    def replace(self, files: dict[str, str]) -> None:
        version = self.place / f"..{next(self._versions)}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
            os.chown(version / name, 0, self._group)
            (version / name).chmod(self._mode)
        (self.place / "..new").symlink_to(version.name)
        (self.place / "..new").replace(self.place / "..data")


class Cluster:
    """One piece of work, the volumes that outlive its pods, and its secret."""

    def __init__(
        self, place: Path, image: str, documents: list[JsonObject], index: int = 0
    ) -> None:
        """`index` is the pod's number, or its node's."""
        self.place, self.image, self.index = place, image, index
        *self.others, self.work = copy.deepcopy(documents)
        self.spec: JsonObject = self.work["spec"]["template"]["spec"]
        self.group: int = self.spec["securityContext"]["fsGroup"]
        self.secret = Projected(
            place / f"secret-{index}-{secrets.token_hex(3)}",
            {"api-key": KEY, "token": TOKEN},
            self._volume("secrets")["secret"]["defaultMode"],
            self.group,
        )
        self.node = place / f"node-{index}"
        self.pods = 0

    def _volume(self, name: str) -> JsonObject:
        return next(each for each in self.spec["volumes"] if each["name"] == name)

    def volumes(self, pod: Path) -> dict[str, Path]:
        """Return where each volume of a new pod is, and make those that are not there yet."""
        made: dict[str, Path] = {}
        for claim in self.work["spec"].get("volumeClaimTemplates", []):
            name = claim["metadata"]["name"]
            made[name] = self._shared(self.place / "claims" / f"{name}-{self.index}")
        for volume in self.spec["volumes"]:
            name = volume["name"]
            if "secret" in volume:
                made[name] = self.secret.place
            elif "emptyDir" in volume:
                made[name] = self._shared(pod / name)
            elif "persistentVolumeClaim" in volume:
                made[name] = self._shared(
                    self.place / "claims" / volume["persistentVolumeClaim"]["claimName"]
                )
            elif "configMap" in volume:
                data = next(o["data"] for o in self.others if o["kind"] == "ConfigMap")
                made[name] = Projected(pod / name, data, 0o644, 0).place
            elif "hostPath" in volume:
                made[name] = self.node / volume["hostPath"]["path"].lstrip("/")
                # The kubelet makes DirectoryOrCreate; the administrator has made the other.
                made[name].mkdir(parents=True, exist_ok=True)
        return made

    def _shared(self, path: Path) -> Path:
        """Make a volume that fsGroup gives to the pod's group."""
        if not path.exists():
            path.mkdir(parents=True)
            os.chown(path, 0, self.group)
            path.chmod(0o2775)
        return path


class Pod:
    """A pod from its start to its deletion; it notes whenever syncd says that it is not well."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.problems = cluster, list[str]()
        #: How long it may be unwell before that counts.
        self.bearable_seconds = 0.0
        number = next(_numbers)
        self.name = f"pod-{number}"
        self.address = f"10.91.{number // 250}.{number % 250 + 2}"
        self.place = cluster.place / self.name
        self.volumes = cluster.volumes(self.place)
        self._namespace()
        self._containers = itertools.count()
        spec = cluster.spec
        for container in spec.get("initContainers", []):
            if container["name"] != "syncd":
                run(*self._command(container, f"{self.name}-{container['name']}", "--rm"))
        self.syncd: JsonObject = next(
            each
            for each in [*spec.get("initContainers", []), *spec["containers"]]
            if each["name"] == "syncd"
        )
        self.start()

    def _namespace(self) -> None:
        run("ip", "netns", "add", self.name)
        link = f"v{self.name.removeprefix('pod-')}"
        run("ip", "link", "add", link, "type", "veth", "peer", "eth0", "netns", self.name)
        run("ip", "link", "set", link, "master", "pods", "up")
        run("ip", "-n", self.name, "addr", "add", f"{self.address}/16", "dev", "eth0")
        run("ip", "-n", self.name, "link", "set", "eth0", "up")
        run("ip", "-n", self.name, "link", "set", "lo", "up")

    def _environment(self, container: JsonObject) -> dict[str, str]:
        labels = {"metadata.labels['apps.kubernetes.io/pod-index']": str(self.cluster.index)}
        given: dict[str, str] = {}
        for each in container.get("env", []):
            value = each.get("value")
            if value is None:
                value = labels[each["valueFrom"]["fieldRef"]["fieldPath"]]
            given[each["name"]] = self._expanded(value, given)
        return given

    @staticmethod
    def _expanded(text: str, given: dict[str, str]) -> str:
        return re.sub(r"\$\((\w+)\)", lambda found: given.get(found[1], found[0]), text)

    def _command(self, container: JsonObject, name: str, *options: str) -> list[object]:
        allowed = container["securityContext"]
        given = self._environment(container)
        command: list[object] = ["podman", "run", *options, "--name", name]
        command += ["--network", f"ns:/run/netns/{self.name}", "--hostname", self.name]
        command += ["--user", allowed["runAsUser"], "--group-add", self.cluster.group]
        # The kubelet gives what the manifest mounts, and no volume of the image.
        command += ["--image-volume", "ignore"]
        command += ["--read-only", "--read-only-tmpfs=false"] * allowed["readOnlyRootFilesystem"]
        command += [f"--cap-drop={one}" for one in allowed["capabilities"]["drop"]]
        command += [f"--cap-add={one}" for one in allowed["capabilities"].get("add", [])]
        if not allowed["allowPrivilegeEscalation"]:
            command += ["--security-opt", "no-new-privileges"]
        command += [f"--env={key}={value}" for key, value in given.items()]
        for mount in container["volumeMounts"]:
            source = self.volumes[mount["name"]] / self._expanded(
                mount.get("subPathExpr", ""), given
            )
            source.mkdir(exist_ok=True)
            mode = "ro" if mount.get("readOnly") else "rw"
            if mount.get("mountPropagation") == "HostToContainer":
                mode += ",rslave"
            command.append(f"--volume={source}:{mount['mountPath']}:{mode}")
        if "command" in container:
            command += ["--entrypoint", json.dumps(container["command"])]
        return [*command, self.cluster.image]

    def start(self) -> None:
        """Start syncd's container, as after each of its ends."""
        self.container = f"{self.name}-syncd-{next(self._containers)}"
        run(*self._command(self.syncd, self.container, "--detach"))
        probe = self.syncd["startupProbe"]
        deadline = time.monotonic() + probe["periodSeconds"] * probe["failureThreshold"]
        while self._get(probe["httpGet"]["path"])[0] != 200:
            state = run("podman", "inspect", "-f", "{{.State.Status}}", self.container)
            if state == "exited" or time.monotonic() > deadline:
                raise RuntimeError(f"syncd does not start: {self.log()[-1500:]}")
            time.sleep(0.2)
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _get(self, path: str) -> tuple[int, bytes]:
        """Ask the container's port as kubelet and Prometheus do, by the pod's address."""
        port = self.syncd["ports"][0]["containerPort"]
        connection = http.client.HTTPConnection(self.address, port, timeout=5)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def _watch(self) -> None:
        """Note what would page somebody: not well for too long, or a liveness probe that fails."""
        path = self.syncd["livenessProbe"]["httpGet"]["path"]
        unwell_since: float | None = None
        while not self._over.wait(0.5):
            code, _ = self._get(path)
            told, body = self._get("/status.json")
            if self._over.is_set():
                return
            document = json.loads(body) if told == 200 else {"well": False, "reasons": [told]}
            if code != 200:
                self._note(f"{path} answers {code}")
            if document["well"]:
                unwell_since = None
                continue
            unwell_since = unwell_since or time.monotonic()
            if time.monotonic() - unwell_since >= self.bearable_seconds:
                self._note(f"not well: {document['reasons'][0]}")

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def drop(self, files: dict[str, str], volume: str = "drop") -> None:
        """Write files as the program beside it does."""
        for name, content in files.items():
            (self.volumes[volume] / name).write_text(content)

    def kill(self) -> None:
        """End syncd's container, as a lack of memory does."""
        self._unwatch()
        run("podman", "kill", self.container)
        run("podman", "wait", self.container)

    def _unwatch(self) -> None:
        self._over.set()
        self._watcher.join(15)

    def delete(self) -> float:
        """End the pod as its deletion does; return the seconds that it took."""
        self._unwatch()
        began = time.monotonic()
        grace = self.cluster.spec["terminationGracePeriodSeconds"]
        run("podman", "stop", "--time", grace, self.container)
        code = run("podman", "inspect", "-f", "{{.State.ExitCode}}", self.container)
        if code != "0":
            self._note(f"exit code {code} at the end")
        took = time.monotonic() - began
        self._remove()
        return took

    def log(self) -> str:
        command = ["podman", "logs", self.container]
        return subprocess.run(command, capture_output=True, check=False, text=True).stderr

    def _remove(self) -> None:
        (self.cluster.place / f"{self.name}.log").write_text(self.log())
        names = run(
            "podman", "ps", "--all", "--format", "{{.Names}}", "--filter", f"name={self.name}-"
        )
        run("podman", "rm", "--force", "--time", "0", *names.split())
        run("ip", "netns", "del", self.name)
        run("rm", "-rf", self.place)

    def discard(self) -> None:
        """Remove what is left of it."""
        self._over.set()
        with suppress(RuntimeError, OSError):
            self._remove()


def manifest(place: Path, toml: str, *words: str) -> list[JsonObject]:
    """Return what `syncd init` prints for a configuration."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "syncd.toml").write_text(toml)
    command = [sys.executable, "-m", "syncd", "-c", place / "syncd.toml", "init", *words]
    return [*yaml.safe_load_all(run(*command))]
