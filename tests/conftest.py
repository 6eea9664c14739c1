import pytest

from syncd.state.store import Store


@pytest.fixture
def store(tmp_path):
    """An open state directory of its own."""
    opened = Store(tmp_path / "state")
    opened.open(0.0)
    yield opened
    opened.close()
