"""Convolutional auto-encoder (Han et al., "Animal face classification based on deep learning", section E).

The paper trains it without its fully connected bottleneck, inserts that layer, initializes from the trained
weights (`with_bottleneck`), fine-tunes the whole, and gives the codes to an SVM. It states neither layers nor sizes.
Ours are the plainest: 4x4 convolutions of stride 2 down to 7x7, ReLU, no normalization; as many transposed
convolutions back, mirrored. 4 is a multiple of the stride, so that every pixel is reached by equally many weights;
3x3 kernels leave a checkerboard (Odena et al. 2016, "Deconvolution and checkerboard artifacts"). The last layer is
linear, for images normalized by mean and standard deviation. The code has 128 numbers.

`num_classes` means nothing here: an auto-encoder has no classes, and every value builds the same net.
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
    """[B, H, W, C] to [B, H / 2^n, W / 2^n, widths[-1]] in `dtype`, n convolutions `conv1` ..."""

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
    """The way back, transposed convolutions `deconv1` ...: ReLU but after the last."""

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
    """Called with images float [B, H, W, C], returns a dict of float32 arrays:

    reconstruction: [B, H, W, C].
    latent: [B, bottleneck], the code; without a bottleneck the encoder's map, [B, H / 2^n, W / 2^n, widths[-1]].
    """

    num_classes: int = 0  # ignored
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    bottleneck: int | None = 128  # None: no fully connected layers
    input_shape: tuple[int, int, int] = (224, 224, 3)
    dtype: Any = jnp.float32

    likelihood = (
        "gaussian"  # not a field: what the objective `autoencoder` measures, the squared error
    )

    def setup(self):
        self.encoder = Encoder(self.widths, self.dtype)
        self.decoder = Decoder((*self.widths[-2::-1], self.input_shape[-1]), self.dtype)
        if self.bottleneck is not None:
            rows, columns, channels = self._map_shape()
            # ReLU after the layer that fills the map: what the decoder saw before was the output of one.
            self.code = OutputLayer(self.bottleneck)
            self.expand = HiddenLayers((rows * columns * channels,), dtype=self.dtype)

    def _map_shape(self) -> tuple[int, int, int]:
        factor = 2 ** len(self.widths)
        height, width, _ = self.input_shape
        if height % factor or width % factor or 0 in self.input_shape:
            raise InputError(
                f"images of {height}x{width} cannot be halved {len(self.widths)} times:"
                f" give sizes that are multiples of {factor}"
            )
        return height // factor, width // factor, self.widths[-1]

    def encode(self, x: jax.Array) -> jax.Array:
        """Images float [B, H, W, C] to the latent, float32."""
        self._map_shape()
        if x.shape[1:] != tuple(self.input_shape):
            raise InputError(
                f"images of shape {x.shape[1:]} do not fit input_shape={tuple(self.input_shape)}:"
                " set that option of the model"
            )
        x = self.encoder(x.astype(self.dtype))  # [B, 7, 7, 256]
        if self.bottleneck is not None:
            x = self.code(x.reshape(x.shape[0], -1))
        return x.astype(jnp.float32)

    def decode(self, latent: jax.Array) -> jax.Array:
        """The latent, as `encode` gives it, to images float32 [B, H, W, C]."""
        x = latent.astype(self.dtype)
        if self.bottleneck is not None:
            x = self.expand(x).reshape(-1, *self._map_shape())
        return self.decoder(x).astype(jnp.float32)

    def embed(self, x: jax.Array) -> jax.Array:
        """The latent as a vector an image: float32 [B, N]."""
        return self.encode(x).reshape(x.shape[0], -1)

    def autoencode(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        """What a call returns; training and evaluation are the same."""
        latent = self.encode(x)
        return {"reconstruction": self.decode(latent), "latent": latent}

    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        return self.autoencode(x, train=train)


def with_bottleneck(
    variables: dict[str, Any], model: ConvAutoencoder, key: jax.Array
) -> dict[str, Any]:
    """Variables of `model`, which has a bottleneck, from trained ones of the same net without it.

    The convolutions are the trained ones bit for bit; the fully connected layers are drawn from `key`. Raises
    InputError when `model` has no bottleneck or other convolutions.
    """
    if model.bottleneck is None:
        raise InputError("this model has no bottleneck to insert: give it bottleneck=128, say")
    image = jnp.zeros((1, *model.input_shape), jnp.float32)
    fresh = jax.jit(model.init)(key, image)["params"]
    trained = variables["params"]
    for part in ("encoder", "decoder"):
        shapes, wanted = (jax.tree.map(jnp.shape, dict(p[part])) for p in (trained, fresh))
        if shapes != wanted:
            raise InputError(f"the {part} of these variables is not that of this model")
    return {
        **variables,
        "params": {**fresh, "encoder": trained["encoder"], "decoder": trained["decoder"]},
    }


SILENT = (
    "the paper states neither layers nor sizes: ours; bottleneck=None leaves the fully connected layers out;"
    " num_classes is ignored"
)


@register_model(
    input_shape=(224, 224, 3),
    num_classes=0,
    source='Han et al., "Animal face classification based on deep learning", section E',
    notes=SILENT,
    objective="autoencoder",
)
def conv_autoencoder(num_classes: int) -> ConvAutoencoder:
    """Convolutional auto-encoder with a code of 128 numbers; no classes."""
    return ConvAutoencoder(num_classes)


@register_model(
    input_shape=(32, 32, 3),
    num_classes=0,
    source="ours, for small images and tests",
    objective="autoencoder",
)
def conv_autoencoder_tiny(num_classes: int) -> ConvAutoencoder:
    """conv_autoencoder for 32x32 images: three narrow layers, a code of 16 numbers."""
    return ConvAutoencoder(num_classes, widths=(8, 8, 16), bottleneck=16, input_shape=(32, 32, 3))
