"""MobileNetV2 (Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks", Table 2).

Liu, "Animal Image Classification Recognition based on Transfer Learning", fine-tunes it: t = 6, ReLU6, linear
bottlenecks, a new head, dropout (the rate is not stated: `dropout_rate` is torchvision's 0.2). `width` is the width
multiplier; Keras publishes weights for 0.35 to 1.4.

`variant` selects the layout of torchvision or of Keras, to load their weights:

                          torch (torchvision)            keras (Keras applications)
    padding at stride 2   one zero on every side         SAME: for even sizes, only bottom and right
    batch norm epsilon    1e-5                           1e-3
    momentum              0.9                            0.999 (use a lower one in short runs: `norm_momentum=0.9`)
    moving variance       unbiased                       biased
    initialization        He normal over the fan-out,    Glorot uniform
                          0.01 normal for the head
    dropout               0.2                            none: `dropout_rate=0` reproduces its training step

Both have 3,504,872 parameters at width 1 and 3,538,984 including moving statistics.

Names here and in the original libraries (each path here has a conv and a norm; n from 1 to 17):

    here                     torchvision                     Keras (convolution, batch norm)
    features/0               features.0.0, .1                Conv1, bn_Conv1
    features/1/depthwise     features.1.conv.0.0, .0.1       expanded_conv_depthwise, _depthwise_BN
    features/1/project       features.1.conv.1, .2           expanded_conv_project, _project_BN
    features/{n}/expand      features.{n}.conv.0.0, .0.1     block_{n-1}_expand, _expand_BN
    features/{n}/depthwise   features.{n}.conv.1.0, .1.1     block_{n-1}_depthwise, _depthwise_BN
    features/{n}/project     features.{n}.conv.2, .3         block_{n-1}_project, _project_BN
    features/18              features.18.0, .1               Conv_1, Conv_1_bn
    head                     classifier.1                    predictions

A depthwise kernel is [3, 3, 1, C] here, [C, 1, 3, 3] in torch and [3, 3, C, 1] in Keras.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.common.errors import InputError
from zoo.layers import (
    ConvNormAct,
    choose,
    global_average_pool,
    glorot_uniform,
    he_normal_fan_out,
    head,
)
from zoo.pretrained.sources import (
    MINUS_ONE_TO_ONE,
    Source,
    keras_sources,
    torchvision_source,
)
from zoo.registry import register_model

# Table 2: expansion t, output channels c, repetitions n, stride s of the first repetition.
TABLE_2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
VARIANTS: dict[str, dict[str, Any]] = {
    "torch": {
        "norm_epsilon": 1e-5,
        "norm_momentum": 0.9,
        "unbiased_variance": True,
        "kernel_init": he_normal_fan_out,
    },
    "keras": {
        "norm_epsilon": 1e-3,
        "norm_momentum": 0.999,
        "unbiased_variance": False,
        "kernel_init": glorot_uniform,
    },
}


def round_channels(channels: float) -> int:
    """Round to the nearest multiple of 8, but at least 8 and never down by more than 10% (the authors' rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project: [B, H, W, C] to [B, H / stride, W / stride, features]."""

    features: int
    stride: int
    expansion: int
    padding: Any  # of the depthwise convolution
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        y = x
        if self.expansion != 1:
            y = self.conv(x.shape[-1] * self.expansion, (1, 1), name="expand")(y, train=train)
        y = self.conv(
            y.shape[-1], (3, 3), self.stride, self.padding, groups=y.shape[-1], name="depthwise"
        )(y, train=train)
        y = self.conv(self.features, (1, 1), activation=None, name="project")(y, train=train)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class Features(nn.Module):
    """All layers before the head, named by index: 0 (stem), inverted residuals, the last 1x1 convolution."""

    stem: int
    blocks: Sequence[tuple[int, int, int]]  # expansion, output channels, stride
    last: int
    padding: Any
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = self.conv(self.stem, (3, 3), 2, self.padding, name="0")(x, train=train)
        for index, (expansion, channels, stride) in enumerate(self.blocks, start=1):
            block = InvertedResidual(
                channels, stride, expansion, self.padding, self.conv, name=str(index)
            )
            x = block(x, train=train)
        return self.conv(self.last, (1, 1), name=str(len(self.blocks) + 1))(x, train=train)


class MobileNetV2(nn.Module):
    """Images [B, 224, 224, 3] to float32 logits [B, num_classes]. Stages: features/0 to features/18, head."""

    num_classes: int
    width: float = 1.0
    table: Sequence[tuple[int, int, int, int]] = TABLE_2
    stem_width: int = 32
    last_width: int = 1280  # not reduced by a width below 1
    dropout_rate: float = 0.2  # before the head
    variant: str = "torch"
    norm_momentum: float | None = None  # None: the variant's default
    axis_name: str | None = None  # mapped axis over which batch statistics are averaged
    dtype: Any = jnp.float32
    keras_arithmetic = MINUS_ONE_TO_ONE

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        if not self.width > 0:
            raise InputError(f"width is {self.width}: use a positive multiplier, such as 0.5")
        settings = choose(VARIANTS, self.variant, "variant") | {
            "activation": nn.relu6,
            "use_bias": False,
            "axis_name": self.axis_name,
            "dtype": self.dtype,
        }
        if self.norm_momentum is not None:
            settings["norm_momentum"] = self.norm_momentum
        keras = self.variant == "keras"
        blocks = []
        for expansion, channels, repetitions, stride in self.table:
            scaled = channels * self.width
            # Keras truncates to an integer first, which gives another multiple of 8 at some widths (0.556).
            features = round_channels(int(scaled) if keras else scaled)
            for index in range(repetitions):
                blocks.append((expansion, features, stride if index == 0 else 1))
        x = Features(
            stem=round_channels(self.stem_width * self.width),
            blocks=blocks,
            last=round_channels(self.last_width * max(1.0, self.width)),
            padding="SAME" if keras else ((1, 1), (1, 1)),
            conv=functools.partial(ConvNormAct, **settings),
            name="features",
        )(x.astype(self.dtype), train=train)  # [B, 7, 7, 1280]
        x = global_average_pool(x)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return head(self.num_classes, x, glorot_uniform if keras else nn.initializers.normal(0.01))

    @nn.nowrap
    def torchvision_names(self) -> dict[str, str]:
        """Map torchvision's module names to paths of this model."""
        modules = {"classifier.1": "head"}
        for end in (0, self._last_index()):
            modules[f"features.{end}.0"] = f"features/{end}/conv"
            modules[f"features.{end}.1"] = f"features/{end}/norm"
        for index, _, _, convs in self._blocks():
            for i, name in enumerate(convs):
                # All but the projection are nested: a Sequential of convolution, norm and activation.
                conv, norm = (i, i + 1) if name == "project" else (f"{i}.0", f"{i}.1")
                modules[f"features.{index}.conv.{conv}"] = f"features/{index}/{name}/conv"
                modules[f"features.{index}.conv.{norm}"] = f"features/{index}/{name}/norm"
        return modules

    @nn.nowrap
    def timm_names(self) -> dict[str, str]:
        """Map timm's module names to paths of this model."""
        modules = {
            "conv_stem": "features/0/conv",
            "bn1": "features/0/norm",
            "conv_head": f"features/{self._last_index()}/conv",
            "bn2": f"features/{self._last_index()}/norm",
            "classifier": "head",
        }
        for index, stage, block, convs in self._blocks():
            timm = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
            if "expand" not in convs:
                timm["project"] = "conv_pw"
            for i, name in enumerate(convs, start=1):
                module, path = f"blocks.{stage}.{block}", f"features/{index}/{name}"
                modules[f"{module}.{timm[name]}"] = f"{path}/conv"
                modules[f"{module}.bn{i}"] = f"{path}/norm"
        return modules

    @nn.nowrap
    def keras_names(self) -> dict[str, str]:
        """Map Keras's layer names to paths of this model."""
        layers = {"Conv1": "features/0/conv", "bn_Conv1": "features/0/norm"}
        for index, _, _, convs in self._blocks():
            prefix = f"block_{index - 1}" if index > 1 else "expanded_conv"
            for name in convs:
                layers[f"{prefix}_{name}"] = f"features/{index}/{name}/conv"
                layers[f"{prefix}_{name}_BN"] = f"features/{index}/{name}/norm"
        last = f"features/{self._last_index()}"
        ends = {"Conv_1": f"{last}/conv", "Conv_1_bn": f"{last}/norm", "predictions": "head"}
        return layers | ends

    @nn.nowrap
    def _last_index(self) -> int:
        """Index of the last 1x1 convolution in `features`."""
        return sum(count for _, _, count, _ in self.table) + 1

    @nn.nowrap
    def _blocks(self) -> Iterator[tuple[int, int, int, tuple[str, ...]]]:
        """Yield (index from 1, stage from 0, block within the stage from 0, names of its convolutions)."""
        index = 1
        for stage, (expansion, _, count, _) in enumerate(self.table):
            for block in range(count):
                convs = ("depthwise", "project")
                yield index, stage, block, convs if expansion == 1 else ("expand", *convs)
                index += 1


def keras_mobilenet_sources() -> tuple[Source, ...]:
    """Keras's weights for six widths and five image sizes each; Keras publishes no hashes for them."""
    pairs = [
        keras_sources(
            f"{KERAS_FILE}_{width}_{size}.h5",
            f"{KERAS_FILE}_{width}_{size}_no_top.h5",
            (None, None),
            MINUS_ONE_TO_ONE,
            size,
            {"width": width},
        )
        for width in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
        for size in (96, 128, 160, 192, 224)
    ]
    return (*(with_head for with_head, _ in pairs), *(no_top for _, no_top in pairs))


KERAS_FILE = "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels"


@register_model(
    input_shape=(224, 224, 3),
    num_classes=1000,
    source='Liu, "Animal Image Classification Recognition based on Transfer Learning"; Sandler et al. 2018, Table 2',
    notes="Liu states no dropout rate; 0.2 is torchvision's",
    pretrained=(
        torchvision_source("mobilenet_v2-b0353104.pth"),
        torchvision_source("mobilenet_v2-7ebf99e0.pth", "torchvision_v2", resized=232),
        *keras_mobilenet_sources(),
    ),
)
def mobilenet_v2(num_classes: int) -> MobileNetV2:
    """MobileNetV2: inverted residuals with linear bottlenecks, at low computational cost."""
    return MobileNetV2(num_classes)


@register_model(
    input_shape=(32, 32, 3), num_classes=10, source="no paper: for small images and tests"
)
def mobilenet_v2_tiny(num_classes: int) -> MobileNetV2:
    """mobilenet_v2 with five narrow blocks, for 32x32 images."""
    return MobileNetV2(
        num_classes,
        table=((1, 8, 1, 1), (4, 8, 2, 2), (4, 16, 2, 2)),
        stem_width=8,
        last_width=64,
    )
