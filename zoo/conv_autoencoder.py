"""Convolutional autoencoder (Han et al., "Animal face classification based on deep learning", section E).

The paper trains it without the fully connected bottleneck, then inserts the bottleneck, initializes the convolutions
from the trained weights (`with_bottleneck`), fine-tunes all layers, and trains an SVM on the codes. It states neither
layers nor sizes, only that it is a "shallow CAE with only few layers"; its reference 8, Ji et al. 2017, "Deep
subspace clustering networks", has up to three convolutions, and `conv_autoencoder` has three. The deeper
`conv_autoencoder_deep` has five, down to 7x7; version 0.1 called it `conv_autoencoder`.

We use a plain design: 4x4 convolutions with stride 2, ReLU, no normalization, and a mirrored decoder of transposed
convolutions. The kernel size is a multiple of the stride, so that every pixel receives the same number of weights; 3x3
kernels leave a checkerboard pattern (Odena et al. 2016, "Deconvolution and checkerboard artifacts"). The last layer is
linear, for images normalized by mean and standard deviation. The code is 128-dimensional.

`num_classes` is ignored: an autoencoder has no classes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.common.errors import InputError
from zoo.layers import glorot_uniform
from zoo.registry import register_model
from zoo.variational import HiddenLayers, OutputLayer

KERNEL, STRIDE = (4, 4), (2, 2)


class Encoder(nn.Module):
    """n convolutions `conv1`, `conv2`, ...: [B, H, W, C] to [B, H / 2^n, W / 2^n, widths[-1]] in `dtype`."""

    widths: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.widths, start=1):
            x = nn.Conv(
                width,
                KERNEL,
                STRIDE,
                kernel_init=glorot_uniform,
                dtype=self.dtype,
                name=f"conv{index}",
            )(x)
            x = nn.relu(x)
        return x


class Decoder(nn.Module):
    """Transposed convolutions `deconv1`, `deconv2`, ..., with ReLU after all but the last."""

    widths: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for index, width in enumerate(self.widths, start=1):
            x = nn.ConvTranspose(
                width,
                KERNEL,
                STRIDE,
                kernel_init=glorot_uniform,
                dtype=self.dtype,
                name=f"deconv{index}",
            )(x)
            x = nn.relu(x) if index < len(self.widths) else x
        return x


class ConvAutoencoder(nn.Module):
    """Autoencoder of images, float [B, H, W, C]. A call returns a dict of float32 arrays:

    reconstruction: [B, H, W, C].
    latent: [B, bottleneck], the code; without a bottleneck the encoder's feature map,
      [B, H / 2^n, W / 2^n, widths[-1]].
    """

    num_classes: int = 0  # ignored
    widths: tuple[int, ...] = (32, 64, 128)
    bottleneck: int | None = 128  # size of the code; None: no fully connected layers
    input_shape: tuple[int, int, int] = (224, 224, 3)
    dtype: Any = jnp.float32

    # Not a field: the objective `autoencoder` minimizes the squared error.
    likelihood = "gaussian"

    def setup(self):
        self.encoder = Encoder(self.widths, self.dtype)
        self.decoder = Decoder((*self.widths[-2::-1], self.input_shape[-1]), self.dtype)
        if self.bottleneck is not None:
            height, width, channels = self._feature_map_shape()
            # ReLU after `expand`, because without a bottleneck the decoder's input is the output of a ReLU.
            self.code = OutputLayer(self.bottleneck)
            self.expand = HiddenLayers((height * width * channels,), dtype=self.dtype)

    def _feature_map_shape(self) -> tuple[int, int, int]:
        factor = 2 ** len(self.widths)
        height, width, _ = self.input_shape
        if height % factor or width % factor or 0 in self.input_shape:
            raise InputError(
                f"images of {height}x{width} cannot be halved {len(self.widths)} times:"
                f" use a height and width that are multiples of {factor}"
            )
        return height // factor, width // factor, self.widths[-1]

    def encode(self, x: jax.Array) -> jax.Array:
        """Latent, float32, from images float [B, H, W, C]."""
        self._feature_map_shape()  # validates input_shape
        if x.shape[1:] != tuple(self.input_shape):
            raise InputError(
                f"images of shape {x.shape[1:]} do not match input_shape={tuple(self.input_shape)}:"
                " set this model option"
            )
        x = self.encoder(x.astype(self.dtype))  # [B, 28, 28, 128]
        if self.bottleneck is not None:
            x = self.code(x.reshape(x.shape[0], -1))
        return x.astype(jnp.float32)

    def decode(self, latent: jax.Array) -> jax.Array:
        """Images, float32 [B, H, W, C], from the latent that `encode` returns."""
        x = latent.astype(self.dtype)
        if self.bottleneck is not None:
            x = self.expand(x).reshape(-1, *self._feature_map_shape())
        return self.decoder(x).astype(jnp.float32)

    def embed(self, x: jax.Array) -> jax.Array:
        """Latent, flattened to one vector per image: float32 [B, N]."""
        return self.encode(x).reshape(x.shape[0], -1)

    def autoencode(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """Return `reconstruction` and `latent`, the same in training and evaluation."""
        latent = self.encode(x)
        return {"reconstruction": self.decode(latent), "latent": latent}

    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        return self.autoencode(x, train=train)


def with_bottleneck(
    variables: dict[str, Any], model: ConvAutoencoder, key: jax.Array
) -> dict[str, Any]:
    """Insert a bottleneck into trained variables.

    Args:
      variables: variables of the same network without a bottleneck.
      model: with a bottleneck.
      key: initializes the fully connected layers.

    Returns:
      Variables of `model`; the convolutions are those of `variables`, bit for bit.

    Raises InputError if `model` has no bottleneck, or different convolutions.
    """
    if model.bottleneck is None:
        raise InputError(
            "this model has no bottleneck to insert: set the option bottleneck, such as 128"
        )
    image = jnp.zeros((1, *model.input_shape), jnp.float32)
    initial = jax.jit(model.init)(key, image)["params"]
    trained = variables["params"]
    for part in ("encoder", "decoder"):
        shapes, expected = (jax.tree.map(jnp.shape, dict(p[part])) for p in (trained, initial))
        if shapes != expected:
            raise InputError(
                f"the {part} of these variables does not fit this model: use variables with the same widths"
            )
    return {
        **variables,
        "params": {**initial, "encoder": trained["encoder"], "decoder": trained["decoder"]},
    }


DEEP = (32, 64, 128, 256, 256)
NOTES = (
    "the paper states neither layers nor sizes, so the design is our own; bottleneck=None omits the fully connected"
    " layers; num_classes is ignored"
)


@register_model(
    input_shape=(224, 224, 3),
    num_classes=0,
    source='Han et al., "Animal face classification based on deep learning", section E',
    notes=NOTES,
    objective="autoencoder",
)
def conv_autoencoder(num_classes: int) -> ConvAutoencoder:
    """Shallow convolutional autoencoder with a 128-dimensional code; no classes."""
    return ConvAutoencoder(num_classes)


@register_model(
    input_shape=(224, 224, 3),
    num_classes=0,
    source="our own: a deeper conv_autoencoder",
    objective="autoencoder",
)
def conv_autoencoder_deep(num_classes: int) -> ConvAutoencoder:
    """conv_autoencoder with five convolutions, down to 7x7."""
    return ConvAutoencoder(num_classes, widths=DEEP)


@register_model(
    input_shape=(32, 32, 3),
    num_classes=0,
    source="no paper: for small images and tests",
    objective="autoencoder",
)
def conv_autoencoder_tiny(num_classes: int) -> ConvAutoencoder:
    """conv_autoencoder with three narrow layers and a 16-dimensional code, for 32x32 images."""
    return ConvAutoencoder(num_classes, widths=(8, 8, 16), bottleneck=16, input_shape=(32, 32, 3))
