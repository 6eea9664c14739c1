import pytest
from hypothesis import settings

from syncd.state.store import Store

# What a property is tried with: the same cases each time, so that a red run can be repeated.
settings.register_profile("short", derandomize=True, deadline=None, database=None)
# `--hypothesis-profile long --timeout 0`: other cases each time, and very many.
settings.register_profile("long", max_examples=100_000, deadline=None)
settings.load_profile("short")


@pytest.fixture
def store(tmp_path):
    """An open state directory of its own."""
    opened = Store(tmp_path / "state")
    opened.open(0.0)
    yield opened
    opened.close()
