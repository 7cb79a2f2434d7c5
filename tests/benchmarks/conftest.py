"""Fixtures of the benchmarks' tests."""

import sys

import pytest

from tests.small_net import registered_net, small_net
from zoo import registry

__all__ = ["registered_net", "small_net"]


@pytest.fixture(autouse=True)
def _forget_nets(monkeypatch):
    """Forget the models that a benchmark registers by importing their module, such as `benchmarks.tiny_net`."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    yield
    sys.modules.pop("benchmarks.tiny_net", None)
