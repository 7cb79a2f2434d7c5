"""Nets for commands in new processes, as `tests.registered_net:net`.

Importing this module registers them: in the process of the tests only with the fixture `registered_net`.
"""

import flax.linen as nn

import zoo
from tests.small_net import SmallNet


@zoo.register_model(input_shape=(8, 8, 3), num_classes=10, source="the tests")
def net(num_classes: int) -> SmallNet:
    """A convolution, batch normalization, dropout and a head."""
    return SmallNet(num_classes)


class ConvNet(nn.Module):
    """Two convolutions and a head: [B, 32, 32, 16], [B, 16, 16, 32], [B, num_classes]."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        x = nn.relu(nn.Conv(32, (3, 3), (2, 2))(x))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


@zoo.register_model(input_shape=(32, 32, 3), num_classes=10, source="the tests")
def conv_net(num_classes: int) -> ConvNet:
    """Two convolutions, whose operations are easily counted."""
    return ConvNet(num_classes)
