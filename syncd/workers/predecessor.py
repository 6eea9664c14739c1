"""Checks, while a ledger is new, whether another instance of ours sent the same files before.

Either its state was lost, or it still runs elsewhere: files sent now would be there twice.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

from syncd.exceptions import StateError
from syncd.files_api import FileDetail, FilesApiError
from syncd.state import predecessor, tokens
from syncd.state.database.store import Store
from syncd.state.files import File
from syncd.state.planner import Policy
from syncd.state.predecessor import LEAST_FILES, Match, SentObject
from syncd.workers.gate import Gate
from syncd.workers.patience import Patience, may_not_list
from syncd.workers.search import Search

log = logging.getLogger(__name__)

OnNew = Literal["hold", "new", "adopt"]
#: Pages of a listing that are read.
MOST_PAGES = 50
#: Seconds to wait for the first scans when there is something to compare with.
SCAN_SECONDS = 600.0


@dataclass(kw_only=True, eq=False)
class PredecessorCheck:
    """Keeps the gate shut until it is known whether a new ledger begins anew."""

    store: Store
    gate: Gate
    search: Search
    policies: Mapping[str, Policy]
    on_new: OnNew
    #: takes up what an instance sent
    adopt: Callable[[str], None]
    #: returns a file with its SHA-256
    hashed: Callable[[File], File]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        # The files of a scratch volume belong to the present instance alone.
        self._policies = {n: policy for n, policy in self.policies.items() if not policy.any_root}
        self._patience = Patience(self.clock)
        self._began_at: float | None = None
        #: whether the service has shown anything in this try
        self._shown = False
        self._sent: dict[str, list[SentObject]] | None = None
        #: what all other instances sent, also those that sent too little to be asked about
        self._all_sent: dict[str, list[SentObject]] = {}
        self._to_adopt: Match | None = None
        self.is_over = not self._policies or not self.store.read(predecessor.is_in_question)
        if not self.is_over:
            self.gate.checked = False

    def step(self) -> None:
        """Compare the newest pages with the folders, once these are scanned; open the gate then."""
        if self.is_over:
            self._tell_of_few()
            return
        if self._patience.is_resting:
            return
        self._shown = False
        try:
            is_known = self._find_out()
        except FilesApiError as error:
            self.gate.failed(error)
            is_known = may_not_list(error)
            if is_known:
                log.warning("cannot check whether other instances sent these files: %s", error)
            elif self._shown:
                self._patience.failed()
        if is_known:
            self.is_over = True
            self.gate.checked = True
            self.store.changed.set()

    def _find_out(self) -> bool:
        """Return whether it is known; raise FilesApiError when the service does not answer."""
        if self._to_adopt is not None:
            return self._take_up(self._to_adopt)
        if self.on_new == "new" or not self.store.read(predecessor.is_in_question):
            self._begin_anew()
            return True
        if self._sent is None:
            self._sent = self._read()
            self._began_at = self.clock()
        if self._sent and not self._are_scanned():
            return False
        match = self._match(self._sent)
        now = self.clock()
        if match is None:
            self.store.write(predecessor.release, now)
            return True
        self._all_sent = {}
        if self.on_new == "adopt":
            self._to_adopt = match
            return self._take_up(match)
        self.store.write(predecessor.hold, match, now)
        log.error("instance %s sent these files before (syncd status)", match.instance)
        return True

    def _tell_of_few(self) -> None:
        """Say once that files are sent again, too few for a hold; nothing waits for this."""
        if not self._all_sent or not self._are_scanned():
            return
        few = partial(predecessor.best_match, names=self._policies.keys(), least=1)
        match = self.store.read(few, self._all_sent)
        self._all_sent = {}
        if match is not None and match.matching < LEAST_FILES:
            log.warning(
                "this state is new, and instance %s has sent %d of the %d files of %s before: they "
                "are sent again, because fewer than %d are not asked about; if it was this one, "
                "and its state is lost, `syncd adopt --instance %s` with an empty [state] "
                "directory takes them up",
                match.instance,
                match.matching,
                match.files,
                match.folder,
                LEAST_FILES,
                match.instance,
            )

    def _begin_anew(self) -> None:
        now = self.clock()
        self.store.write(predecessor.begin_anew, now)

    def _match(self, sent: Mapping[str, list[SentObject]]) -> Match | None:
        """Return the instance that sent a folder's files, by place, else by size and content."""
        names = self._policies.keys()
        if match := self.store.read(predecessor.best_match, sent, names):
            return match
        for name, (instance, objects) in product(names, sent.items()):
            of_size = partial(predecessor.match_by_size, instance=instance, sent=objects, name=name)
            if found := self.store.read(of_size):
                match, sample = found
                if match := predecessor.narrow(match, [*map(self.hashed, sample)], objects):
                    return match
        return None

    def _read(self) -> dict[str, list[SentObject]]:
        """Return what the tokens of other instances say, by instance, when there are enough."""
        sent: defaultdict[str, list[SentObject]] = defaultdict(list)

        def take(item: FileDetail) -> None:
            self._shown = True
            if item.token is not None:
                token = tokens.read(item.token)
                place, content = int(token.path[:8], 16), int(token.content[:8], 16)
                sent[token.instance].append(SentObject(place, content, item.file_size_bytes))

        for workspace in {policy.workspace_uuid for policy in self._policies.values()}:
            self.search.read(workspace, take, most_pages=MOST_PAGES)
            self.gate.succeeded()
        sent.pop(self.store.instance, None)
        self._all_sent = dict(sent)
        return {name: objects for name, objects in sent.items() if len(objects) >= LEAST_FILES}

    def _are_scanned(self) -> bool:
        waited = abs(self.clock() - (self._began_at or 0.0))
        names = self._policies.keys()
        return waited > SCAN_SECONDS or self.store.read(predecessor.are_scanned, names)

    def _take_up(self, match: Match) -> bool:
        log.warning("taking up what instance %s sent before", match.instance)
        try:
            self.adopt(match.instance)
        except StateError as error:
            # Everything is held, and the hold says what to do.
            log.error("cannot take up what instance %s sent: %s", match.instance, error)
        return True
