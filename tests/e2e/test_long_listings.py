"""A long listing, of others' objects or of ours, costs requests and no memory."""

import pytest

from tests.benchmarks.listing import beside_others, of_our_own

#: The memory of a small container, in MB.
LIMIT = 256
OTHERS = 400_000


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.row(90)
@pytest.mark.parametrize("has_order", [True, False])
def test_beside_very_many_objects_of_others_memory_stays_small(tmp_path, has_order):
    took = {name: facts for name, *facts in beside_others(OTHERS, tmp_path, has_order=has_order)}
    assert {code for code, _, _ in took.values()} == {0}
    assert max(memory for _, memory, _ in took.values()) < LIMIT
    if has_order:
        assert took["again"][2] < 5, "a start reads back to what the ledger knows"
    # No page is read twice, and pages are as large as they may be.
    assert max(requests for *_, requests in took.values()) < 3 * OTHERS / 999 + 60


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.row(85)
def test_verify_of_very_many_copies_keeps_little_of_the_listing(tmp_path):
    copies = 200_000
    code, memory, requests = of_our_own(copies, tmp_path)
    assert (code, requests < 1.1 * copies / 1000 + 10) == (0, True)
    assert memory < LIMIT
