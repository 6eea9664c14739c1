"""The composition root: builds every part over an open state directory, and starts nothing.

`Config` ends here: each part is given what it needs, and no more.
"""

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from syncd import sd_notify
from syncd.config import Config, Folder
from syncd.exceptions import ConfigError
from syncd.files_api import FilesClient, StopFlag
from syncd.metrics import REQUEST_SECONDS, REQUESTS
from syncd.state import reconfiguration
from syncd.state.deletions import Deletions
from syncd.state.ledger import Ledger, abandon_all
from syncd.state.planner import Limits, Policy
from syncd.state.retrying import Retrying
from syncd.state.store import BASE_URL, Store
from syncd.watch.folder import WatchFolder
from syncd.watch.stage import Watch
from syncd.workers.adopter import Adopter
from syncd.workers.confirmer import Confirmer, ConfirmOptions
from syncd.workers.consumer import ConsumedFolder, Consumer
from syncd.workers.deleter import Deleter, MirroredFolder
from syncd.workers.gate import Gate
from syncd.workers.introduction import Introduction, key_mark
from syncd.workers.poller import Poller, PollOptions
from syncd.workers.preparation import Root, UploadOptions
from syncd.workers.reconciler import ReconcileOptions, Reconciler
from syncd.workers.uploader import Uploader
from syncd.workers.verifier import Verifier

log = logging.getLogger(__name__)


def boottime() -> float:
    """Return seconds that go on while the machine is suspended, and that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return what tells this start of the machine from any other; random where nothing does."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return secrets.token_hex(16)


@dataclass(slots=True)
class Parts:
    """Everything that runs, built and not started."""

    store: Store
    policies: Mapping[str, Policy]
    watch: Watch
    uploader: Uploader
    poller: Poller
    deleter: Deleter
    confirmer: Confirmer
    consumer: Consumer
    reconciler: Reconciler
    gate: Gate
    introduction: Introduction
    retrying: Retrying
    adopter: Adopter
    verifier: Verifier
    clients: list[FilesClient]
    #: ends whatever asks the service, but for uploads
    stop: StopFlag
    #: ends looks and scans
    stop_looking: StopFlag


def build(config: Config, store: Store, *, clock: Callable[[], float] = time.time) -> Parts:
    """Build every part over an open store; starts nothing."""
    credentials = config.credentials
    if credentials.api_key is None and credentials.bearer_token is None:
        raise ConfigError(
            "there is no API key: set AYMARA_AI_API_KEY, or AYMARA_AI_API_KEY_FILE to a file that "
            "holds it, or give the systemd credential aymara-api-key"
        )
    policies = {
        folder.name: Policy(
            workspace_uuid=folder.workspace_uuid,
            mirror_deletions=folder.mirrors_deletions,
            after_upload=folder.after_upload,
            remote_gone=config.deletions.remote_gone,
            limits=Limits(folder.hold_files, folder.hold_percent, folder.hold_max),
            superseded_grace=folder.superseded_grace,
            hold_changes=folder.hold_changes,
            any_root=folder.root == "any",
        )
        for folder in config.folders
    }
    folders = [_watch_folder(folder) for folder in config.folders]
    stop, stop_looking = StopFlag(), StopFlag()
    gate = Gate(store=store, clock=clock, monotonic=time.monotonic, key_remedy=credentials.remedy)
    ledger = Ledger(policies=policies, instance=store.instance)
    clients = [make_client(config, stop) for _ in range(5)]
    uploader = Uploader(
        store=store,
        ledger=ledger,
        roots={
            folder.name: Root(
                folder.path,
                folder.settle_seconds,
                policies[folder.name].workspace_uuid,
                marker=folder.marker,
            )
            for folder in folders
        },
        make_client=lambda flag: make_client(config, flag),
        gate=gate,
        options=UploadOptions(
            workers=config.upload.workers,
            method=config.upload.method,
            direct_max=config.upload.direct_max,
            token=config.upload.token,
            first_poll_seconds=config.processing.first_poll_seconds,
        ),
        clock=clock,
        monotonic=time.monotonic,
    )
    poller = Poller(
        store=store,
        ledger=ledger,
        client=clients[0],
        gate=gate,
        options=PollOptions(
            first_poll_seconds=config.processing.first_poll_seconds,
            max_poll_seconds=config.processing.max_poll_seconds,
            polls_per_second=config.processing.polls_per_second,
            stalled_after_seconds=config.processing.stalled_after,
        ),
        clock=clock,
        pause=stop.wait,
    )
    deleter = Deleter(
        store=store,
        ledger=ledger,
        deletions=Deletions(policies=policies),
        mirrored={
            folder.name: MirroredFolder(
                folder.path,
                folder.grace_seconds,
                marker=folder.marker,
            )
            for folder in folders
        },
        policies=policies,
        client=clients[1],
        gate=gate,
        clock=clock,
        steady=boottime,
        boot=boot_id(),
        pause=stop.wait,
        stopped=stop.is_set,
    )
    confirmer = Confirmer(
        store=store,
        ledger=ledger,
        client=clients[4],
        gate=gate,
        options=ConfirmOptions(
            resend_after_seconds=config.upload.resend_after_seconds,
            first_poll_seconds=config.processing.first_poll_seconds,
        ),
        clock=clock,
        pause=stop.wait,
    )
    introduction = Introduction(
        store=store,
        client=clients[2],
        gate=gate,
        mark=key_mark(store.instance, "\n".join(credentials.secrets())),
        clock=clock,
    )
    consumer = Consumer(
        store=store,
        ledger=ledger,
        client=clients[3],
        gate=gate,
        consumed={
            folder.name: ConsumedFolder(
                watched.path,
                os.fsencode(folder.move_to)
                if folder.move_to and folder.after_upload == "move"
                else None,
                takes=folder.after_upload != "keep",
                marker=watched.marker,
            )
            for folder, watched in zip(config.folders, folders, strict=True)
        },
        policies=policies,
        clock=clock,
        stopped=stop.is_set,
    )
    adopter = Adopter(
        store=store,
        ledger=ledger,
        client=clients[2],
        introduction=introduction,
        policies=policies,
        roots={folder.name: folder.path for folder in folders},
        clock=clock,
    )

    def adopt(instance: str) -> None:
        for _ in adopter.adopt(instance=instance):
            pass

    reconciler = Reconciler(
        store=store,
        ledger=ledger,
        client=clients[2],
        gate=gate,
        introduction=introduction,
        options=ReconcileOptions(
            resend_after_seconds=config.upload.resend_after_seconds,
            first_poll_seconds=config.processing.first_poll_seconds,
        ),
        clock=clock,
        policies=policies,
        on_new=config.state.on_new,
        adopt=adopt,
        hashed=adopter.hashed,
    )
    watch = Watch(
        store=store,
        folders=folders,
        policies=policies,
        wake=store.changed.set,
        clock=clock,
        stopped=stop_looking.is_set,
    )
    return Parts(
        store=store,
        policies=policies,
        watch=watch,
        uploader=uploader,
        poller=poller,
        deleter=deleter,
        confirmer=confirmer,
        consumer=consumer,
        reconciler=reconciler,
        gate=gate,
        introduction=introduction,
        retrying=Retrying(policies=policies),
        adopter=adopter,
        verifier=Verifier(
            store=store, ledger=ledger, client=clients[2], policies=policies, clock=clock
        ),
        clients=clients,
        stop=stop,
        stop_looking=stop_looking,
    )


def _watch_folder(folder: Folder) -> WatchFolder:
    return WatchFolder(
        name=folder.name,
        path=folder.place,
        include=folder.include,
        exclude=folder.exclude,
        hidden=folder.hidden,
        max_size=folder.max_size,
        syncdignore=folder.syncdignore,
        skip_existing=folder.existing == "skip",
        settle_seconds=folder.settle_seconds,
        grace_seconds=folder.grace_seconds,
        rescan_seconds=folder.rescan_seconds,
        watch=folder.watch,
        mirror_deletions=folder.mirrors_deletions,
        marker=os.fsencode(folder.marker),
        any_root=folder.root == "any",
    )


def make_client(config: Config, stop: StopFlag) -> FilesClient:
    """Return a client of the configured service, with the configured key."""
    secrets = config.credentials
    return FilesClient(
        base_url=config.api.base_url,
        api_key=secrets.api_key.get_secret_value() if secrets.api_key else None,
        bearer_token=secrets.bearer_token.get_secret_value() if secrets.bearer_token else None,
        sandbox=config.api.sandbox,
        timeout_seconds=config.api.timeout_seconds,
        connect_seconds=config.api.connect_seconds,
        proxy=config.api.proxy,
        **config.api.tls_files._asdict(),
        storage_hosts=config.api.storage_hosts,
        allow_cleartext=config.api.allow_cleartext,
        stop=stop,
        observer=_count_request,
    )


def _count_request(operation: str, status: int | None, seconds: float) -> None:
    REQUESTS.add(operation, "none" if status is None else str(status))
    REQUEST_SECONDS.add(operation, by=seconds)


def settle_changes(parts: Parts, *, removed_too: bool) -> None:
    """Release the copies of folders that are configured no more, or for another workspace.

    Before anything is at work: what the parts of before could not record is in doubt.
    """
    store, policies = parts.store, parts.policies
    store.write(lambda db: abandon_all(db, time.time()))
    for name in store.read(lambda db: reconfiguration.removed(db, policies)) if removed_too else ():
        log.warning("%s is not configured any more; its remote files are kept", name)
        release = partial(reconfiguration.release_removed, folder=name, policies=policies)
        while store.write(partial(release, now=time.time())):
            pass
    if removed_too:
        # A workspace that no folder uses any more holds nothing up.
        for workspace in parts.gate.closed - {p.workspace_uuid for p in policies.values()}:
            parts.gate.judge(workspace, refusal=None)
    for name in store.read(lambda db: reconfiguration.moved(db, policies)):
        move = partial(reconfiguration.release_moved, folder=name, policies=policies)
        after: int | None = 0
        while after is not None:
            after = store.write(partial(move, now=time.time(), after=after))


@contextmanager
def opened(config: Config) -> Iterator[Parts]:
    """Open the state directory, see that it is this service's, and build every part."""
    store = Store(config.state.directory)
    with sd_notify.starting():
        store.open(time.time())
    try:
        store.bind(
            BASE_URL,
            config.api.base_url,
            advice="set the base URL back, or give the other service its own [state] directory",
        )
        parts = build(config, store)
        settle_changes(parts, removed_too=not config.folders_are_chosen)
        try:
            yield parts
        finally:
            for client in parts.clients:
                client.close()
    finally:
        store.close()
