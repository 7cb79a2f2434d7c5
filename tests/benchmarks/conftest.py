"""Fixtures of the benchmarks' tests."""

import sys

import pytest

from tests.small_net import registered_net, small_net
from zoo import registry

__all__ = ["registered_net", "small_net"]


@pytest.fixture(autouse=True)
def _forget_nets():
    """Forget the models that a benchmark registers by importing their module, such as `benchmarks.tiny_net`."""
    yield
    for name, entry in list(registry._ENTRIES.items()):
        if entry.module.startswith("benchmarks."):
            del registry._ENTRIES[name]
            sys.modules.pop(entry.module, None)
