"""Fixtures and settings of the data set tests."""

from pathlib import Path

import pytest
from hypothesis import settings

# Reproducible examples, without time limits that depend on the load of the machine.
settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """An empty cache directory for one test."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("JAX_ZOO_CACHE", str(directory))
    return directory
