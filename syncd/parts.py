"""The composition root: builds every part over an open state directory, and starts nothing.

`Config` ends here: each part is given what it needs, and no more.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from syncd.config import Config
from syncd.exceptions import ConfigError
from syncd.files_api import FilesClient, StopFlag
from syncd.state.ledger import Ledger
from syncd.state.planner import Policy
from syncd.state.sightings import Settling
from syncd.state.store import Store
from syncd.watch.folder import WatchFolder
from syncd.watch.stage import Watch
from syncd.workers.deleter import Deleter, MirroredFolder
from syncd.workers.gate import Gate
from syncd.workers.passage import Root, UploadOptions
from syncd.workers.poller import Poller, PollOptions
from syncd.workers.reconciler import ReconcileOptions, Reconciler
from syncd.workers.uploader import Uploader


@dataclass(slots=True)
class Parts:
    """Everything that runs, built and not started."""

    store: Store
    watch: Watch
    uploader: Uploader
    poller: Poller
    deleter: Deleter
    reconciler: Reconciler
    gate: Gate
    clients: list[FilesClient]
    stop: StopFlag


def build(config: Config, store: Store, *, clock: Callable[[], float] = time.time) -> Parts:
    """Build every part over an open store; starts nothing."""
    credentials = config.credentials
    if credentials.api_key is None and credentials.bearer_token is None:
        raise ConfigError(
            "there is no API key: set AYMARA_AI_API_KEY, or AYMARA_AI_API_KEY_FILE to a file that "
            "holds it, or give the systemd credential aymara-api-key"
        )
    policies = {folder.name: Policy(folder.workspace_uuid) for folder in config.folders}
    folders = [_watch_folder(config, name) for name in policies]
    stop = StopFlag()
    gate = Gate(store=store, clock=clock, monotonic=time.monotonic)
    ledger = Ledger(policies=policies, instance=store.instance)
    clients = [_client(config, stop) for _ in range(3)]
    uploader = Uploader(
        store=store,
        ledger=ledger,
        roots={
            folder.name: Root(
                folder.path, folder.settle_seconds, policies[folder.name].workspace_uuid
            )
            for folder in folders
        },
        make_client=lambda flag: _client(config, flag),
        gate=gate,
        options=UploadOptions(
            workers=config.upload.workers,
            method=config.upload.method,
            direct_max=config.upload.direct_max,
            token=config.upload.token,
            first_poll_seconds=config.processing.first_poll_seconds,
        ),
        clock=clock,
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
        mirrored={
            folder.name: MirroredFolder(
                folder.path, Settling(folder.settle_seconds, folder.grace_seconds)
            )
            for folder in folders
        },
        policies=policies,
        client=clients[1],
        gate=gate,
        clock=clock,
        stopped=stop.is_set,
    )
    reconciler = Reconciler(
        store=store,
        ledger=ledger,
        client=clients[2],
        gate=gate,
        options=ReconcileOptions(
            resend_after_seconds=config.upload.resend_after_seconds,
            first_poll_seconds=config.processing.first_poll_seconds,
        ),
        clock=clock,
    )
    watch = Watch(
        store=store,
        folders=folders,
        policies=policies,
        wake=store.changed.set,
        clock=clock,
        stopped=stop.is_set,
    )
    return Parts(store, watch, uploader, poller, deleter, reconciler, gate, clients, stop)


def _watch_folder(config: Config, name: str) -> WatchFolder:
    folder = next(folder for folder in config.folders if folder.name == name)
    return WatchFolder(
        name=folder.name,
        path=os.path.realpath(os.fsencode(folder.path)),
        include=folder.include,
        exclude=folder.exclude,
        hidden=folder.hidden,
        max_size=folder.max_size,
        skip_existing=folder.existing == "skip",
        settle_seconds=folder.settle_seconds,
        grace_seconds=folder.grace_seconds,
        rescan_seconds=folder.rescan_seconds,
        watch=folder.watch,
    )


def _client(config: Config, stop: StopFlag) -> FilesClient:
    secrets = config.credentials
    return FilesClient(
        base_url=config.api.base_url,
        api_key=secrets.api_key.get_secret_value() if secrets.api_key else None,
        bearer_token=secrets.bearer_token.get_secret_value() if secrets.bearer_token else None,
        sandbox=config.api.sandbox,
        timeout_seconds=config.api.timeout_seconds,
        connect_seconds=config.api.connect_seconds,
        proxy=config.api.proxy,
        ca_file=config.api.ca_file,
        stop=stop,
    )


@contextmanager
def opened(config: Config) -> Iterator[Parts]:
    """Open the state directory, see that it is this service's, and build every part."""
    store = Store(config.state.directory)
    store.open(time.time())
    try:
        store.bind(
            "base_url",
            config.api.base_url,
            advice="set the base URL back, or give the other service its own [state] directory",
        )
        parts = build(config, store)
        try:
            yield parts
        finally:
            for client in parts.clients:
                client.close()
    finally:
        store.close()
