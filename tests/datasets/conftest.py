"""What the tests of this folder share."""

from pathlib import Path

import pytest


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """A cache directory of the test's own."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("JAX_ZOO_CACHE", str(directory))
    return directory
