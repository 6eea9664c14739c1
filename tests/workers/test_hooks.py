import json
from types import SimpleNamespace

import pytest

from syncd import commands
from syncd.exceptions import StateWriteError
from syncd.files_api import StopFlag
from syncd.outbound import UndeliveredError
from syncd.state import copies, history, hooks
from syncd.state.backoff import LONGEST_SECONDS
from syncd.state.copies import NEWEST_KEPT
from syncd.state.manual_retry import Retrying
from syncd.workers.hooks import Hook


class Taker:
    """Takes documents, but none of the paths that it `refuses`."""

    def __init__(self):
        self.taken, self.refuses, self.is_down = [], set(), False

    def deliver(self, document, *, seconds, stop, variables):
        known = json.loads(document)
        if self.is_down or known["path"] in self.refuses:
            raise UndeliveredError(f"no {known['path']}")
        self.taken.append((known["path"], known["file_uuid"]))


class Hooks:
    """Hooks over a real table; time is ours."""

    def __init__(self, store):
        self.store, self.now, self.hooks = store, 1_000_000.0, {}

    def add(self, *names, on="synced"):
        self.store.write(hooks.configure, {*self.hooks, *names})
        for name in names:
            self.hooks[name] = Hook(
                name=name,
                on=on,
                target=Taker(),
                timeout_seconds=5,
                store=self.store,
                stop=StopFlag(),
                clock=lambda: self.now,
            )
        return [self.hooks[name].target for name in names]

    def restart(self):
        known, self.hooks = self.hooks, {}
        for name, hook in known.items():
            [taker] = self.add(name, on=hook.on)
            taker.__dict__.update(hook.target.__dict__)

    def happen(self, *lines, event="synced"):
        told = [history.Line(self.now, "f", path.encode(), event, uuid) for path, uuid in lines]
        self.store.write(history.add_all, told)

    def run(self, seconds=0.0):
        """Let every hook do what is due, for so many seconds."""
        until = self.now + seconds
        while True:
            waits = [hook.step() for hook in self.hooks.values()]
            if 0.0 in waits:
                continue
            self.now += min((wait for wait in waits if wait is not None), default=1e9)
            if self.now > until:
                self.now = until
                return

    def failing(self):
        return {hook["name"]: hook for hook in self.store.read(hooks.failing)}

    def aside(self):
        return self.store.read(
            lambda db: [row["path"] for row in db.conn.execute("SELECT path FROM hook_paths")]
        )


@pytest.fixture
def world(store):
    return Hooks(store)


def test_a_hook_hears_of_what_happens_after_it_was_configured_and_of_its_kind_alone(world):
    world.happen(("old", "u0"))
    [first] = world.add("first")
    [failed] = world.add("failed", on="failed")
    world.happen(("a", "u1"), ("b", "u2"))
    world.happen(("c", None), event="failed")
    world.happen(("d", "u3"), event="adopted")
    world.run()
    assert first.taken == [("a", "u1"), ("b", "u2")]
    assert failed.taken == [("c", None)]
    world.run()
    world.happen(("a", "u4"))
    world.restart()
    world.run()
    assert world.hooks["first"].target.taken[2:] == [("a", "u4")]


def test_retry_has_hooks_that_fail_tried_at_once(world):
    [taker] = world.add("one")
    taker.is_down = True
    world.happen(("a", "u1"))
    world.run(100)
    taker.is_down = False
    gate = SimpleNamespace(quota_used_up=False, try_now=lambda: None)
    parts = SimpleNamespace(store=world.store, gate=gate, retrying=Retrying(policies={}))
    assert list(commands.retry(parts, {})) == [{"tried": 0}]
    world.run()
    assert taker.taken == [("a", "u1")]


def test_a_file_that_a_hook_does_not_take_holds_up_no_other_file_and_no_other_hook(world):
    one, two = world.add("one", "two")
    one.refuses = {"bad"}
    world.happen(("bad", "u1"), ("good", "u2"), ("bad", "u3"), ("last", "u4"))
    world.run(3)
    assert one.taken == [("good", "u2"), ("last", "u4")]
    assert two.taken == [("bad", "u1"), ("good", "u2"), ("bad", "u3"), ("last", "u4")]
    assert world.failing().keys() == {"one"}
    assert world.failing()["one"]["error"] == "no bad"
    assert world.failing()["one"]["next_at"] <= world.now + LONGEST_SECONDS
    world.restart()
    one = world.hooks["one"].target
    one.refuses = set()
    world.happen(("bad", "u5"))
    world.run(LONGEST_SECONDS)
    # In the order of its path, and each once.
    assert one.taken[2:] == [("bad", "u1"), ("bad", "u3"), ("bad", "u5")]
    assert world.failing() == {}
    assert world.aside() == []


def test_a_hundred_files_that_a_hook_does_not_take_hold_up_no_other(world):
    [taker] = world.add("one")
    bad = [(f"bad{number}", f"b{number}") for number in range(120)]
    taker.refuses = {path for path, _ in bad}
    world.happen(*bad, ("good", "u1"))
    world.run(3 * 3600)
    assert taker.taken == [("good", "u1")]
    assert len(world.aside()) == 120


def test_a_target_that_is_down_keeps_its_queue_bounded_and_loses_nothing(world, monkeypatch):
    monkeypatch.setattr(hooks, "MOST_ASIDE", 10)
    [taker] = world.add("down")
    taker.is_down = True
    lines = [(f"{number:03}", f"u{number}") for number in range(25)]
    world.happen(*lines)
    world.run(3_000)
    assert len(world.aside()) <= hooks.MOST_ASIDE
    assert world.failing()["down"]["next_at"] <= world.now + LONGEST_SECONDS
    taker.is_down = False
    world.run(2 * LONGEST_SECONDS)
    assert sorted(taker.taken) == lines
    assert world.failing() == {}


def test_many_files_that_are_not_taken_let_the_others_through(world):
    [taker] = world.add("picky")
    taker.refuses = {f"bad{number}" for number in range(8)}
    world.happen(*[(path, path) for path in sorted(taker.refuses)])
    world.run(600)
    for number in range(5):
        world.happen((f"good{number}", f"u{number}"))
        world.run(LONGEST_SECONDS)
    assert taker.taken == [(f"good{number}", f"u{number}") for number in range(5)]


def test_a_hook_that_is_configured_no_more_leaves_nothing_behind(world, store):
    world.add("gone")[0].is_down = True
    [stays] = world.add("stays")
    world.happen(("a", "u1"))
    world.run()
    del world.hooks["gone"]
    store.write(hooks.configure, {"stays"})
    assert world.aside() == []
    assert store.read(hooks.names) == {"stays"}
    assert world.failing() == {}
    # It is a new hook if it comes back.
    [back] = world.add("gone")
    world.run()
    assert (back.taken, stays.taken) == ([], [("a", "u1")])


def test_what_adopt_takes_over_is_not_told_anew(world):
    [taker] = world.add("told")
    world.happen(("clip.mp4", "u1"), event="adopted")
    # A video goes live once the service was asked for it.
    world.happen(("clip.mp4", "u1"), ("new.mp4", "u2"))
    world.run()
    assert taker.taken == [("new.mp4", "u2")]


def test_nothing_is_told_that_cannot_be_recorded(world, store, monkeypatch):
    [taker] = world.add("full")
    world.happen(("a", "u1"))

    def no_commit(*_args, **_more):
        raise StateWriteError("the disk is full")

    with monkeypatch.context() as full:
        full.setattr(store.writer, "in_trouble", True)
        full.setattr(type(store), "write", no_commit)
        with pytest.raises(StateWriteError):
            world.run()
        assert taker.taken == []
    world.run()
    assert taker.taken == [("a", "u1")]


def test_what_the_history_has_forgotten_is_not_waited_for(world):
    [taker] = world.add("late")
    taker.refuses = {"busy"}
    world.happen(("busy", "first"))
    world.run()
    assert len(world.aside()) == 1
    world.happen(*[("busy", f"u{number}") for number in range(NEWEST_KEPT)])
    taker.refuses = set()
    world.run(600)
    assert [uuid for _, uuid in taker.taken] == [f"u{number}" for number in range(NEWEST_KEPT)]
    assert world.aside() == []


def test_a_hook_gets_the_row_of_the_copy_that_it_is_told_of(shop, world, monkeypatch):
    rows = []
    for on in ("synced", "failed", "deleted"):
        world.add(on, on=on)
        taker = world.hooks[on].target
        monkeypatch.setattr(taker, "deliver", lambda text, **_: rows.append(json.loads(text)))
    shop.prove_echo()
    shop.drop("a", b"x")
    shop.upload()
    old = shop.copy("a")
    shop.drop("a", b"xyz")
    shop.upload()
    shop.now += 60
    shop.deleter.step()
    new = shop.copy("a")
    shop.store.write(history.add, shop.file("a"), "failed", shop.now, detail="it is too large")
    world.run()
    synced = [row for row in rows if row["event"] == "synced"]
    assert [(row["file_uuid"], row["size"], row["sha256"]) for row in synced] == [
        (copy.file_uuid, copy.size, copy.sha256) for copy in (old, new)
    ]
    [failed] = [row for row in rows if row["event"] == "failed"]
    assert (failed["path"], failed["error"]) == ("a", "it is too large")
    [deleted] = [row for row in rows if row["event"] == "deleted"]
    assert (deleted["file_uuid"], deleted["size"]) == (old.file_uuid, 1)
    assert deleted["reason"] == "a newer copy is live"
    ids = {row["event_id"] for row in rows}
    assert len(ids) == 4
    assert all(name.startswith(f"{shop.store.instance}-") for name in ids)


def test_an_object_that_never_got_its_content_is_told_to_nobody(shop, world):
    [taker] = world.add("deleted", on="deleted")
    shop.prove_echo()
    shop.drop("a", b"x")
    shop.upload()
    copy = shop.copy("a")
    shop.store.write(lambda db: copies.update(db, copy.id, stored_at=None, live_at=None))
    world.happen(("a", copy.file_uuid), ("b", "of a copy that is forgotten"), event="deleted")
    world.run()
    assert taker.taken == [("b", "of a copy that is forgotten")]


def test_a_clock_that_is_set_back_lets_no_hook_wait_for_it(world):
    [taker] = world.add("skewed")
    taker.is_down = True
    world.happen(("a", "u1"))
    world.run()
    world.now -= 86_400
    taker.is_down = False
    world.run(LONGEST_SECONDS)
    assert taker.taken == [("a", "u1")]
