"""The queries of every step cost as much as is due: no table is read whole."""

import pytest

from syncd.disk import Fingerprint
from syncd.state import after_upload, due, overview, polls, scan_index
from syncd.state.deletions import Deletions
from syncd.state.holds import missing
from syncd.state.ledger import Arrival, Intent, Ledger, Offer, Stored
from syncd.state.planner import Limits, Policy

NOW = 1000.0
DELETIONS = Deletions(policies={"f": Policy(limits=Limits(files=0))})
LEDGER = Ledger(policies={"f": Policy()}, instance="cafe0123")
OFFERS = [
    Offer(number, Fingerprint(1, 1, 1, 1), "0" * 64, "text/plain", "direct") for number in (1, 2)
]
ARRIVALS = [Arrival(number, Stored(f"uuid-{number}"), NOW, NOW) for number in (1, 2)]
LISTED = polls.Answered([None, "w"], NOW)
ASKED = {
    "several intents": lambda db: LEDGER._ordinary(db, [Intent(offer, NOW) for offer in OFFERS]),
    "several outcomes": lambda db: LEDGER._ordinary_arrivals(db, ARRIVALS),
    "uploads": lambda db: (inserted(db), due.uploads(db, NOW, 10)),
    "next upload": lambda db: due.next_upload(db, NOW),
    "polls": lambda db: polls.due(db, NOW, 10),
    "next poll": lambda db: polls.next_due(db, NOW),
    "polls beside listings": lambda db: polls.due(db, NOW, 10, LISTED),
    "next poll beside listings": lambda db: polls.next_due(db, NOW, LISTED),
    "pending videos": lambda db: polls.pending(db, NOW),
    "videos of a page": lambda db: polls.processing_among(db, "w", ["u"]),
    "missing": lambda db: due.missing(db, NOW, "f", 10),
    "deletions": lambda db: due.deletions(db, NOW, 10, missing=True),
    "next deletion": lambda db: due.next_deletion(db, NOW),
    "doubts": due.doubts,
    "what is to be taken away": lambda db: after_upload.due(db, "f", 10),
    "what is half taken": lambda db: after_upload.half_taken(db, "f", NOW, 10),
    "what settles": lambda db: due.looks(db, NOW, "f", 10),
    "next look": lambda db: scan_index.next_look(db, "f"),
    "holds that are not up to date": lambda db: DELETIONS.is_review_due(db, "f"),
    "many missing": lambda db: DELETIONS.review(db, "f", NOW),
    "nothing decided": missing.undecided,
    "how far a pass is": lambda db: due.pass_counts(
        db, now=NOW, attempts=5, deletions=True, closed=["g"]
    ),
    "one line on how things stand": overview.summary,
}
#: An index that holds few rows of a table may be read whole.
SMALL = ("copies_open", "copies_due", "decisions_hold")
#: Counted, and no more: the smallest index that has a row for each.
COUNTED = ("copies_one_live",)


def inserted(db):
    db.conn.execute("INSERT INTO folders (name, path) VALUES ('f', x'66')")


@pytest.mark.row(61)
@pytest.mark.parametrize("name", ASKED)
def test_no_step_reads_a_table_whole(store, name):
    def plans(db):
        asked = []
        db.conn.set_trace_callback(asked.append)
        ASKED[name](db)
        db.conn.set_trace_callback(None)
        selects = [text for text in map(str.strip, asked) if text.startswith(("SELECT", "WITH"))]
        assert selects
        rows = [db.conn.execute(f"EXPLAIN QUERY PLAN {select}") for select in selects]
        return [row[3] for some in rows for row in some]

    for step in store.write(plans):
        reads_whole = step.startswith(("SCAN files", "SCAN copies", "SCAN history"))
        assert not reads_whole or step.endswith(SMALL + COUNTED), step
        # All that wait are as good as all; they may be counted.
        assert not step.endswith("USING INDEX files_due (status=?)"), step
        # All of a folder is as good as all; of its parts there are few.
        assert "(folder=?)" not in step or " parts " in step, step
