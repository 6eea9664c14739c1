"""The composition root: builds every part over an open state directory, and starts nothing.

`Config` ends here: each part is given what it needs, and no more.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from syncd import sd_notify, wiring
from syncd.clients import make_client
from syncd.config.loading import Config
from syncd.exceptions import ConfigError
from syncd.files_api import Bandwidth, FilesClient, StopFlag
from syncd.repair.adopt import Adopter
from syncd.repair.verify import Verifier
from syncd.state import hooks, reconfiguration
from syncd.state.database.store import Store
from syncd.state.holds import pauses
from syncd.state.ledger import Ledger, put_all_in_doubt
from syncd.state.manual_retry import Retrying
from syncd.state.planner import Policy
from syncd.timetable import Timetable
from syncd.watch.stage import Watch
from syncd.watch_folders import watch_folder
from syncd.wiring import Common
from syncd.workers.after_upload import AfterUpload
from syncd.workers.bandwidth import BandwidthControl
from syncd.workers.clock_seen import ClockWatch, clock_watch
from syncd.workers.confirmer import Confirmer
from syncd.workers.deleter import Deleter
from syncd.workers.gate import Gate
from syncd.workers.hooks import Hook
from syncd.workers.organization_check import OrganizationCheck, key_mark
from syncd.workers.poller import Poller
from syncd.workers.receipts import Receipts
from syncd.workers.reconciler import Reconciler
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
    after_upload: AfterUpload
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
    _require_key(config)
    policies = {folder.name: wiring.policy(config, folder) for folder in config.folders}
    clocks = clock_watch(store, clock)
    common = Common(
        config=config,
        store=store,
        ledger=Ledger(policies=policies, instance=store.instance),
        gate=Gate(
            store=store,
            clock=clock,
            monotonic=time.monotonic,
            key_remedy=config.credentials.remedy,
            look_at_clock=clocks.look,
        ),
        policies=policies,
        folders=[watch_folder(folder) for folder in config.folders],
        clock=clock,
        monotonic=time.monotonic,
        stop=StopFlag(),
    )
    # A client makes one call at a time, so steps that run side by side have one each.
    clients = [make_client(config, common.stop) for _ in range(5)]
    polls, deletes, listings, takes_away, confirms = clients
    bucket = Bandwidth()
    bandwidth = BandwidthControl(
        store=store,
        bucket=bucket,
        timetable=Timetable.parse(config.upload.bandwidth),
        clock=clock,
        look_at_clock=clocks.look,
    )
    organization_check = OrganizationCheck(
        store=store,
        client=listings,
        gate=common.gate,
        mark=key_mark(store.instance, "\n".join(config.credentials.secrets())),
        clock=clock,
    )
    adopter = Adopter(
        store=store,
        ledger=common.ledger,
        client=listings,
        organization_check=organization_check,
        policies=policies,
        roots={folder.name: folder.path for folder in common.folders},
        clock=clock,
    )
    stop_looking = StopFlag()
    return Components(
        store=store,
        clocks=clocks,
        policies=policies,
        watch=wiring.watch(common, stop_looking),
        uploader=wiring.uploader(common, bandwidth, lambda flag: make_client(config, flag, bucket)),
        poller=wiring.poller(common, polls),
        deleter=wiring.deleter(common, deletes, clocks),
        confirmer=wiring.confirmer(common, confirms),
        after_upload=wiring.after_upload(common, takes_away),
        receipts=wiring.receipts(common),
        reconciler=wiring.reconciler(common, listings, organization_check, adopter),
        gate=common.gate,
        bandwidth=bandwidth,
        organization_check=organization_check,
        retrying=Retrying(policies=policies),
        adopter=adopter,
        verifier=Verifier(
            store=store, ledger=common.ledger, client=listings, policies=policies, clock=clock
        ),
        hooks=wiring.hooks(common),
        clients=clients,
        workspace_uuid=config.api.workspace_uuid,
        stop=common.stop,
        stop_looking=stop_looking,
    )


def _require_key(config: Config) -> None:
    if config.credentials.api_key is None and config.credentials.bearer_token is None:
        raise ConfigError(
            "there is no API key: set AYMARA_AI_API_KEY, or AYMARA_AI_API_KEY_FILE to a file that "
            "holds it, or give the systemd credential aymara-api-key"
        )


def settle_changes(components: Components, *, removed_too: bool) -> None:
    """Release the copies of folders that are no longer configured, or have another workspace.

    This comes before any work, because requests that were left without an outcome are in doubt.
    """
    store, policies = components.store, components.policies
    store.write(put_all_in_doubt, time.time())
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
            sandbox=config.api.sandbox,
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
        if applies:
            settle_changes(components, removed_too=not config.folders_are_chosen)
        else:
            store.write(put_all_in_doubt, time.time())
        try:
            yield components
        finally:
            for client in components.clients:
                client.close()
