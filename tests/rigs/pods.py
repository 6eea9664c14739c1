"""Plays pods' lives with the manifests that `syncd init` prints: `pods.py SCRATCH IMAGE`.

After each life the service holds what the programs wrote, each content as often as it had to be
sent, and nothing of it was deleted; and syncd was well at each look. Then bugs are planted in the
manifests, and each has to be noticed.
"""

# row: 93

import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from kubelet import NODE, Cluster, Emulator, Pod, digest, make_network, manifest
from world import JsonObject, Report

SCRATCH, IMAGE = Path(sys.argv[1]), sys.argv[2]
AT_ONCE = 9
#: Seconds within which a file arrives on a busy machine; where a bug is planted, none may.
PATIENCE, PLANTED_PATIENCE = 45.0, 15.0
#: A refused key's file is looked at every ten seconds, and alerts wait for a minute.
REREAD_SECONDS = 20.0
#: As many equal files of two pods make syncd ask whether one continues the other.
MANY = 25
CONFIG = """\
[api]
base_url = "{url}"
allow_cleartext = true
[upload]
drain_seconds = 20
[deletions]
grace_seconds = 1
[[folders]]
path = "/data/drop"
settle_seconds = 1
rescan_seconds = 2
"""

Edit = Callable[[list[JsonObject]], None]


class Life:
    """A service of its own, the pods that use it, and what it should hold in the end."""

    def __init__(self, name: str, edit: Edit | None = None) -> None:
        self.place = SCRATCH / name.replace(" ", "-")
        self.place.mkdir()
        self._edit = edit
        self.emulator = Emulator(self.place / "service")
        self.pods = list[Pod]()
        self.problems = list[str]()
        #: How many objects of each content there should be, and of those, how many deleted.
        self.sent, self.deleted = Counter[str](), Counter[str]()

    def clusters(self, *words: str, count: int = 1, edit: Edit | None = None) -> list[Cluster]:
        """Return `count` pods' worth of work, by what `init` prints for these words."""
        url = f"http://{NODE}:{self.emulator.port}"
        documents = manifest(self.place, CONFIG.format(url=url), *words)
        for change in filter(None, (edit, self._edit)):
            change(documents)
        return [Cluster(self.place, IMAGE, documents, index) for index in range(count)]

    def pod(self, cluster: Cluster) -> Pod:
        pod = Pod(cluster)
        self.pods.append(pod)
        return pod

    def expect(self, files: dict[str, str], times: int = 1) -> None:
        """Expect these contents to have been sent so many times more."""
        for content in files.values():
            self.sent[digest(content)] += times

    def arrives(self) -> None:
        """Wait until all that is expected is there, and the rest gone."""
        seconds = PLANTED_PATIENCE if self._edit else PATIENCE
        deadline = time.monotonic() + seconds
        while self._missing():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {self._missing()}")
            time.sleep(0.3)

    def _missing(self) -> str:
        live, gone = self.emulator.stored("live"), self.emulator.stored("deleted")
        absent = (self.sent - self.deleted) - live
        left = self.deleted - gone
        return f"{absent.total()} do not arrive, {left.total()} do not go" if absent or left else ""

    def audit(self) -> None:
        """Wait for what syncd may still do wrongly, and compare what it did."""
        time.sleep(5)
        live, gone = self.emulator.stored("live"), self.emulator.stored("deleted")
        for what, count in (
            ("lost", (self.sent - self.deleted) - live),
            ("deleted wrongly", gone - self.deleted),
            ("sent without need", (live + gone) - self.sent),
        ):
            if count:
                self.problems.append(f"{count.total()} {what}")


@contextmanager
def living(name: str, edit: Edit | None = None) -> Iterator[Life]:
    """Run a life's service; audit it in the end, and gather what its pods complained of."""
    life = Life(name, edit)
    life.emulator.start()
    try:
        yield life
    except AssertionError as error:
        life.problems.append(str(error))
    except Exception as error:
        life.problems.append("".join(traceback.format_exception_only(error)).strip())
    life.audit()
    for pod in life.pods:
        pod.discard()
        life.problems += pod.problems
    life.emulator.stop()


def files(word: str, count: int = 3) -> dict[str, str]:
    return {f"{word}-{number}.txt": f"{word} {number}" for number in range(count)}


### Lives


def restarted(life: Life) -> None:
    """A container that is killed goes on where it was."""
    (cluster,) = life.clusters("--kubernetes")
    pod = life.pod(cluster)
    for word in ("before", "while"):
        pod.drop(files(word, MANY))
        life.expect(files(word, MANY))
        if word == "before":
            life.arrives()
            pod.kill()
        else:
            pod.start()
    life.arrives()


def both_kept(life: Life) -> None:
    """A pod that is replaced goes on where the last one was; a deletion meanwhile is mirrored."""
    (cluster,) = life.clusters("--kubernetes")
    pod = life.pod(cluster)
    pod.drop(files("a", MANY))
    life.expect(files("a", MANY))
    life.arrives()
    pod.delete()
    pod.drop(files("b"))
    life.expect(files("b"))
    (pod.volumes["drop"] / "a-0.txt").unlink()
    life.deleted[digest("a 0")] += 1
    life.pod(cluster)
    life.arrives()


def both_fresh(life: Life) -> None:
    """A pod in a new place sends what is there; the copies of the last one stay."""
    (cluster,) = life.clusters("--kubernetes", "deployment")
    for word in ("a", "b"):
        pod = life.pod(cluster)
        pod.drop(files("same", MANY) | files(word))
        life.expect(files("same", MANY) | files(word))
        life.arrives()
        if word == "a":
            pod.delete()


def with_kept_state(documents: list[JsonObject]) -> None:
    """Let the state outlive the pod, and the folder not."""
    volume(documents, "state").pop("emptyDir")
    volume(documents, "state")["persistentVolumeClaim"] = {"claimName": "state"}


def drop_fresh(life: Life) -> None:
    """With its state kept and a new folder, nothing is deleted, and nothing sent again."""
    (cluster,) = life.clusters("--kubernetes", "deployment", edit=with_kept_state)
    pod = life.pod(cluster)
    pod.drop(files("a", MANY))
    life.expect(files("a", MANY))
    life.arrives()
    pod.delete()
    pod = life.pod(cluster)
    pod.drop(files("b") | files("a"))
    life.expect(files("b"))
    life.arrives()


def retried(life: Life) -> None:
    """A Job's first try fails; what it had written arrives all the same, and then the second's."""
    (cluster,) = life.clusters("--kubernetes", "job")
    pod = life.pod(cluster)
    pod.drop(files("part"))
    life.expect(files("part"))
    time.sleep(0.5)
    pod.delete()
    pod = life.pod(cluster)
    pod.drop(files("part") | files("whole"))
    life.expect(files("part") | files("whole"))
    time.sleep(0.5)
    pod.delete()
    life.arrives()


def of_a_deployment(life: Life) -> None:
    replicas(life, "deployment")


def of_a_statefulset(life: Life) -> None:
    replicas(life, "statefulset")


def replicas(life: Life, kind: str) -> None:
    """Three pods with equal files each send their own, and none waits for a person."""
    clusters = life.clusters("--kubernetes", kind, count=3)
    for count, cluster in enumerate(clusters):
        life.pod(cluster).drop(files("equal", MANY) | files(f"own-{count}"))
        life.expect(files("equal", MANY) | files(f"own-{count}"))
        # A later one has an earlier one's objects to find.
        life.arrives()
    # One of them goes, as a smaller number of replicas has it.
    life.pods[-1].delete()


def ended(life: Life) -> None:
    """What is on its way, or written just before the end, arrives within the grace period."""
    (cluster,) = life.clusters("--kubernetes", "deployment")
    pod = life.pod(cluster)
    pod.drop(files("first"))
    life.expect(files("first"))
    life.arrives()
    life.emulator.faults({"match": "POST /v2/files/-/uploads", "action": {"delay": 3}})
    pod.drop(files("flying"))
    time.sleep(1.5)
    pod.drop(files("last"))
    time.sleep(0.3)
    life.expect(files("flying") | files("last"))
    took = pod.delete()
    if took > cluster.spec["terminationGracePeriodSeconds"] / 2:
        life.problems.append(f"the end took {took:.0f} s")
    life.arrives()


def rotated(life: Life) -> None:
    """A key is replaced in its secret, and the old one revoked: no restart, nothing sent twice."""
    (cluster,) = life.clusters("--kubernetes")
    pod = life.pod(cluster)
    pod.bearable_seconds = REREAD_SECONDS
    pod.drop(files("old", MANY))
    life.expect(files("old", MANY))
    life.arrives()
    life.emulator.stop()
    life.emulator.key = "another-key-of-the-rig"
    cluster.secret.replace({"api-key": life.emulator.key, "token": "a-token-of-the-rig-0123"})
    life.emulator.start()
    pod.drop(files("new"))
    life.expect(files("new"))
    life.arrives()


def on_nodes(life: Life) -> None:
    """Two nodes with equal files each send their own; a new pod on a node goes on."""
    clusters = life.clusters("--daemonset", count=2)
    for cluster in clusters:
        place = cluster.node / "data/drop"
        place.mkdir(parents=True)
        for name, content in files("equal", MANY).items():
            (place / name).write_text(content)
        pod = life.pod(cluster)
        life.expect(files("equal", MANY))
        life.arrives()
    pod.delete()
    pod = life.pod(clusters[-1])
    pod.drop(files("more"))
    life.expect(files("more"))
    life.arrives()


def sharded(life: Life) -> None:
    """Each shard has a directory of one volume, a state, and a workspace."""
    spaces = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(2)]

    def with_workspaces(documents: list[JsonObject]) -> None:
        texts = documents[0]["data"]
        for name, text in texts.items():
            number = int(name.split("-")[1].removesuffix(".toml"))
            texts[name] = text.replace(f"WORKSPACE-OF-SHARD-{number}", spaces[number])

    clusters = life.clusters("--kubernetes", "sharded", count=2, edit=with_workspaces)
    for index, cluster in enumerate(clusters):
        pod = life.pod(cluster)
        place = pod.volumes["drop"] / f"shard-{index}"
        place.mkdir(exist_ok=True)
        for name, content in files(f"shard-{index}", MANY).items():
            (place / name).write_text(content)
        life.expect(files(f"shard-{index}", MANY))
        life.arrives()
    for each in life.emulator.objects():
        number = int(each["local_file_path"].rpartition("/")[2].split("-")[1])
        if each["workspace_uuid"] != spaces[number]:
            life.problems.append(f"{each['local_file_path']} is in another shard's workspace")
    pod.delete()
    life.pod(clusters[-1])


def meddled_with(life: Life) -> None:
    """A file that should have stayed is removed."""
    both_kept(life)
    (life.pods[-1].volumes["drop"] / "a-1.txt").unlink()


LIVES: list[tuple[str, Callable[[Life], None]]] = [
    ("a container is killed and restarted", restarted),
    ("a pod is replaced, folder and state kept", both_kept),
    ("a pod is replaced, folder and state new", both_fresh),
    ("a pod is replaced, the folder new and the state kept", drop_fresh),
    ("a Job is tried again", retried),
    ("three replicas of a Deployment have equal files", of_a_deployment),
    ("three replicas of a StatefulSet have equal files", of_a_statefulset),
    ("SIGTERM within the grace period", ended),
    ("a key is rotated", rotated),
    ("a DaemonSet on two nodes with equal files", on_nodes),
    ("two shards of one volume", sharded),
]

### Planted bugs


def pod_of(documents: list[JsonObject]) -> JsonObject:
    return documents[-1]["spec"]["template"]["spec"]


def volume(documents: list[JsonObject], name: str) -> JsonObject:
    return next(each for each in pod_of(documents)["volumes"] if each["name"] == name)


def syncd(documents: list[JsonObject]) -> JsonObject:
    pod = pod_of(documents)
    both = [*pod.get("initContainers", []), *pod["containers"]]
    return next(each for each in both if each["name"] == "syncd")


def variable(documents: list[JsonObject], name: str, value: str) -> None:
    """Replace a variable, and fail where the manifest has none of that name."""
    next(each for each in syncd(documents)["env"] if each["name"] == name)["value"] = value


def known_root(documents: list[JsonObject]) -> None:
    listed = next(e for e in syncd(documents)["env"] if e["name"] == "SYNCD_FOLDERS")
    assert '"root": "any"' in listed["value"]
    listed["value"] = listed["value"].replace('"root": "any"', '"root": "known"')


def state_of_the_pod(documents: list[JsonObject]) -> None:
    claims = documents[-1]["spec"]["volumeClaimTemplates"]
    documents[-1]["spec"]["volumeClaimTemplates"] = [
        each for each in claims if each["metadata"]["name"] != "state"
    ]
    pod_of(documents)["volumes"].append({"name": "state", "emptyDir": {}})


def state_that_asks_nobody(documents: list[JsonObject]) -> None:
    state_of_the_pod(documents)
    syncd(documents)["env"].append({"name": "SYNCD_STATE__ON_NEW", "value": "new"})


def nothing(documents: list[JsonObject]) -> None:
    """Leave the manifest as it is: the life itself is wrong."""


def no_grace(documents: list[JsonObject]) -> None:
    pod_of(documents)["terminationGracePeriodSeconds"] = 1


def no_drain(documents: list[JsonObject]) -> None:
    variable(documents, "SYNCD_UPLOAD__DRAIN_SECONDS", "0")


def asking(documents: list[JsonObject]) -> None:
    variable(documents, "SYNCD_STATE__ON_NEW", "hold")


def key_in_a_variable(documents: list[JsonObject]) -> None:
    variable(documents, "AYMARA_AI_API_KEY_FILE", "")
    syncd(documents)["env"].append({"name": "AYMARA_AI_API_KEY", "value": "a-key-of-the-rig"})


def whole_volume(documents: list[JsonObject]) -> None:
    for mount in syncd(documents)["volumeMounts"]:
        mount.pop("subPathExpr", None)


#: Each with the life that it spoils, and what has to be said of it.
PLANTS: list[tuple[str, Callable[[Life], None], Edit, str]] = [
    ("a state that outlives a folder with a known root", drop_fresh, known_root, "root_replaced"),
    ("a folder that outlives its state", both_kept, state_of_the_pod, "other_instance"),
    (
        "a folder that outlives its state, and nobody asked",
        both_kept,
        state_that_asks_nobody,
        "sent without need",
    ),
    ("a file that is removed", meddled_with, nothing, "1 deleted wrongly"),
    ("a grace period of a second", ended, no_grace, "exit code 137"),
    ("an end without a drain", ended, no_drain, "do not arrive"),
    ("nodes that ask whose files they are", on_nodes, asking, "other_instance"),
    ("a key in a variable", rotated, key_in_a_variable, "do not arrive"),
    ("shards that see the whole volume", sharded, whole_volume, "another shard's workspace"),
]


def played(name: str, play: Callable[[Life], None], edit: Edit | None = None) -> list[str]:
    """Return what went wrong in a life."""
    with living(name, edit) as life:
        play(life)
    return life.problems


def main() -> int:
    make_network()
    report = Report()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        lives = [(name, pool.submit(played, name, play)) for name, play in LIVES]
        plants = [
            (name, said, pool.submit(played, f"planted {name}", play, edit))
            for name, play, edit, said in PLANTS
        ]
        for name, future in lives:
            report.check(name, future.result())
        for name, said, future in plants:
            noticed = future.result()
            is_told = any(said in each for each in noticed)
            report.check(f"planted: {name}", [] if is_told else [f"not said: {said}", *noticed])
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
