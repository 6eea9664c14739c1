"""Compares the ledger with the remote listing, says what differs, and records what is gone."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from syncd.files_api import FilesClient, ForbiddenError, Listing, NotFoundError
from syncd.state import audit, due, holds
from syncd.state.audit import Claim
from syncd.state.ledger import Ledger
from syncd.state.planner import Policy
from syncd.state.store import Store
from syncd.workers.tokens import by_token, of_instance

JsonObject = dict[str, Any]
#: Readings of a listing that keeps changing, before going on with what was seen.
READINGS = 3


class Verifier:
    """Holds each stored copy against what the service shows."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        client: FilesClient,
        policies: Mapping[str, Policy],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._client = client
        self._policies = policies
        self._clock = clock

    def verify(self) -> Iterator[JsonObject]:
        """Yield how far it is, and at the end what differs. FilesApiError where nobody answers.

        A workspace that this key may not read stands in `unread`, with the number of its copies.

        `findings` have a kind, a uuid and, where there is one, folder and path:
        `gone` (the ledger has it, the service not), `size` (other than what was sent), `twin` (a
        second object of a known copy), `unknown` (our token, and no copy).
        """
        findings: list[JsonObject] = []
        listed = ours = 0
        incomplete: list[str] = []
        unread: dict[str, int] = {}
        for workspace in self._workspaces():
            yield {"step": "reading the listing", "workspace": workspace}
            try:
                listing = self._read(workspace)
            except ForbiddenError:
                if workspace is None:
                    raise
                unread[workspace] = len(self._claims(workspace))
                continue
            listed += len(listing.items)
            if not listing.complete:
                incomplete.append(listing.reason)
            yield {"step": "comparing", "workspace": workspace}
            # After the listing: what is retired from here on still counts as ours.
            claims = self._claims(workspace)
            ours += len(claims)
            differing = list(self._compare(listing, claims))
            self._record(differing)
            findings += differing
            findings += self._uninvited(listing, workspace)
        yield {
            "listed": listed,
            "compared": ours,
            "findings": findings,
            "incomplete": incomplete,
            "unread": unread,
            **self._store.read(audit.counts),
        }

    def _claims(self, workspace: str | None) -> list[Claim]:
        return self._store.read(partial(audit.claims, workspace=workspace))

    def _workspaces(self) -> list[str | None]:
        known = set(self._store.read(due.workspaces))
        known |= {policy.workspace_uuid for policy in self._policies.values()}
        return sorted(known, key=str)

    def _read(self, workspace: str | None) -> Listing:
        listing = self._client.read_listing(workspace_uuid=workspace)
        for _ in range(READINGS - 1):
            if listing.complete:
                break
            listing = self._client.read_listing(workspace_uuid=workspace)
        return listing

    def _compare(self, listing: Listing, claims: Iterable[Claim]) -> Iterator[JsonObject]:
        """Yield each copy that is not as the ledger has it; absence shows at the object itself."""
        shown = {item.file_uuid: item for item in listing.items}
        for claim in claims:
            item = shown.get(claim.file_uuid)
            if item is None and self._is_gone(claim.file_uuid):
                yield _finding("gone", claim)
            elif item is not None and item.file_size_bytes not in (None, claim.size):
                yield _finding("size", claim) | {"remote_size": item.file_size_bytes}

    def _record(self, findings: Iterable[JsonObject]) -> None:
        """Treat the files of what others deleted as `remote_gone` says."""
        for finding in findings:
            copy_id = finding.pop("copy")
            if finding["kind"] == "gone" and not self._store.read(holds.is_lost):
                now = self._clock()
                self._store.write(partial(self._ledger.gone_remotely, copy_id=copy_id, now=now))

    def _is_gone(self, file_uuid: str) -> bool:
        try:
            self._client.get(file_uuid)
        except NotFoundError:
            return True
        return False

    def _uninvited(self, listing: Listing, workspace: str | None) -> Iterator[JsonObject]:
        """Yield what carries our token beside the copies that the ledger has."""
        found = [
            (token, item.file_uuid) for token, items in by_token(listing).items() for item in items
        ]
        for copy, file_uuid in self._store.read(lambda db: due.strays(db, found)):
            yield {"kind": "twin", "file_uuid": file_uuid, "of": copy.file_uuid}
        seen = of_instance(listing, self._store.instance, workspace, self._clock()).values()
        for item in self._store.read(lambda db: audit.unknown(db, seen)):
            yield {
                "kind": "unknown",
                "file_uuid": item.file_uuid,
                "size": item.size,
                "remote_file_path": item.remote_file_path,
                "accepted": item.accepted_at is not None,
            }


def _finding(kind: str, claim: Claim) -> JsonObject:
    return {
        "kind": kind,
        "copy": claim.copy_id,
        "file_uuid": claim.file_uuid,
        "folder": claim.folder,
        **claim.path_texts(),
        "size": claim.size,
        "status": claim.status,
    }
