"""A net for dry runs of `benchmarks.gpu`, named `benchmarks.tiny_net:tiny_net`.

The zoo's tiny nets take ten seconds or more to compile on two cores, and a dry run compiles a dozen programs.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import zoo
from zoo.layers import ConvNormAct, global_average_pool, head


class TinyNet(nn.Module):
    """A convolution with batch normalization, dropout and a head, for images of 8x8 pixels."""

    num_classes: int
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Return the logits, float32 [B, num_classes]."""
        block = ConvNormAct(4, (3, 3), dtype=self.dtype, axis_name=self.axis_name, name="conv1")
        x = global_average_pool(block(x, train=train))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return head(self.num_classes, x)


@zoo.register_model(input_shape=(8, 8, 3), num_classes=10, source="for dry runs")
def tiny_net(num_classes: int) -> TinyNet:
    """A net that compiles in a second or two."""
    return TinyNet(num_classes)
