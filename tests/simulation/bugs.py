"""The planted bugs: replacements for safeguards of the product."""

import re
from concurrent.futures import Future
from dataclasses import replace

from syncd.files_api import FilesApiError
from syncd.state import attempts, copies, files
from syncd.state.apply_plan import make_live, retire_unless_kept
from syncd.state.deletions import Deletions
from syncd.state.ledger import Declined, Intent, Ledger, rename_sources
from syncd.state.lifecycle import CopyStatus
from syncd.workers.preparation import Preparation
from syncd.workers.reconciler import Reconciler
from syncd.workers.search import Search, SearchResult

_begin = Ledger.begin
_plan = Ledger._plan
_token = Ledger._token
_attempt_found = Ledger.attempt_found
_confirm_missing = Deletions.confirm_missing
_offer = Preparation._offer
_step = Reconciler.step
_insert = copies.insert
_fits = Search._fits


# Ownership


def sweep(self):
    """Retire, with every step, what carries a token of this instance and is not in the ledger."""
    soon, found = _step(self), []
    try:
        self.client.read_listing(found.append)
    except FilesApiError:
        return soon
    now = self.clock()

    def record(db):
        for item in found:
            if item.token is None or copies.where(db, "file_uuid = ?", (item.file_uuid,)):
                continue
            for copy in copies.where(db, "token = ? AND file_uuid IS NOT NULL", (item.token,))[:1]:
                stray = copies.insert(
                    db,
                    copy._replace(
                        status=CopyStatus.SENDING, file_uuid=None, in_flight=False, kept=False
                    ),
                )
                retire_unless_kept(
                    db, stray, now, reason="planted: a stray", file_uuid=item.file_uuid
                )

    self.store.write(record)
    return soon


def share_one_token(self, db, file, offer, now):
    """Give all requests for one content of a file the token of the first."""
    for copy in copies.where(
        db, "file_id = ? AND sha256 = ? ORDER BY id LIMIT 1", (file.id, offer.sha256)
    ):
        return copy.token
    return _token(self, db, file, offer, now)


def leave_the_found_unanswered(self, db, copy_id, attempt, now):
    _attempt_found(self, db, copy_id, attempt, now)
    if attempt.token.startswith("sy2-"):
        attempts.leave(db, copies.existing(db, copy_id), now)


def send_again_at_once(self, db, copy_id, failure, now, *, look_at=None):
    copies.move(db, copies.get(db, copy_id), CopyStatus.PLANNED, due_at=look_at or now)


def never_look_late(db):
    return []


def take_the_newest(self, workspace, sought):
    """Take the newest object of each token, as far as it fits."""
    found, by_token = {}, {attempt.token: attempt for attempt in sought}

    def take(item):
        if (attempt := by_token.get(item.token)) is None:
            return
        known = found.get(item.token)
        if (known is None or item.created_at > known.created_at) and self.store.read(
            lambda db: self._fits(db, attempt, item)
        ):
            found[item.token] = item

    listing = self.read(workspace, take, lambda: self.since(sought))
    return SearchResult(listing, found)


def want_a_size(self, db, attempt, item):
    """Refuse what is shown without a size, as is a record that awaits its content."""
    return item.file_size_bytes == attempt.size and _fits(self, db, attempt, item)


def never_old(self, now):
    return False


def notice_no_older_state(self):
    self.gate.checked = True


def believe_any_token(db, token, *_):
    return True


def find_a_token_anywhere(self):
    names = (self.original_file_url, self.remote_file_path)
    found = re.search(r"sy2(?:-[0-9a-f]+){5}", " ".join(filter(None, names)))
    return found and found[0]


def keep_nothing(db, copy):
    return _insert(db, copy._replace(kept=False))


def believe_the_storage(db, taken):
    """Take a 2xx of the storage for the proof that it has the bytes."""
    for copy_id, _, now, _ in taken:
        copy = copies.existing(db, copy_id)
        make_live(db, copy, now, others=copies.of_file(db, copy.file_id))
    return ["live"] * len(taken)


# Deletions


def retire_at_once(self, db, file, offer, now):
    for copy in copies.where(db, "file_id = ? AND status = 'live'", (file.id,)):
        retire_unless_kept(db, copy, now, reason="planted: a newer one will come")
    return _plan(self, db, file, offer, now)


def promise_deletes_unseen(self, db, retiring, now):
    for copy in retiring:
        copies.update(db, copy.id, in_flight=1, delete_sent_at=now, due_at=None)
    return [copies.get(db, copy.id) for copy in retiring]


def promise_no_deletes(self, db, retiring, now):
    known = [copies.get(db, copy.id) for copy in retiring]
    return [copy for copy in known if copy and copy.status is CopyStatus.RETIRING]


def judge_no_deletes_anew(self, db, retiring, now):
    return {copy.id for copy in retiring}


def trust_the_inode(self, file, descriptor, reading):
    offer = _offer(self, file, descriptor, reading)
    if offer is None or file.sha256 is not None:
        return offer
    moved = self.store.read(
        lambda db: files.where(
            db,
            "inode = ? AND size = ? AND status = 'missing' AND sha256 IS NOT NULL",
            (file.fingerprint.inode, file.size),
        )
    )
    return replace(offer, sha256=moved[0].sha256) if moved else offer


def share(self, db, offer, now):
    file = files.get(db, offer.file_id)
    if file and rename_sources(db, file.id, offer.sha256, offer.fingerprint.size, None):
        files.update(db, file.id, sha256=offer.sha256, due_at=None)
        return Declined.NEEDLESS
    return _begin(self, db, offer, now)


class _UndoneError(Exception):
    """Carries what a transaction returned, and undoes it."""


def promise_nothing(self, offers):
    now, futures = self.clock(), [Future() for _ in offers]

    def work(db):
        raise _UndoneError(self.ledger.begin_all(db, [Intent(offer, now) for offer in offers]))

    try:
        self.store.write(work)
    except _UndoneError as undone:
        for future, begun in zip(futures, undone.args[0], strict=True):
            future.set_result(begun)
    return futures


def want_for_ever(self, db, file_ids, now, **checks):
    _confirm_missing(self, db, file_ids, now, **checks)
    for file_id in file_ids:
        db.conn.execute("UPDATE copies SET wanted = 1 WHERE file_id = ?", (file_id,))
