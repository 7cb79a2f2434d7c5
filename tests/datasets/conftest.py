"""Fixtures and settings of the data set tests."""

from pathlib import Path

import pytest


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """An empty cache directory for one test."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("JAX_ZOO_CACHE", str(directory))
    return directory
