"""A ledger that has lost something sends and deletes nothing; nor does one that is damaged."""

import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing

import pytest

from syncd.disk import Fingerprint
from syncd.exceptions import DamagedStateError, ForeignStateError, StateError
from syncd.state import copies, files, holds
from syncd.state.database import backups, instance, schema
from syncd.state.database.store import Store, set_fact
from syncd.state.deletions import Deletions
from syncd.state.ledger import Declined, Ledger, Offer, Stored
from syncd.state.lifecycle import CopyStatus, FileStatus
from syncd.state.planner import Policy

DAY = 86_400.0
#: Positions at which a byte is flipped; SYNCD_FLIPS=1000 is the long form.
FLIPS = int(os.environ.get("SYNCD_FLIPS", "40"))
POLICIES = {"f": Policy()}
TOKENS = "SELECT token FROM copies INDEXED BY copies_token WHERE token > ''"


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
            return Deletions(policies=POLICIES).begin_delete(db, [copy], 2.0)

        return store.write(miss) != []

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
    return store.read(holds.is_ledger_incomplete)


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
    bound_to = {
        "base_url": "https://one",
        "sandbox": "False",
        "organization": "o",
        "key_mark": "0123abcd",
    }
    with home.opened() as store:
        store.bind("https://one", 0.0, advice="")
        store.set_fact("organization", "o")
        store.set_fact("key_mark", "0123abcd")
        home.sync(store)
    assert instance.read(home.directory).bound_to == bound_to
    home.remove()
    with home.opened() as store:
        assert {key: store.fact(key) for key in bound_to} == bound_to
        with pytest.raises(ForeignStateError, match="belongs to base url https://one"):
            store.bind("https://another", 0.0, advice="")


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
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert path.stat().st_mode & 0o777 == 0o600


def test_without_room_no_backup_is_made_and_it_is_warned_of(home, monkeypatch, caplog):
    with home.opened() as store:
        home.sync(store)
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


def damage(path):
    """Overwrite the second page: the database cannot be opened without being noticed."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 4096)


def restore(error):
    """Type the command that the message names."""
    subprocess.run(re.search(r"`(mkdir [^`]+)`", str(error))[1], shell=True, check=True)


@pytest.mark.long
@pytest.mark.row(26)
def test_a_flipped_byte_is_refused_or_changes_no_more_than_one_row(whole, tmp_path):
    """A flip within a value leaves the database whole: no check of SQLite's sees it."""
    with whole.opened() as store:
        told = facts(store)
    intact = tmp_path / "intact"
    shutil.copytree(whole.directory, intact)
    size = whole.path.stat().st_size
    chance = random.Random(26)
    refused = harmless = 0
    for _ in range(FLIPS):
        shutil.rmtree(whole.directory)
        shutil.copytree(intact, whole.directory)
        flip(whole.path, position := chance.randrange(size))
        try:
            opened = whole.opened(2 * DAY)
        except StateError:
            refused += 1
            continue
        with opened as store:
            try:
                said, live = facts(store), whole.live(store)
            except sqlite3.OperationalError:
                refused += 1
                continue
            harmless += 1
            assert lost(store) or len(said ^ told) <= 2, position
            assert lost(store) or len(live) >= 41, position
    assert refused + harmless == FLIPS
    assert refused > 0


@pytest.mark.row(26)
def test_a_damaged_database_is_refused_untouched_until_its_backup_is_restored(whole):
    damage(whole.path)
    content = whole.path.read_bytes()
    for _ in range(2):
        with pytest.raises(DamagedStateError, match=r"damaged \(Page 2: .*nothing is") as refusal:
            whole.opened(2 * DAY)
    assert whole.path.read_bytes() == content
    restore(refusal.value)
    with whole.opened(2 * DAY) as store:
        assert "older" in message(store)
        assert len(whole.live(store)) == 40
        assert_nothing_goes_out(whole, store)
    (aside,) = whole.directory.glob("damaged-*")
    assert (aside / "state.db").read_bytes() == content


@pytest.mark.row(26)
@pytest.mark.parametrize("is_met", [False, True], ids=["at the start", "while running"])
def test_a_backup_as_new_as_the_instance_file_is_held_once_it_is_restored(whole, is_met):
    with whole.opened(2 * DAY) as store:
        store.back_up_if_due(2 * DAY)
        store.write(lambda db: set_fact(db, "later", "than the backup"))
        if is_met:
            damage_index(whole, "copies_token")
            with pytest.raises(sqlite3.DatabaseError, match="malformed"):
                store.read(lambda db: db.conn.execute(TOKENS).fetchall())
        else:
            # Killed: the instance file is not written any more.
            store.writer.failed = True
    if not is_met:
        damage(whole.path)
    with pytest.raises(DamagedStateError) as refusal:
        whole.opened(2 * DAY)
    restore(refusal.value)
    with whole.opened(2 * DAY) as store:
        assert "older" in message(store)
        assert_nothing_goes_out(whole, store)


@pytest.mark.row(26)
def test_the_newest_backup_is_named(whole):
    with whole.opened() as store:
        store.back_up_if_due(3 * DAY)
    damage(whole.path)
    with pytest.raises(DamagedStateError, match=backup_names(whole)[-1]):
        whole.opened(4 * DAY)


@pytest.mark.row(26)
@pytest.mark.parametrize("header", [b"\0" * 100, b"SQLite format 3\0" + b"\xff" * 84])
def test_a_lost_header_is_damage_where_the_state_was_ours(whole, header):
    whole.path.write_bytes(header + whole.path.read_bytes()[len(header) :])
    with pytest.raises(DamagedStateError, match="lost its header"):
        whole.opened(2 * DAY)


@pytest.mark.row(26)
def test_a_database_that_was_emptied_is_a_loss(whole):
    whole.path.write_bytes(b"")
    with whole.opened(2 * DAY) as store:
        assert_nothing_goes_out(whole, store)


@pytest.mark.row(26)
def test_damage_without_a_backup_leads_to_an_empty_ledger_that_is_held(whole):
    shutil.rmtree(whole.directory / "backups")
    damage(whole.path)
    with pytest.raises(DamagedStateError, match="there is no backup") as refusal:
        whole.opened(2 * DAY)
    restore(refusal.value)
    with whole.opened(2 * DAY) as store:
        assert_nothing_goes_out(whole, store)
        assert "is gone" in message(store)
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


def damage_index(home, name):
    """Overwrite the root page of an index under a running store, which has it cached."""
    with closing(sqlite3.connect(home.path)) as db, db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [name]).fetchone()
        db.execute("UPDATE service SET value = value")
        db.commit()
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    with home.path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)


@pytest.mark.row(26)
@pytest.mark.parametrize("through", ["a reader", "the writer"])
def test_damage_that_is_met_while_running_stops_everything(whole, through):
    with whole.opened(2 * DAY) as store:
        reads = store.read if through == "a reader" else store.write
        damage_index(whole, "copies_token")
        with pytest.raises((sqlite3.DatabaseError, StateError), match="malformed"):
            reads(lambda db: db.conn.execute(TOKENS).fetchall())
        assert store.failed
        with pytest.raises(StateError, match=r"damaged .*adopt"):
            store.write(lambda db: set_fact(db, "sent", "yes"))
    with pytest.raises(DamagedStateError):
        whole.opened(2 * DAY)


@pytest.mark.row(26)
def test_damage_is_found_within_a_day_and_displaces_no_backup(whole):
    with whole.opened(2 * DAY) as store:
        before = backup_names(whole)
        damage_index(whole, "copies_token")
        with pytest.raises(DamagedStateError, match="Page "):
            store.back_up_if_due(3 * DAY)
        assert store.failed
    assert backup_names(whole) == before


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


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
def test_a_state_directory_on_a_network_filesystem_is_refused(home, monkeypatch, kind):
    monkeypatch.setattr("syncd.state.database.directory.kind_of", lambda _: kind)
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
        patch.setattr("syncd.state.database.directory.os.open", closed)
        with pytest.raises(StateError, match=rf"Permission denied.*chown -R \d+ {home.directory}"):
            Store(home.directory).open(0.0)
