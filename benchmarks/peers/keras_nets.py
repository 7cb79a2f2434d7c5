"""The zoo's nets in Keras 3 on JAX, as functional models in idiomatic Keras.

Layers are named by the dotted path of the zoo's module ("layer1.0.conv1.conv"), so that weights are copied by name
(`load_weights`). ResNet and MobileNetV2 are torch's variant, like the zoo's registered nets: padding by ZeroPadding2D,
torch's epsilon and momentum. Keras updates moving variances with the biased batch variance, torch with the unbiased
one. This affects later tests, but neither the loss nor the cost of a step.
"""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"  # read by the import of Keras

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers, ops  # noqa: E402

from benchmarks.peers import NOT_AVAILABLE  # noqa: E402
from benchmarks.workers import Unsupported  # noqa: E402

KERAS_NORM = {"momentum": 0.99, "epsilon": 1e-3}
TORCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}
LEAVES = {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}

Tensor = Any


def conv_norm_act(
    x: Tensor,
    name: str,
    outputs: int,
    kernel: int | tuple[int, int],
    stride: int = 1,
    padding: str = "valid",
    *,
    norm: dict[str, float] | None = KERAS_NORM,
    activation: str | None = "relu",
) -> Tensor:
    """zoo.layers.ConvNormAct."""
    x = layers.Conv2D(outputs, kernel, stride, padding, name=f"{name}.conv")(x)
    if norm is not None:
        x = layers.BatchNormalization(**norm, name=f"{name}.norm")(x)
    return x if activation is None else layers.Activation(activation)(x)


def spatial_attention(x: Tensor, name: str) -> Tensor:
    """zoo.layers.SpatialAttention."""
    channels = x.shape[-1]
    middle = conv_norm_act(x, f"{name}.middle", channels, 3, padding="same")
    pooled = ops.mean(x + middle, axis=-1, keepdims=True)
    weights = conv_norm_act(pooled, f"{name}.squeeze", channels, 1)
    weights = conv_norm_act(weights, f"{name}.excite", channels, 1, activation="sigmoid")
    return middle + weights * x


def classifier(x: Tensor, widths: Sequence[int], rate: float) -> Tensor:
    """zoo.layers.Classifier."""
    x = layers.Flatten()(x)
    for index, width in enumerate(widths, start=1):
        x = layers.Dense(width, activation="relu", name=f"top.fc{index}")(x)
        x = layers.Dropout(rate)(x)
    return x


def alexnet(
    x: Tensor,
    widths: Sequence[int] = (96, 256, 384, 384, 256),
    head_widths: Sequence[int] = (4096, 4096),
) -> Tensor:
    """zoo.alexnet.AlexNet."""
    pool = layers.MaxPooling2D
    conv = functools.partial(conv_norm_act, padding="same", norm=None)
    x = pool(3, 2)(conv(x, "conv1", widths[0], 11, 4, padding="valid"))
    x = pool(3, 2)(conv(x, "conv2", widths[1], 5))
    x = conv(x, "conv3", widths[2], 3)
    x = conv(x, "conv4", widths[3], 3)
    x = pool(3, 2)(conv(x, "conv5", widths[4], 3))
    return classifier(x, head_widths, 0.5)


def pig_alexnet(
    x: Tensor,
    widths: Sequence[int] = (96, 256, 384, 384, 256),
    head_widths: Sequence[int] = (4096, 4096, 4096),
    stem: tuple[int, int] = (11, 4),
    norm_layers: Sequence[int] = (1, 2),
    *,
    attention: bool = False,
) -> Tensor:
    """zoo.alexnet.PigAlexNet."""
    pool = layers.MaxPooling2D

    def conv(x: Tensor, index: int, kernel: int, stride: int = 1) -> Tensor:
        norm = KERAS_NORM if index in norm_layers else None
        return conv_norm_act(x, f"conv{index}", widths[index - 1], kernel, stride, norm=norm)

    x = pool(3, 2)(conv(x, 1, *stem))
    x = pool(3, 2)(conv(x, 2, 5))
    for index in (3, 4):
        x = conv(x, index, 3)
        if attention:
            x = spatial_attention(x, f"sam{index}")
    x = pool(3, 2)(conv(x, 5, 3))
    return classifier(x, head_widths, 0.4)


def deconv_alexnet(
    x: Tensor,
    widths: Sequence[int] = (64, 64, 128, 256),
    deconv_widths: Sequence[int] = (128, 64),
    head_widths: Sequence[int] = (256,),
    *,
    norm: bool = True,
) -> Tensor:
    """zoo.deconv_alexnet.DeconvAlexNet; its deconvolutions are written as convolutions, equivalent at stride 1."""

    def conv(x: Tensor, name: str, outputs: int, kernel: int = 3) -> Tensor:
        settings = KERAS_NORM if norm else None
        return conv_norm_act(x, name, outputs, kernel, padding="same", norm=settings)

    def pool(x: Tensor, rate: float) -> Tensor:
        return layers.MaxPooling2D(3, 2, "same")(layers.Dropout(rate)(x))

    x = pool(conv(conv(x, "conv1", widths[0]), "conv2", widths[1]), 0.2)
    x = pool(conv(conv(x, "conv3", widths[2]), "conv4", widths[3]), 0.2)
    if deconv_widths:
        x = pool(conv(x, "deconv1", deconv_widths[0], 1), 0.5)
        x = pool(conv(x, "deconv2", deconv_widths[1]), 0.5)
    else:
        x = layers.MaxPooling2D(3, 2, "same")(x)
    return classifier(x, head_widths, 0.5)


def vgg(
    x: Tensor,
    convolutions: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    head_widths: Sequence[int] = (4096, 4096),
) -> Tensor:
    """zoo.vgg.VGG at its default image size; features are flattened channels first."""
    for block, (width, count) in enumerate(zip(widths, convolutions, strict=True), start=1):
        for index in range(1, count + 1):
            name = f"block{block}.conv{index}"
            x = conv_norm_act(x, name, width, 3, padding="same", norm=None)
        x = layers.MaxPooling2D(2)(x)
    return classifier(layers.Permute((3, 1, 2))(x), head_widths, 0.5)


def torch_conv(
    x: Tensor,
    name: str,
    outputs: int,
    kernel: int,
    stride: int = 1,
    *,
    activation: str | None = "relu",
    depthwise: bool = False,
) -> Tensor:
    """zoo.layers.ConvNormAct in torch's variant: symmetric zero padding, no bias."""
    padding = "same" if stride == 1 else "valid"
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2)(x)
    options: dict[str, Any] = {"use_bias": False, "name": f"{name}.conv"}
    if depthwise:
        x = layers.DepthwiseConv2D(kernel, stride, padding, **options)(x)
    else:
        x = layers.Conv2D(outputs, kernel, stride, padding, **options)(x)
    x = layers.BatchNormalization(**TORCH_NORM, name=f"{name}.norm")(x)
    return x if activation is None else layers.Activation(activation)(x)


def resnet(
    x: Tensor,
    blocks: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512),
    *,
    bottleneck: bool = True,
) -> Tensor:
    """zoo.resnet.ResNet in torch's variant."""
    x = torch_conv(x, "conv1", widths[0], 7, 2)
    x = layers.MaxPooling2D(3, 2)(
        layers.ZeroPadding2D(1)(x)
    )  # x >= 0: zero padding does not change maxima
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for index in range(count):
            name = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            if bottleneck:
                y = torch_conv(x, f"{name}.conv1", width, 1)
                y = torch_conv(y, f"{name}.conv2", width, 3, stride)
                y = torch_conv(y, f"{name}.conv3", 4 * width, 1, activation=None)
            else:
                y = torch_conv(x, f"{name}.conv1", width, 3, stride)
                y = torch_conv(y, f"{name}.conv2", width, 3, activation=None)
            if stride != 1 or x.shape[-1] != y.shape[-1]:
                x = torch_conv(x, f"{name}.downsample", y.shape[-1], 1, stride, activation=None)
            x = layers.Activation("relu")(x + y)
    return layers.GlobalAveragePooling2D()(x)


# Expansion, output channels, blocks, stride of the first block (Sandler et al. 2018, Table 2).
TABLE_2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    x: Tensor,
    table: Sequence[tuple[int, int, int, int]] = TABLE_2,
    stem: int = 32,
    last: int = 1280,
) -> Tensor:
    """zoo.mobilenet.MobileNetV2 in torch's variant, width 1."""
    conv = functools.partial(torch_conv, activation="relu6")
    x = conv(x, "features.0", stem, 3, 2)
    number = 1
    for expansion, outputs, count, stride in table:
        for index in range(count):
            name, step, y = f"features.{number}", stride if index == 0 else 1, x
            hidden = expansion * x.shape[-1]
            if expansion != 1:
                y = conv(y, f"{name}.expand", hidden, 1)
            y = conv(y, f"{name}.depthwise", hidden, 3, step, depthwise=True)
            y = torch_conv(y, f"{name}.project", outputs, 1, activation=None)
            x = x + y if step == 1 and x.shape[-1] == outputs else y
            number += 1
    x = conv(x, f"features.{number}", last, 1)
    return layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))


TINY: dict[str, Any] = {"widths": (16, 24, 32, 32, 24), "head_widths": (64, 64)}
HALVED: dict[str, Any] = {
    "widths": (32, 32, 64, 128),
    "deconv_widths": (64, 32),
    "head_widths": (128,),
}
PLAIN: dict[str, Any] = {"deconv_widths": (), "norm": False}
MOBILE_TINY: dict[str, Any] = {
    "table": ((1, 8, 1, 1), (4, 8, 2, 2), (4, 16, 2, 2)),
    "stem": 8,
    "last": 64,
}
partial = functools.partial

# The zoo's registered names: image size (height and width), and the net without its head.
NETS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "alexnet": (227, alexnet),
    "pig_alexnet": (256, pig_alexnet),
    "sam_alexnet": (256, partial(pig_alexnet, attention=True, head_widths=(1024, 1024))),
    "cifar_alexnet_1": (28, partial(deconv_alexnet, **HALVED | PLAIN | {"head_widths": (1024,)})),
    "cifar_alexnet_2": (28, partial(deconv_alexnet, **PLAIN, head_widths=(2048,))),
    "deconv_alexnet_1": (28, partial(deconv_alexnet, **HALVED)),
    "deconv_alexnet_2": (28, deconv_alexnet),
    "vgg11": (224, partial(vgg, convolutions=(1, 1, 2, 2, 2))),
    "vgg13": (224, partial(vgg, convolutions=(2, 2, 2, 2, 2))),
    "vgg16": (224, partial(vgg, convolutions=(2, 2, 3, 3, 3))),
    "vgg19": (224, partial(vgg, convolutions=(2, 2, 4, 4, 4))),
    "resnet18": (224, partial(resnet, blocks=(2, 2, 2, 2), bottleneck=False)),
    "resnet34": (224, partial(resnet, blocks=(3, 4, 6, 3), bottleneck=False)),
    "resnet50": (224, partial(resnet, blocks=(3, 4, 6, 3))),
    "resnet101": (224, partial(resnet, blocks=(3, 4, 23, 3))),
    "resnet152": (224, partial(resnet, blocks=(3, 8, 36, 3))),
    "mobilenet_v2": (224, mobilenet_v2),
    "alexnet_tiny": (67, partial(alexnet, **TINY)),
    "sam_alexnet_tiny": (
        64,
        partial(pig_alexnet, **TINY, stem=(5, 1), norm_layers=(1, 2, 3, 4, 5), attention=True),
    ),
    "deconv_alexnet_tiny": (
        28,
        partial(deconv_alexnet, widths=(8, 8, 16, 32), deconv_widths=(16, 8), head_widths=(32,)),
    ),
    "vgg_tiny": (
        32,
        partial(
            vgg, convolutions=(1, 1, 2, 2, 2), widths=(8, 16, 24, 32, 32), head_widths=(32, 32)
        ),
    ),
    "resnet_tiny": (64, partial(resnet, blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16))),
    "mobilenet_v2_tiny": (32, partial(mobilenet_v2, **MOBILE_TINY)),
}


def create(model: str, num_classes: int, size: tuple[int, int] | None = None) -> keras.Model:
    """Create the Keras version of a zoo model, from images in 0..255 of `size` (default: its own) to float32 logits.

    Its first layer scales images to 0..1. Raises Unsupported if there is no Keras version.
    """
    if model not in NETS:
        raise Unsupported(NOT_AVAILABLE)
    keras.config.set_image_data_format("channels_last")
    default_size, body = NETS[model]
    images = keras.Input((*(size or (default_size, default_size)), 3), dtype="uint8")
    x = body(layers.Rescaling(1 / 255)(images))
    logits = layers.Dense(num_classes, dtype="float32", name="head")(x)
    return keras.Model(images, logits)


def load_weights(net: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Copy the zoo's weights (see `benchmarks.peers`) into a net; RuntimeError if names or shapes differ."""
    weights = {variable.path: variable for variable in net.weights}
    for path, array in arrays.items():
        if not path.startswith(("params/", "batch_stats/")):
            continue
        _, *scopes, leaf = path.split("/")
        if leaf == "kernel" and scopes[-2:-1] == ["depthwise"]:
            array = array.swapaxes(2, 3)  # [kh, kw, 1, C] to [kh, kw, C, 1]
        name = f"{'.'.join(scopes)}/{LEAVES.get(leaf, leaf) if scopes[-1] == 'norm' else leaf}"
        if name not in weights or tuple(weights[name].shape) != array.shape:
            raise RuntimeError(f"weights do not fit: {path} {array.shape}")
        weights.pop(name).assign(array)
    if weights:
        raise RuntimeError(f"weights do not fit: missing {sorted(weights)}")


def count_parameters(net: keras.Model) -> int:
    """Count the trainable parameters."""
    return sum(math.prod(variable.shape) for variable in net.trainable_weights)
