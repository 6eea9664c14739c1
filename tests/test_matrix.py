"""The fault matrix and the tests' markers agree."""

import matrix

TEXT = matrix.MATRIX.read_text("utf-8")
ROWS = matrix.rows(TEXT)


def test_the_matrix_has_each_row_once_and_in_order():
    assert [row.number for row in ROWS] == list(range(1, len(ROWS) + 1))
    assert len(ROWS) > 90
    assert all(row.fault and row.holds for row in ROWS)


def test_every_marker_names_a_row_and_every_row_has_a_test_or_a_reason():
    found = matrix.named()
    numbers = {row.number for row in ROWS}
    assert found.keys() <= numbers
    assert numbers - found.keys() == matrix.UNTESTED.keys()
    assert "state/test_state_directory.py" in {place.file for place in found[83]}


def test_the_matrix_names_the_files_that_the_markers_are_in():
    assert matrix.written(TEXT) == TEXT, "run: python -m tests.matrix --write"
