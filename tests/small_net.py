"""A model for tests that need an image classifier, but none in particular: its programs compile in a second."""

import contextlib
import sys

import flax.linen as nn
import pytest

from zoo import registry


class SmallNet(nn.Module):
    """Parameters, batch statistics and dropout. No ReLU, whose inputs can change sign by rounding."""

    num_classes: int
    width: int = 4
    norm_momentum: float = 0.9
    dropout_rate: float = 0.3
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(self.width, (3, 3), (2, 2), name="conv")(x)
        axis_name = self.axis_name if train else None
        norm = nn.BatchNorm(
            not train, momentum=self.norm_momentum, axis_name=axis_name, name="norm"
        )
        x = norm(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(nn.tanh(x).mean((1, 2)))
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


@contextlib.contextmanager
def registered():
    """Register `small_net`, which takes images of 8x8 pixels."""
    entry = registry.ModelEntry(
        "small_net", __name__, SmallNet, (8, 8, 3), 10, source="", notes="", pretrained=()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._ENTRIES, "small_net", entry)
        yield


@pytest.fixture(scope="module")
def small_net():
    """`small_net` is a model while the tests of a module run."""
    with registered():
        yield


@pytest.fixture
def registered_net(monkeypatch):
    """Name of the same net for commands in new processes, which may be used in this process, too."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    yield "tests.registered_net:net"
    sys.modules.pop("tests.registered_net", None)
