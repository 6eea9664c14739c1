"""Wires each stage: what it is given of the configuration and of the other parts."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from syncd.clients import make_call
from syncd.config.loading import Config, FolderSettings
from syncd.files_api import FilesClient, StopFlag
from syncd.outbound import Command
from syncd.repair.adopt import Adopter
from syncd.state.database.store import Store
from syncd.state.deletions import Deletions
from syncd.state.ledger import Ledger
from syncd.state.planner import Limits, Policy
from syncd.watch.folder import WatchFolder
from syncd.watch.stage import Watch
from syncd.workers.after_upload import AfterUpload
from syncd.workers.bandwidth import BandwidthControl
from syncd.workers.clock_seen import ClockWatch, boottime
from syncd.workers.confirmer import Confirmer, ConfirmOptions
from syncd.workers.deleter import Deleter, MirroredFolder
from syncd.workers.emptied_folder import EmptiedFolder
from syncd.workers.gate import Gate
from syncd.workers.hooks import Hook
from syncd.workers.organization_check import OrganizationCheck
from syncd.workers.poll_options import PollOptions
from syncd.workers.poller import Poller
from syncd.workers.preparation import SourceRoot, UploadOptions
from syncd.workers.receipts import ReceiptFolder, Receipts
from syncd.workers.reconciler import ReconcileOptions, Reconciler
from syncd.workers.uploader import Uploader


class Common(NamedTuple):
    """The configuration, and what most parts are given."""

    config: Config
    store: Store
    ledger: Ledger
    gate: Gate
    policies: Mapping[str, Policy]
    folders: Sequence[WatchFolder]
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    stop: StopFlag


def policy(config: Config, folder: FolderSettings) -> Policy:
    return Policy(
        workspace_uuid=folder.workspace_uuid,
        mirror_deletions=folder.mirrors_deletions,
        after_upload=folder.after_upload,
        remote_gone=config.deletions.remote_gone,
        limits=Limits(folder.hold_files, folder.hold_percent, folder.hold_max),
        superseded_grace=folder.superseded_grace,
        hold_changes=folder.hold_changes,
        any_root=folder.root == "any",
    )


def watch(common: Common, stop_looking: StopFlag) -> Watch:
    return Watch(
        store=common.store,
        folders=common.folders,
        policies=common.policies,
        wake=common.store.changed.set,
        clock=common.clock,
        stopped=stop_looking.is_set,
    )


def uploader(
    common: Common, bandwidth: BandwidthControl, make_client: Callable[[StopFlag], FilesClient]
) -> Uploader:
    config = common.config
    return Uploader(
        store=common.store,
        ledger=common.ledger,
        roots={
            folder.name: SourceRoot(
                folder.path,
                folder.settle_seconds,
                common.policies[folder.name].workspace_uuid,
                marker=folder.marker,
            )
            for folder in common.folders
        },
        make_client=make_client,
        gate=common.gate,
        bandwidth=bandwidth,
        options=UploadOptions(
            workers=config.upload.workers,
            method=config.upload.method,
            direct_max=config.upload.direct_max,
            token=config.upload.token,
            first_poll_seconds=config.processing.first_poll_seconds,
        ),
        clock=common.clock,
        monotonic=common.monotonic,
    )


def poller(common: Common, client: FilesClient) -> Poller:
    processing = common.config.processing
    return Poller(
        store=common.store,
        ledger=common.ledger,
        client=client,
        gate=common.gate,
        options=PollOptions(
            first_poll_seconds=processing.first_poll_seconds,
            max_poll_seconds=processing.max_poll_seconds,
            polls_per_second=processing.polls_per_second,
            stalled_after_seconds=processing.stalled_after,
        ),
        clock=common.clock,
        pause=common.stop.wait,
    )


def deleter(common: Common, client: FilesClient, clocks: ClockWatch) -> Deleter:
    return Deleter(
        store=common.store,
        ledger=common.ledger,
        deletions=Deletions(policies=common.policies),
        mirrored={
            folder.name: MirroredFolder(folder.path, folder.grace_seconds, marker=folder.marker)
            for folder in common.folders
        },
        policies=common.policies,
        client=client,
        gate=common.gate,
        clock=common.clock,
        steady=boottime,
        clocks=clocks,
        pause=common.stop.wait,
        stopped=common.stop.is_set,
        ask=poller(common, client).look,
    )


def confirmer(common: Common, client: FilesClient) -> Confirmer:
    config = common.config
    return Confirmer(
        store=common.store,
        ledger=common.ledger,
        client=client,
        gate=common.gate,
        options=ConfirmOptions(
            resend_after_seconds=config.upload.resend_after_seconds,
            first_poll_seconds=config.processing.first_poll_seconds,
        ),
        clock=common.clock,
        pause=common.stop.wait,
    )


def after_upload(common: Common, client: FilesClient) -> AfterUpload:
    return AfterUpload(
        store=common.store,
        ledger=common.ledger,
        client=client,
        gate=common.gate,
        emptied={
            folder.name: EmptiedFolder(
                watched.path,
                os.fsencode(folder.move_to)
                if folder.move_to and folder.after_upload == "move"
                else None,
                takes=folder.after_upload != "keep",
                marker=watched.marker,
            )
            for folder, watched in zip(common.config.folders, common.folders, strict=True)
        },
        policies=common.policies,
        clock=common.clock,
        stopped=common.stop.is_set,
    )


def receipts(common: Common) -> Receipts:
    return Receipts(
        store=common.store,
        folders={
            folder.name: ReceiptFolder(
                os.fsencode(folder.receipts_to),
                is_beside=folder.receipts is True,
                replaces=folder.after_upload == "keep",
            )
            for folder in common.config.folders
            if folder.receipts_to
        },
        clock=common.clock,
        stopped=common.stop.is_set,
    )


def reconciler(
    common: Common, client: FilesClient, organization_check: OrganizationCheck, adopter: Adopter
) -> Reconciler:
    config = common.config

    def adopt(instance: str) -> None:
        for _ in adopter.adopt(instance=instance, by='[state] on_new = "adopt"'):
            pass

    return Reconciler(
        store=common.store,
        ledger=common.ledger,
        client=client,
        gate=common.gate,
        organization_check=organization_check,
        options=ReconcileOptions(
            resend_after_seconds=config.upload.resend_after_seconds,
            first_poll_seconds=config.processing.first_poll_seconds,
        ),
        clock=common.clock,
        policies=common.policies,
        on_new=config.state.on_new,
        adopt=adopt,
        hashed=adopter.hashed,
    )


def hooks(common: Common) -> list[Hook]:
    return [
        Hook(
            name=hook.name,
            on=hook.on,
            target=Command(hook.command)
            if hook.url is None
            else make_call(common.config, hook.url),
            timeout_seconds=hook.timeout_seconds,
            store=common.store,
            stop=common.stop,
            clock=common.clock,
        )
        for hook in common.config.hooks
    ]
