"""Compares the ledger with the remote listing, says what differs, and records what is gone."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from syncd.files_api import FileDetail, FilesClient, ForbiddenError, Listing, NotFoundError
from syncd.state import audit, due, echo, holds, repeats, tokens
from syncd.state.attempts import kind_of
from syncd.state.audit import Claim
from syncd.state.database.store import Store
from syncd.state.ledger import Ledger
from syncd.state.lifecycle import CopyStatus
from syncd.state.planner import Policy
from syncd.state.texts import path_members
from syncd.workers.comparison import Comparison

JsonObject = dict[str, Any]
#: Readings of a listing that keeps changing, before going on with what was seen.
READINGS = 3
#: Findings of a kind that are listed; all are counted.
LISTED = 1000
#: Findings that call for somebody to act.
DIFFERENCES = ("gone", "size", "undeleted", "duplicate")


@dataclass(kw_only=True, eq=False)
class Verifier:
    """Holds each stored copy against what the service shows."""

    store: Store
    ledger: Ledger
    client: FilesClient
    policies: Mapping[str, Policy]
    clock: Callable[[], float]

    def verify(self, *, remove_duplicates: bool = False) -> Iterator[JsonObject]:
        """Yield how far it is, and at the end what differs. FilesApiError where nobody answers.

        A workspace that this key may not read stands in `unread`, with the number of its copies.

        `findings` have a kind, a uuid and, where there is one, folder and path:
        `gone` (the ledger has it, the service not), `size` (other than what was sent, or none),
        `undeleted` (the ledger has it as deleted), `duplicate` (our request was carried out
        twice), `foreign` (carries our token, and is not ours). `counts` says how many of each.
        """
        findings = _Findings()
        listed = compared = ours = 0
        incomplete: list[str] = []
        unread: dict[str, int] = {}
        for workspace in self._workspaces():
            yield {"step": "reading the listing", "workspace": workspace}
            of_workspace = _Findings()
            try:
                listing, comparison = self._read(workspace, of_workspace)
            except ForbiddenError:
                if workspace is None:
                    raise
                unread[workspace] = self._claimed(workspace)
                continue
            listed += listing.items
            ours += comparison.known
            if not listing.complete:
                incomplete.append(listing.reason)
            yield {"step": "comparing", "workspace": workspace}
            compared += self._claimed(workspace)
            for claim in comparison.missing(workspace):
                of_workspace.add("gone", _of(claim))
                self._record_gone(claim)
            findings.merge(of_workspace)
        self._tell_duplicates(findings, remove=remove_duplicates)
        yield {
            "listed": listed,
            "ours": ours,
            "compared": compared,
            "findings": findings.listed,
            "counts": dict(findings.counts),
            "incomplete": incomplete,
            "unread": unread,
            "kept": [_of(claim) for claim in self.store.read(audit.kept, limit=LISTED)],
            **self.store.read(audit.counts),
        }

    def _claimed(self, workspace: str | None) -> int:
        return self.store.read(audit.claimed, workspace=workspace)

    def _workspaces(self) -> list[str | None]:
        known = set(self.store.read(due.workspaces))
        known |= {policy.workspace_uuid for policy in self.policies.values()}
        return sorted(known, key=str)

    def _read(self, workspace: str | None, findings: "_Findings") -> tuple[Listing, Comparison]:
        for _ in range(READINGS):
            findings.clear()
            comparison = Comparison(
                store=self.store,
                client=self.client,
                compare=partial(self._compare, workspace, findings),
            )
            listing = self.client.read_listing(comparison.take, workspace_uuid=workspace)
            comparison.flush()
            if listing.complete:
                break
        return listing, comparison

    def _compare(
        self, workspace: str | None, findings: "_Findings", item: FileDetail, claim: Claim | None
    ) -> None:
        if claim is None:
            self._compare_unknown(workspace, findings, item)
        elif claim.status == CopyStatus.GONE:
            findings.add("undeleted", _of(claim))
        elif claim.is_there and self._has_another_size(item, claim):
            findings.add("size", _of(claim) | {"remote_size": item.file_size_bytes})

    def _has_another_size(self, item: FileDetail, claim: Claim) -> bool:
        if item.file_size_bytes is not None:
            return item.file_size_bytes != claim.size
        kind = kind_of(claim.method, is_video=claim.is_video)
        known = self.store.read(echo.learned, kind)
        return claim.status != CopyStatus.PROCESSING and bool(known and known.sizes)

    def _compare_unknown(
        self, workspace: str | None, findings: "_Findings", item: FileDetail
    ) -> None:
        """Note what carries our token, and is none of the ledger's objects."""
        token = item.token
        if token is None or tokens.read(token).instance != self.store.instance:
            return
        if self.store.read(audit.is_open, token=token):
            return
        findings.add(
            "foreign",
            {
                "file_uuid": item.file_uuid,
                "token": token,
                "size": item.file_size_bytes,
                "remote_file_path": item.remote_file_path,
                "workspace_uuid": workspace,
                "created_at": item.created_at.isoformat(),
            },
        )

    def _record_gone(self, claim: Claim) -> None:
        """Treat the files of what others deleted as `remote_gone` says.

        A folder that this configuration lacks is left as it is: it may be another's.
        """
        is_ours = claim.folder in self.policies or claim.status == CopyStatus.RELEASED
        if is_ours and not self.store.read(holds.is_ledger_incomplete):
            now = self.clock()
            self.store.write(self.ledger.gone_remotely, copy_id=claim.copy_id, now=now)

    def _tell_duplicates(self, findings: "_Findings", *, remove: bool) -> None:
        """Tell what our own repeated requests left from what is foreign; retire it if asked to."""
        for finding in findings.listed:
            if finding["kind"] != "foreign":
                continue
            claims = self.store.read(audit.of_token, token=finding["token"])
            for claim in claims:
                if claim.is_there and self._is_duplicate(finding, claim):
                    findings.rename(finding, "duplicate")
                    finding["of"] = claim.file_uuid
                    if remove:
                        self._retire(finding, claim)

    def _is_duplicate(self, finding: JsonObject, claim: Claim) -> bool:
        """Say whether an object was made while the request of `claim` ran, with the same size."""
        if finding["size"] != claim.size:
            return False
        try:
            own = self.client.get(claim.file_uuid)
        except NotFoundError:
            # It may be the only object that is left.
            return False
        return self.store.read(
            repeats.is_repeat,
            claim.copy_id,
            finding["token"],
            finding["created_at"],
            own.created_at,
        )

    def _retire(self, finding: JsonObject, claim: Claim) -> None:
        now = self.clock()
        finding["retired"] = self.store.write(
            repeats.retire_repeat, claim.copy_id, finding["file_uuid"], now
        )


class _Findings:
    """The differences: all of them counted, the first of each kind listed."""

    def __init__(self) -> None:
        self.listed: list[JsonObject] = []
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, facts: JsonObject) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= LISTED:
            self.listed.append({"kind": kind, **facts})

    def rename(self, finding: JsonObject, kind: str) -> None:
        self.counts[finding["kind"]] -= 1
        self.counts[kind] += 1
        finding["kind"] = kind

    def merge(self, other: "_Findings") -> None:
        self.listed += other.listed
        self.counts += other.counts

    def clear(self) -> None:
        self.listed.clear()
        self.counts.clear()


def _of(claim: Claim) -> JsonObject:
    return {
        "file_uuid": claim.file_uuid,
        "folder": claim.folder,
        **path_members(claim.path),
        "size": claim.size,
        "status": claim.status,
    }
