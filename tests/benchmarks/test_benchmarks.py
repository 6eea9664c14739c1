"""The parts of the benchmark runner: a lost file, a weak commit or a missed target is seen."""

import io
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tests.benchmarks import __main__ as runner, table
from tests.benchmarks.files import Files
from tests.benchmarks.measure import (
    BrokenError,
    Figure,
    Measure,
    Sides,
    SkippedError,
    at_least,
    at_most,
    run,
)
from tests.benchmarks.measures.commits import read_trace
from tests.benchmarks.sink import Hasher, Store, Stored, api

FASTER = Figure("files/s", "rate", "peer", at_least(2, 3))


def rows_of(sides, *figures, trees=("syncd",), rounds=3):
    @contextmanager
    def prepare(_bench):
        yield sides

    bench = SimpleNamespace(
        trees={name: name for name in trees}, rounds=rounds, says=lambda _: None
    )
    return list(run(Measure("m", "", figures, prepare), bench))


def test_a_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_medians():
    ours, theirs = iter([100, 10, 30]), iter([50, 10, 1])
    sides = Sides(lambda _: {"rate": next(ours)}, {"peer": lambda: {"rate": next(theirs)}})
    (row,) = rows_of(sides, FASTER)
    assert (row.ours, row.peer, row.ratio, row.met) == (30, 10, 2, "yes")


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [
        (at_least(2, 3), 3, "stretch"),
        (at_least(2, 3), 2, "yes"),
        (at_least(2, 3), 1.9, "no"),
        (at_most(2, 1), 1, "stretch"),
        (at_most(2, 1), 1.5, "yes"),
        (at_most(2, 1), 2.1, "no"),
        (at_least(None, 3), 3, "stretch"),
        (at_least(None, 3), 2, ""),
    ],
)
def test_a_target_says_what_is_met(target, value, met):
    assert target.met(value) == met


def test_two_trees_run_in_turn_with_the_peer():
    order = []
    sides = Sides(
        lambda tree: order.append(tree) or {"rate": 6 if tree == "syncd" else 3},
        {"peer": lambda: order.append("peer") or {"rate": 3}},
    )
    (row,) = rows_of(sides, FASTER, trees=("syncd", "before"), rounds=2)
    assert order == ["syncd", "before", "peer"] * 2
    assert (row.ratio, row.ratio_before, row.met) == (2, 1, "yes")


def test_a_missing_peer_leaves_out_only_its_own_rows():
    def missing():
        raise SkippedError("it is not installed")

    sides = Sides(lambda _: {"rate": 5}, {"peer": missing})
    beside, alone = rows_of(sides, FASTER, Figure("files/s", "rate", None, at_least(4, 5)))
    assert (beside.ours, beside.ratio, beside.met) == (5, None, "not measured")
    assert beside.note == "peer: it is not installed"
    assert alone.met == "stretch"


@pytest.mark.parametrize("where", ["ours", "check"])
def test_a_broken_promise_fails_every_row(where):
    def lose(_tree):
        raise BrokenError("one file lost")

    sides = Sides(lambda _: {"rate": 9}, {"peer": lambda: {"rate": 1}})
    setattr(sides, where, lose)
    (row,) = rows_of(sides, FASTER)
    assert (row.met, row.note) == ("BROKEN", "one file lost")


def test_the_tree_before_may_break_a_promise_without_failing_this_one():
    def run_tree(tree):
        if tree == "before":
            raise BrokenError("one file lost")
        return {"rate": 6}

    sides = Sides(run_tree, {"peer": lambda: {"rate": 3}})
    (row,) = rows_of(sides, FASTER, trees=("syncd", "before"))
    assert (row.met, row.before, row.note) == ("yes", None, "before: one file lost")


def test_the_table_names_what_was_missed():
    sides = Sides(lambda _: {"rate": 1234.5}, {"peer": lambda: {"rate": 1234.5}})
    rows = rows_of(sides, FASTER, trees=("syncd", "before"))
    shown = io.StringIO()
    table.show(rows, shown, before=True)
    assert "1,234" in shown.getvalue()
    assert "1 (was 1)" in shown.getvalue()
    assert "0 of 1 targets met" in shown.getvalue()
    assert "missed: m (files/s)" in shown.getvalue()


def multipart(content, boundary="b"):
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode()


def sent(body, pieces, *, boundary="b", later=False):
    hasher = Hasher(boundary, len(body), later=later)
    for at in range(0, len(body), pieces):
        hasher.take(body[at : at + pieces])
    return hasher


@pytest.mark.parametrize("pieces", [1, 7, 50, 1000])
@pytest.mark.parametrize("later", [False, True])
def test_the_sink_hashes_the_file_however_it_comes(tmp_path, pieces, later):
    files = Files(tmp_path, 1, 100)
    (content,) = (path.read_bytes() for path in files.folder.iterdir())
    hasher = sent(multipart(content), pieces, later=later)
    stored = Stored("f", "", "completed")
    stored.digest = hasher.end()
    assert stored.told()["sha256"] in files.digests.values()
    assert hasher.size == 100


def test_the_sink_refuses_a_body_that_is_cut_or_ends_otherwise():
    store = Store(0, float("inf"))
    for body in (multipart(b"x" * 50)[:-1], multipart(b"x" * 50).replace(b"--b--", b"--c--")):
        answer = api(store, "POST", "/v2/files/-/uploads", "", sent(body, 10))
        assert answer.status == "400 Bad Request"
    assert store.counts["broken"] == 2


@pytest.mark.parametrize("change", ["lost", "changed", "doubled"])
def test_a_lost_changed_or_doubled_file_is_seen(change, tmp_path):
    from tests.benchmarks.service import Service

    files = Files(tmp_path, 3, 10)
    contents = [path.read_bytes() for path in sorted(files.folder.iterdir())]
    service = Service("127.0.0.1", "http", 0, 0, None)
    store = Store(0, float("inf"))
    service.objects = lambda: [stored.told() for stored in store.order]
    service.counts = lambda: store.counts

    def send(contents):
        store.clear()
        for content in contents:
            body = multipart(content)
            api(store, "POST", "/v2/files/-/uploads", "", sent(body, 1000))

    send(contents)
    service.expect(files.digests.values(), "syncd")
    send({"lost": contents[1:], "changed": [b"!", *contents[1:]], "doubled": contents * 2}[change])
    with pytest.raises(BrokenError):
        service.expect(files.digests.values(), "syncd")


def test_a_commit_without_a_sync_is_seen():
    frame = r'1 pwrite64(7</s/state.db-wal>, "\0\0\0\5\0\0\0*"..., 24, 4152) = 24'
    inner = r'1 pwrite64(7</s/state.db-wal>, "\0\0\0\5\0\0\0\0"..., 24, 32) = 24'
    page = r'1 pwrite64(7</s/state.db-wal>, "\r\0\0\0\5\0\0\0"..., 4096, 56) = 4096'
    sync, other = (f"1 fdatasync(7<{path}>) = 0" for path in ("/s/state.db-wal", "/s/state.db"))
    whole = [inner, page, frame, page, sync]
    assert read_trace("\n".join(whole * 2)) == (2, 2)
    assert read_trace("\n".join([*whole[:-1], other, *whole])) == (2, 1)


def test_each_measure_is_listed_with_its_targets(capsys):
    assert runner.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert "tls-100ms" in said
    assert "stretch 0.95" in said
    with pytest.raises(SystemExit):
        runner.main(["no-such-measure"])


def test_a_video_without_content_is_not_said_to_be_processed():
    store = Store(0, float("inf"))
    made = b'{"files": [{"local_file_path": "a.mp4", "content_type": "video/mp4"}]}'
    api(store, "POST", "/v2/files", "", made)
    (stored,) = store.order
    assert (stored.state, stored.processing) == ("reserved", "pending")
    body = sent(b"content", 3, boundary="")
    api(store, "PUT", f"/storage/{stored.uuid}", "", body)
    assert (stored.state, stored.processing) == ("live", "completed")
