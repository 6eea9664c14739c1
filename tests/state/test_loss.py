"""A ledger that has lost something sends and deletes nothing; nor does one that is damaged."""

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime

import pytest
from sqlite_utils import Database

from syncd.disk import Fingerprint
from syncd.exceptions import ForeignStateError, StateError
from syncd.state import backups, copies, files, holds, instance, schema
from syncd.state.deletions import Deletions
from syncd.state.ledger import Declined, Ledger, Offer, Stored
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.planner import Policy
from syncd.state.store import Store, set_fact

DAY = 86_400.0
#: Positions at which a byte is flipped; SYNCD_FLIPS=1000 is the long form.
FLIPS = int(os.environ.get("SYNCD_FLIPS", "40"))
POLICIES = {"f": Policy()}


class Home:
    """One state directory, over several lives of its process."""

    def __init__(self, directory):
        self.directory = directory
        self.path = directory / schema.FILE_NAME
        self.numbers = iter(range(1, 1000))

    def opened(self, now=0.0):
        store = Store(self.directory)
        store.open(now)
        return closing(store)

    def ledger(self, store):
        return Ledger(policies=POLICIES, instance=store.instance)

    def offer(self, db):
        """Make a new file that is ready to be sent, and the offer to send it."""
        number = next(self.numbers)
        mark = Fingerprint(number, 7, number, number)
        db.conn.execute("INSERT OR IGNORE INTO folders (name, path) VALUES ('f', x'2f')")
        file_id = files.insert(
            db,
            folder="f",
            path=b"%d" % number,
            status=FileStatus.READY,
            fingerprint=mark,
            changed_at=0.0,
            due_at=0.0,
        )
        return Offer(file_id, mark, f"{number:064x}", "text/plain", "direct", vacated=())

    def sync(self, store, count=1):
        ledger = self.ledger(store)

        def sync_one(db):
            copy = ledger.begin(db, self.offer(db), 1.0)
            stored = Stored(f"00000000-0000-4000-8000-{copy.id:012d}", "remote")
            ledger.stored(db, copy.id, stored, 1.0, look=1)

        store.write(lambda db: [sync_one(db) for _ in range(count)])

    def live(self, store):
        return store.read(lambda db: copies.where(db, "status = 'live'"))

    def may_send(self, store):
        ledger = self.ledger(store)
        begun = store.write(lambda db: ledger.begin(db, self.offer(db), 2.0))
        return begun is not Declined.LATER

    def may_delete(self, store):
        """Whether a live copy whose file is confirmed missing may be deleted."""
        copy = self.live(store)[0]

        def miss(db):
            files.update(db, copy.file_id, status=FileStatus.MISSING, confirmed_at=1.0)
            copies.move(db, copy, CopyStatus.RETIRING, due_at=1.0)
            return Deletions(policies=POLICIES).begin_delete(db, copy.id, 2.0)

        return store.write(miss) is not None

    def copy_aside(self, name="aside"):
        aside = self.directory.parent / name
        with closing(sqlite3.connect(self.path)) as db:
            db.execute("VACUUM INTO ?", (str(aside),))
        return aside

    def put(self, database):
        self.remove()
        shutil.copyfile(database, self.path)

    def remove(self):
        for part in self.directory.glob("state.db*"):
            part.unlink()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "state")


def lost(store):
    return store.read(holds.is_lost)


def message(store):
    (hold,) = store.read(holds.open_holds)
    return hold.message


def assert_nothing_goes_out(home, store):
    assert lost(store)
    assert not home.may_send(store)
    if home.live(store):
        assert not home.may_delete(store)


# The instance file


@pytest.mark.row(27)
def test_a_database_that_is_gone_holds_everything_and_the_message_leads_to_adopt(home):
    with home.opened() as store:
        home.sync(store)
        ours = store.instance
    home.remove()
    for _ in range(2):  # a restart is no remedy
        with home.opened() as store:
            assert_nothing_goes_out(home, store)
            assert store.instance == ours
            assert "is gone" in message(store)
            assert "syncd adopt" in message(store)


@pytest.mark.row(30)
def test_an_older_database_that_was_put_back_holds_everything(home):
    with home.opened() as store:
        home.sync(store)
    yesterday = home.copy_aside()
    with home.opened() as store:
        home.sync(store)
    home.put(yesterday)
    with home.opened() as store:
        assert_nothing_goes_out(home, store)
        assert "older" in message(store)


@pytest.mark.row(30)
def test_the_same_database_put_back_is_no_loss(home):
    with home.opened() as store:
        home.sync(store)
    home.put(home.copy_aside())
    with home.opened() as store:
        assert not lost(store)
        assert home.may_send(store)


@pytest.mark.long
@pytest.mark.row(30)
@pytest.mark.parametrize("unseen", [0, 50])
def test_no_database_from_before_an_adoption_passes_for_the_one_after_it(home, unseen):
    with home.opened() as store:
        home.sync(store)
        store.remember()
        told = (home.directory / instance.FILE_NAME).read_bytes()
        home.sync(store, unseen)
    before = home.copy_aside()
    # Killed within the minute: the file has not heard of the last few.
    (home.directory / instance.FILE_NAME).write_bytes(told)
    home.remove()
    with home.opened() as store:
        store.write(lambda db: store.recovered(db, 3.0))
        assert not lost(store)
    home.put(before)
    with home.opened() as store:
        assert_nothing_goes_out(home, store)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"id": 1}', '{"id": "a", "progress": "x"}'),
        '{"id": "a", "progress": 1, "bound_to": []}',
    ],
)
def test_an_instance_file_that_cannot_be_read_is_written_anew(home, text):
    with home.opened() as store:
        home.sync(store)
        ours = store.instance
    (home.directory / instance.FILE_NAME).write_text(text)
    with home.opened() as store:
        assert not lost(store)
    known = instance.read(home.directory)
    assert (known.id, known.progress > 0) == (ours, True)


def test_a_database_without_its_instance_file_is_believed(home):
    with home.opened() as store:
        home.sync(store)
    (home.directory / instance.FILE_NAME).unlink()
    with home.opened() as store:
        assert not lost(store)
        assert home.may_send(store)


def test_the_database_of_another_instance_is_refused(home, tmp_path):
    other = Home(tmp_path / "other")
    for one in (home, other):
        with one.opened() as store:
            one.sync(store)
    home.put(other.path)
    with pytest.raises(ForeignStateError, match=r"remove instance\.json"):
        home.opened()


def test_progress_only_grows_and_the_file_tells_it(home):
    seen = []
    with home.opened() as store:
        for _ in range(3):
            home.sync(store)
            store.remember()
            seen.append(instance.read(home.directory).progress)
        store.write(lambda db: db.conn.execute("DELETE FROM history"))
        store.remember()
    seen.append(instance.read(home.directory).progress)
    assert seen == sorted(seen)
    assert seen[0] < seen[1] < seen[2]


@pytest.mark.row(27)
def test_what_a_ledger_belonged_to_outlives_it(home):
    bound_to = {"base_url": "https://one", "organization": "o", "key_mark": "0123abcd"}
    with home.opened() as store:
        store.bind("base_url", "https://one", advice="")
        store.set_fact("organization", "o")
        store.set_fact("key_mark", "0123abcd")
        home.sync(store)
    assert instance.read(home.directory).bound_to == bound_to
    home.remove()
    with home.opened() as store:
        assert {key: store.fact(key) for key in bound_to} == bound_to
        with pytest.raises(ForeignStateError, match="belongs to base url https://one"):
            store.bind("base_url", "https://another", advice="")


def test_an_instance_file_of_before_it_told_what_it_belongs_to_is_read(home):
    with home.opened() as store:
        home.sync(store)
        ours = store.instance
    (home.directory / instance.FILE_NAME).write_text(json.dumps({"id": ours, "progress": 1}))
    home.remove()
    with home.opened() as store:
        assert (store.instance, lost(store)) == (ours, True)


def test_while_the_ledger_has_lost_something_the_file_keeps_what_was_known(home):
    with home.opened() as store:
        home.sync(store, 3)
    known = instance.read(home.directory)
    home.remove()
    with home.opened() as store:
        store.remember()
    assert instance.read(home.directory) == known


@pytest.mark.row(29)
def test_a_state_directory_that_was_moved_just_works(home, tmp_path):
    with home.opened() as store:
        home.sync(store)
        ours = store.instance
    home.directory.rename(tmp_path / "elsewhere")
    moved = Home(tmp_path / "elsewhere")
    with moved.opened() as store:
        assert (store.instance, lost(store)) == (ours, False)
        assert [copy.status for copy in moved.live(store)] == ["live"]


def test_becoming_an_earlier_instance_holds_until_the_ledger_is_rebuilt(home):
    with home.opened() as store:
        assert store.become("0123abcd", 1.0)
        assert_nothing_goes_out(home, store)
    with home.opened() as store:
        assert store.instance == "0123abcd"
        assert lost(store)
        assert store.become("0123abcd", 1.0), "an adoption that was cut short is repeated"


def test_an_end_in_the_middle_of_becoming_leaves_nothing_that_contradicts_itself(home, monkeypatch):
    with home.opened() as store:
        monkeypatch.setattr(store, "write", lambda _: (_ for _ in ()).throw(StateError("cut")))
        with pytest.raises(StateError, match="cut"):
            store.become("0123abcd", 1.0)
        monkeypatch.undo()
        store.write(lambda db: set_fact(db, "instance", "0123abcd"))
        store.instance = ""  # as after a kill: nothing is remembered at the end
    with home.opened() as store:
        assert store.instance == "0123abcd"


def test_who_has_sent_something_becomes_nobody_else(home):
    with home.opened() as store:
        home.sync(store)
        ours = store.instance
        assert not store.become("0123abcd", 1.0)
    with home.opened() as store:
        assert (store.instance, lost(store)) == (ours, False)


# Backups


def backup_names(home):
    return sorted(path.name for path in (home.directory / "backups").iterdir())


def test_a_backup_is_made_daily_and_two_are_kept(home):
    with home.opened() as store:
        home.sync(store)
        for hour in range(0, 24 * 4, 6):
            store.back_up_if_due(hour * 3600.0)
    assert backup_names(home) == ["state-19700103T000000Z.db", "state-19700104T000000Z.db"]
    for path in (home.directory / "backups").iterdir():
        assert schema.is_whole(path)
        assert path.stat().st_mode & 0o777 == 0o600


def test_without_room_no_backup_is_made_and_it_is_warned_of(home, monkeypatch, caplog):
    with home.opened() as store:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100))
        store.back_up_if_due(DAY)
    assert backup_names(home) == []
    assert "too little room" in caplog.text


@pytest.mark.long
def test_a_ledger_that_has_lost_something_displaces_no_good_backup(home):
    with home.opened() as store:
        home.sync(store)
        store.back_up_if_due(0.0)
    home.remove()
    with home.opened() as store:
        store.back_up_if_due(10 * DAY)
    assert backup_names(home) == ["state-19700101T000000Z.db"]


# Damage


def flip(path, position):
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0xFF]))


@pytest.fixture
def whole(home):
    """A state with a backup, something after it, and no WAL."""
    with home.opened() as store:
        home.sync(store, 40)
        store.back_up_if_due(DAY)
        home.sync(store, 2)
    return home


def facts(store):
    """Return what a mutation goes by: which object is live for which path, with which content."""
    rows = "SELECT path, file_uuid, copies.sha256 FROM copies JOIN files ON files.id = file_id"
    return store.read(lambda db: {tuple(row) for row in db.conn.execute(rows)})


@pytest.mark.long
@pytest.mark.row(26)
def test_a_flipped_byte_is_noticed_before_anything_is_sent_or_is_harmless(whole, tmp_path):
    """Harmless: the ledger says of every object what it said, or of one of them something else.

    A flip within a value leaves the database whole: no check of SQLite's sees it.
    """
    with whole.opened() as store:
        told = facts(store)
    intact = tmp_path / "intact"
    shutil.copytree(whole.directory, intact)
    size = whole.path.stat().st_size
    chance = random.Random(26)
    noticed = harmless = 0
    for _ in range(FLIPS):
        shutil.rmtree(whole.directory)
        shutil.copytree(intact, whole.directory)
        flip(whole.path, position := chance.randrange(size))
        try:
            opened = whole.opened(2 * DAY)
        except StateError:
            noticed += 1
            continue
        with opened as store:
            if lost(store):
                noticed += 1
                assert not whole.may_send(store)
                kept = list(whole.directory.glob("damaged-*/state.db"))
                assert len(kept) <= 1
                continue
            try:
                said, live = facts(store), whole.live(store)
            except sqlite3.OperationalError:
                # Text that is none any more: whoever reads the row stops everything.
                assert store.failed
                noticed += 1
                continue
            harmless += 1
            assert len(said ^ told) <= 2, position
            assert len(live) >= 41, position
    assert noticed + harmless == FLIPS
    assert noticed > 0


@pytest.mark.row(26)
def test_the_newest_whole_backup_takes_the_place_of_a_damaged_database(whole):
    flip(whole.path, 4096)
    with whole.opened(2 * DAY) as store:
        assert_nothing_goes_out(whole, store)
        assert "damaged" in message(store)
        assert len(whole.live(store)) == 39, "40 less the one whose deletion was tried"
    (aside,) = whole.directory.glob("damaged-*")
    assert (aside / "state.db").stat().st_size > 4096


@pytest.mark.row(26)
def test_a_damaged_backup_is_passed_over(whole):
    with whole.opened() as store:
        store.back_up_if_due(3 * DAY)
    newest = whole.directory / "backups" / backup_names(whole)[-1]
    flip(newest, 4096)
    flip(whole.path, 4096)
    with whole.opened(4 * DAY) as store:
        assert backup_names(whole)[0] in message(store)
        assert len(whole.live(store)) == 40


@pytest.mark.row(26)
@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"SQLite format 3\0" + b"\xff" * 84])
def test_a_lost_header_is_damage_where_the_state_was_ours(whole, damage):
    content = whole.path.read_bytes()
    whole.path.write_bytes(damage + content[len(damage) :] if damage else b"")
    with whole.opened(2 * DAY) as store:
        assert_nothing_goes_out(whole, store)


@pytest.mark.row(26)
def test_damage_without_a_backup_leaves_an_empty_ledger_that_is_held(whole):
    shutil.rmtree(whole.directory / "backups")
    flip(whole.path, 4096)
    with whole.opened(2 * DAY) as store:
        assert_nothing_goes_out(whole, store)
        assert "without a backup" in message(store)
        assert whole.live(store) == []


@pytest.mark.long
@pytest.mark.row(26)
@pytest.mark.parametrize("kept", [0, 10, 5000, -1])
def test_a_truncated_log_loses_no_more_than_its_end_and_that_is_held(whole, tmp_path, kept):
    with whole.opened() as store:
        whole.sync(store, 5)
        store.remember()
        snapshot = tmp_path / "snapshot"
        shutil.copytree(whole.directory, snapshot)
        progress = store.read(instance.progress)
    shutil.rmtree(whole.directory)
    shutil.copytree(snapshot, whole.directory)
    log = whole.path.with_name("state.db-wal")
    with log.open("r+b") as file:
        file.truncate(kept if kept >= 0 else log.stat().st_size + kept)
    with whole.opened(2 * DAY) as store:
        assert store.read(instance.progress) < progress
        assert_nothing_goes_out(whole, store)


def spoil(home, statement, *values):
    with closing(sqlite3.connect(home.path)) as db, db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.execute("DROP TRIGGER copies_arrows")
        assert db.execute(statement, values).rowcount


NO_TEXT = "CAST(x'61ff62' AS TEXT)"


@pytest.mark.long
@pytest.mark.row(26)
@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE holds SET message = {NO_TEXT}",
        "UPDATE holds SET first = '{\"a.txt\"]'",
        "UPDATE holds SET commands = ''",
        f"UPDATE folders SET name = {NO_TEXT}",
        "INSERT INTO parts (folder, path, filesystem, inode) VALUES ('f', x'', 'uuid 1', '12x')",
        f"UPDATE service SET value = {NO_TEXT} WHERE key = 'instance'",
        "UPDATE service SET value = '0123abcx' WHERE key = 'instance'",
        f"UPDATE copies SET token = {NO_TEXT} WHERE status = 'retiring'",
        "UPDATE copies SET file_uuid = replace(file_uuid, '4', 'g') WHERE status = 'retiring'",
        "UPDATE copies SET evidence = '{' WHERE status = 'retiring'",
        "UPDATE copies SET sent_at = 1e300 WHERE status = 'retiring'",
        "UPDATE copies SET status = 'libe' WHERE id = 3",
        "INSERT INTO decisions (file_id, verdict) VALUES (3, 'kebt')",
    ],
)
def test_a_value_that_is_none_any_more_is_noticed_before_anything_is_sent(whole, statement):
    with whole.opened() as store:
        copy = whole.live(store)[0]
        store.write(lambda db: copies.move(db, copy, CopyStatus.RETIRING, due_at=1.0))
        what = {"stops": "deletions", "scope": "f", "reason": "many_missing", "now": 0.0}
        store.write(lambda db: holds.place(db, message="held", first=["a.txt"], **what))
    spoil(whole, statement)
    with whole.opened(2 * DAY) as store:
        assert_nothing_goes_out(whole, store)
        assert "damaged" in message(store)
        assert len(list(whole.directory.glob("damaged-*/state.db"))) == 1


@pytest.mark.row(35)
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_a_time_that_a_service_may_tell_is_no_damage(whole, moment):
    with whole.opened() as store:
        copy = whole.live(store)[0]
        store.write(lambda db: copies.move(db, copy, CopyStatus.RETIRING, due_at=1.0))
    spoil(whole, "UPDATE copies SET sent_at = ?", datetime.fromisoformat(moment).timestamp())
    with whole.opened() as store:
        assert not lost(store)


@pytest.mark.row(26)
@pytest.mark.parametrize("through", ["a reader", "the writer"])
def test_a_row_that_cannot_be_read_stops_everything_and_the_next_start_mends_it(whole, through):
    spoil(whole, f"UPDATE copies SET remote_file_path = {NO_TEXT} WHERE id = 3")
    with whole.opened(2 * DAY) as store:
        assert not lost(store), "to read all of a million files at each start would take too long"
        reads = store.read if through == "a reader" else store.write
        with pytest.raises((sqlite3.OperationalError, StateError), match="decode"):
            reads(lambda db: copies.get(db, 3))
        assert store.failed
        with pytest.raises(StateError, match="damaged"):
            store.write(lambda db: set_fact(db, "sent", "yes"))
    with whole.opened(3 * DAY) as store:
        assert_nothing_goes_out(whole, store)
        assert "took its place" in message(store)
        assert len(whole.live(store)) == 39, "40 less the one whose deletion was tried"
    with whole.opened(4 * DAY) as store:
        assert lost(store)
        assert len(list(whole.directory.glob("damaged-*"))) == 1, "mended once"


@pytest.mark.row(26)
def test_a_suspicion_that_is_not_confirmed_costs_nothing_but_a_look(whole):
    with whole.opened() as store, pytest.raises(sqlite3.OperationalError):
        store.read(lambda db: db.conn.execute(f"SELECT {NO_TEXT}").fetchone())
    with whole.opened() as store:
        assert not lost(store)
        assert not store.failed
        assert whole.may_send(store)
    assert not (whole.directory / "suspect").exists()


def flip_uuid(home, file_uuid):
    """Change a copy's uuid in its row, and not in the index, into another good one."""
    text, content = file_uuid.encode(), home.path.read_bytes()
    at = -1
    while (at := content.index(text, at + 1)) >= 0:
        home.path.write_bytes(content[:at] + b"f" + content[at + 1 :])
        with closing(sqlite3.connect(home.path)) as db:
            row = db.execute("SELECT file_uuid FROM copies NOT INDEXED WHERE id = 3").fetchone()
        if row == ("f" + file_uuid[1:],):
            return


@pytest.mark.row(26)
def test_what_is_damaged_is_found_within_a_day_and_displaces_no_backup(whole):
    with whole.opened() as store:
        file_uuid = store.read(lambda db: copies.get(db, 3)).file_uuid
    flip_uuid(whole, file_uuid)
    with whole.opened(2 * DAY) as store:
        before = backup_names(whole)
        with pytest.raises(StateError, match=r"damaged: .*copies_uuid"):
            store.back_up_if_due(3 * DAY)
        assert store.failed
    assert backup_names(whole) == before
    with whole.opened(3 * DAY) as store:
        assert_nothing_goes_out(whole, store)
        assert store.read(lambda db: copies.get(db, 3)).file_uuid == file_uuid


def test_a_backup_of_an_older_schema_is_whole(tmp_path):
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        schema.migrations.apply(Database(connection), stop_before="what_is_noticed")
    assert schema.is_whole(path)


def test_a_backup_that_was_cut_short_is_no_backup(whole):
    directory = whole.directory / "backups"
    (directory / "state-20990101T000000Z.db.new").write_bytes(b"half")
    assert all(path.name.endswith("Z.db") for path in backups._all(whole.directory))


def test_a_wal_damaged_in_its_middle_is_a_loss(whole):
    with whole.opened() as store:
        whole.sync(store, 5)
        store.remember()
        content = {p.name: p.read_bytes() for p in whole.directory.glob("state.db*")}
        told = json.loads((whole.directory / instance.FILE_NAME).read_text())
    whole.remove()
    for name, data in content.items():
        (whole.directory / name).write_bytes(data)
    flip(whole.path.with_name("state.db-wal"), 5000)
    with whole.opened(2 * DAY) as store:
        assert store.read(instance.progress) < told["progress"]
        assert_nothing_goes_out(whole, store)


@pytest.mark.row(27)
@pytest.mark.parametrize("text", ["", "{", "\0" * 40])
def test_an_unreadable_instance_file_beside_a_new_database_tells_of_a_loss(home, text):
    with home.opened() as store:
        home.sync(store)
    home.remove()
    (home.directory / instance.FILE_NAME).write_text(text)
    with home.opened() as store:
        assert_nothing_goes_out(home, store)
        assert "is gone" in message(store)


@pytest.mark.row(26)
def test_an_end_between_a_restored_backup_and_its_hold_is_noticed(home, monkeypatch):
    with home.opened() as store:
        home.sync(store)
        store.back_up_if_due(0)
    # The header is lost, and power fails as soon as the backup is in its place.
    with (home.directory / "state.db").open("r+b") as file:
        file.write(b"\0" * 100)
    real = backups.put_back

    def put_back_and_die(*arguments, **more):
        real(*arguments, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(backups, "put_back", put_back_and_die)
        with home.opened():
            pass
    with home.opened() as store:
        assert_nothing_goes_out(home, store)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_a_state_directory_on_a_network_filesystem_is_refused(home, monkeypatch, kind):
    monkeypatch.setattr("syncd.state.store.kind_of", lambda _: kind)
    with (
        pytest.raises(StateError, match=rf"network filesystem \({kind}\).*local disk"),
        home.opened(),
    ):
        pass


def test_a_state_directory_that_is_a_file_is_refused_and_left_alone(home):
    home.directory.write_text("a letter to my aunt")
    with pytest.raises(StateError, match=r"is a file, or lies beneath one; set"), home.opened():
        pass
    assert home.directory.read_text() == "a letter to my aunt"


def test_what_another_user_left_in_the_state_directory_is_told_with_the_command(home, monkeypatch):
    def closed(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("syncd.state.store.os.open", closed)
        with pytest.raises(StateError, match=rf"Permission denied.*chown -R \d+ {home.directory}"):
            Store(home.directory).open(0.0)
