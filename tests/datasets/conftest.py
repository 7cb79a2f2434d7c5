"""What the tests of this folder share."""

from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time, however busy the machine.
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """A cache directory of the test's own."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("JAX_ZOO_CACHE", str(directory))
    return directory
