import importlib.util
from pathlib import Path

spec = importlib.util.spec_from_file_location("matrix", Path(__file__).with_name("matrix.py"))
matrix = importlib.util.module_from_spec(spec)
spec.loader.exec_module(matrix)


def test_every_marker_names_a_row_of_the_matrix():
    found = matrix.named()
    assert found.keys() <= set(matrix.ROWS)
    assert "workers/test_adopter.py" in found[27]
