"""The composition root: builds every part over an open state directory, and starts nothing.

`Config` ends here: each part is given what it needs, and no more.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from syncd import sd_notify
from syncd.clients import make_call, make_client
from syncd.config.loading import Config, FolderSettings
from syncd.exceptions import ConfigError
from syncd.files_api import Bandwidth, FilesClient, StopFlag
from syncd.outbound import Command
from syncd.repair.adopt import Adopter
from syncd.repair.verify import Verifier
from syncd.state import hooks, reconfiguration
from syncd.state.database.store import Store
from syncd.state.deletions import Deletions
from syncd.state.holds import pauses
from syncd.state.ledger import Ledger, abandon_all
from syncd.state.manual_retry import Retrying
from syncd.state.planner import Limits, Policy
from syncd.timetable import Timetable
from syncd.watch.folder import WatchFolder
from syncd.watch.stage import Watch
from syncd.workers.after_upload import AfterUpload
from syncd.workers.bandwidth import BandwidthControl
from syncd.workers.clock_seen import ClockWatch, boottime, clock_watch
from syncd.workers.confirmer import Confirmer, ConfirmOptions
from syncd.workers.deleter import Deleter, MirroredFolder
from syncd.workers.emptied_folder import EmptiedFolder
from syncd.workers.gate import Gate
from syncd.workers.hooks import Hook
from syncd.workers.organization_check import OrganizationCheck, key_mark
from syncd.workers.poller import Poller, PollOptions
from syncd.workers.preparation import SourceRoot, UploadOptions
from syncd.workers.receipts import ReceiptFolder, Receipts
from syncd.workers.reconciler import ReconcileOptions, Reconciler
from syncd.workers.uploader import Uploader

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Components:
    """Everything that runs, built and not started."""

    store: Store
    clocks: ClockWatch
    policies: Mapping[str, Policy]
    watch: Watch
    uploader: Uploader
    poller: Poller
    deleter: Deleter
    confirmer: Confirmer
    consumer: AfterUpload
    receipts: Receipts
    reconciler: Reconciler
    gate: Gate
    bandwidth: BandwidthControl
    organization_check: OrganizationCheck
    retrying: Retrying
    adopter: Adopter
    verifier: Verifier
    hooks: list[Hook]
    clients: list[FilesClient]
    #: the workspace of what belongs to no folder
    workspace_uuid: str | None
    #: ends every request to the service except uploads
    stop: StopFlag
    #: ends looks and scans
    stop_looking: StopFlag


def build(config: Config, store: Store, *, clock: Callable[[], float] = time.time) -> Components:
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
    clocks = clock_watch(store, clock)
    gate = Gate(
        store=store,
        clock=clock,
        monotonic=time.monotonic,
        key_remedy=credentials.remedy,
        look_at_clock=clocks.look,
    )
    ledger = Ledger(policies=policies, instance=store.instance)
    clients = [make_client(config, stop) for _ in range(5)]
    bucket = Bandwidth()
    bandwidth = BandwidthControl(
        store=store,
        bucket=bucket,
        timetable=Timetable.parse(config.upload.bandwidth),
        clock=clock,
        look_at_clock=clocks.look,
    )
    uploader = Uploader(
        store=store,
        ledger=ledger,
        roots={
            folder.name: SourceRoot(
                folder.path,
                folder.settle_seconds,
                policies[folder.name].workspace_uuid,
                marker=folder.marker,
            )
            for folder in folders
        },
        make_client=lambda flag: make_client(config, flag, bucket),
        gate=gate,
        bandwidth=bandwidth,
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
    polling = partial(
        Poller,
        store=store,
        ledger=ledger,
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
    poller = polling(client=clients[0])
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
        clocks=clocks,
        pause=stop.wait,
        stopped=stop.is_set,
        ask=polling(client=clients[1]).look,
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
    organization_check = OrganizationCheck(
        store=store,
        client=clients[2],
        gate=gate,
        mark=key_mark(store.instance, "\n".join(credentials.secrets())),
        clock=clock,
    )
    consumer = AfterUpload(
        store=store,
        ledger=ledger,
        client=clients[3],
        gate=gate,
        emptied={
            folder.name: EmptiedFolder(
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
        organization_check=organization_check,
        policies=policies,
        roots={folder.name: folder.path for folder in folders},
        clock=clock,
    )

    def adopt(instance: str) -> None:
        for _ in adopter.adopt(instance=instance, by='[state] on_new = "adopt"'):
            pass

    reconciler = Reconciler(
        store=store,
        ledger=ledger,
        client=clients[2],
        gate=gate,
        organization_check=organization_check,
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
    return Components(
        store=store,
        clocks=clocks,
        policies=policies,
        watch=watch,
        uploader=uploader,
        poller=poller,
        deleter=deleter,
        confirmer=confirmer,
        consumer=consumer,
        receipts=Receipts(
            store=store,
            folders={
                folder.name: ReceiptFolder(
                    os.fsencode(folder.receipts_to),
                    is_beside=folder.receipts is True,
                    replaces=folder.after_upload == "keep",
                )
                for folder in config.folders
                if folder.receipts_to
            },
            clock=clock,
            stopped=stop.is_set,
        ),
        reconciler=reconciler,
        gate=gate,
        bandwidth=bandwidth,
        organization_check=organization_check,
        retrying=Retrying(policies=policies),
        adopter=adopter,
        verifier=Verifier(
            store=store, ledger=ledger, client=clients[2], policies=policies, clock=clock
        ),
        hooks=_hooks(config, store, stop, clock),
        clients=clients,
        workspace_uuid=config.api.workspace_uuid,
        stop=stop,
        stop_looking=stop_looking,
    )


def _hooks(config: Config, store: Store, stop: StopFlag, clock: Callable[[], float]) -> list[Hook]:
    return [
        Hook(
            name=hook.name,
            on=hook.on,
            target=Command(hook.command) if hook.url is None else make_call(config, hook.url),
            timeout_seconds=hook.timeout_seconds,
            store=store,
            stop=stop,
            clock=clock,
        )
        for hook in config.hooks
    ]


def _watch_folder(folder: FolderSettings) -> WatchFolder:
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


def settle_changes(components: Components, *, removed_too: bool) -> None:
    """Release the copies of folders that are no longer configured, or have another workspace.

    This comes before any work.
    """
    store, policies = components.store, components.policies
    named = {hook.name for hook in components.hooks}
    if named != store.read(hooks.names):
        store.write(hooks.configure, named)
    components.receipts.begin(forget=removed_too)
    for name in store.read(reconfiguration.removed, policies) if removed_too else ():
        log.warning("%s is not configured any more; its remote files are kept", name)
        release = partial(reconfiguration.release_removed, folder=name, policies=policies)
        while store.write(release, now=time.time()):
            pass
    roots = {name: watched.folder.path for name, watched in components.watch.folders.items()}
    if store.read(pauses.astray, roots):
        for name in store.write(pauses.follow, roots, time.time()):
            log.warning("%s is still paused, under this name and at its path of now", name)
    if removed_too:
        components.gate.release_unused({p.workspace_uuid for p in policies.values()})
    for name in store.read(reconfiguration.moved, policies):
        move = partial(reconfiguration.release_moved, folder=name, policies=policies)
        after: int | None = 0
        while after is not None:
            after = store.write(move, now=time.time(), after=after)


@contextmanager
def opened_store(config: Config) -> Iterator[Store]:
    """Open the state directory, and check that it is this service's."""
    store = Store(config.state.directory)
    with sd_notify.starting():
        store.open(time.time())
    try:
        store.bind(
            config.api.base_url,
            time.time(),
            advice="set the base URL back, or give the other service its own [state] directory",
        )
        yield store
    finally:
        store.close()


@contextmanager
def opened(config: Config, *, applies: bool = True) -> Iterator[Components]:
    """Open the state directory, and build every part.

    With `applies`, what has changed in the configuration is applied to the state: that is for the
    daemon and for a pass, and not for a command that may have been given another configuration.
    """
    with opened_store(config) as store:
        components = build(config, store)
        # Requests that were left without an outcome are in doubt.
        store.write(abandon_all, time.time())
        if applies:
            settle_changes(components, removed_too=not config.folders_are_chosen)
        try:
            yield components
        finally:
            for client in components.clients:
                client.close()
