"""MobileNetV2: published counts, sizes, equality with Keras; and the depthwise convolution under it."""

import parity
import pytest

import zoo
from zoo.inspect import count_parameters
from zoo.mobilenet import round_channels

IMAGE = (224, 224, 3)


@pytest.mark.parametrize("dialect", ["torch", "keras"])
def test_published_parameter_counts(dialect):
    """torchvision says 3,504,872; Keras, with moving statistics, 3,538,984."""
    model = zoo.create_model("mobilenet_v2", dialect=dialect)
    assert count_parameters(model, IMAGE) == (3_504_872, 3_538_984)


def test_sizes_and_stage_names():
    model = zoo.create_model("mobilenet_v2")
    rows = {row.path: row.output_shape for row in zoo.layer_table(model, IMAGE, leaves_only=False)}
    stages = {  # the input sizes of the paper's Table 2
        "features/0": (112, 112, 32),
        "features/1": (112, 112, 16),
        "features/3": (56, 56, 24),
        "features/6": (28, 28, 32),
        "features/10": (14, 14, 64),
        "features/13": (14, 14, 96),
        "features/16": (7, 7, 160),
        "features/17": (7, 7, 320),
        "features/18": (7, 7, 1280),
        "head": (1000,),
    }
    assert {name: rows[name] for name in stages} == stages
    assert rows["features/14/expand"] == (14, 14, 576)
    assert "features/1/expand" not in rows


def test_flops_of_depthwise_layers_are_counted():
    """The paper says 300 million multiply-adds."""
    rows = zoo.layer_table(zoo.create_model("mobilenet_v2"), IMAGE)
    assert sum(row.flops for row in rows) / 2 == pytest.approx(300e6, rel=0.01)
    depthwise = next(row for row in rows if row.path == "features/14/depthwise/conv")
    assert depthwise.flops == 2 * 9 * 7 * 7 * 576


@pytest.mark.parametrize(
    ("width", "stem", "block_1", "last"),
    [(0.35, 16, 8, 1280), (0.75, 24, 16, 1280), (1.4, 48, 24, 1792)],
)
def test_width_multiplies_channels_but_for_a_narrow_last_layer(width, stem, block_1, last):
    model = zoo.create_model("mobilenet_v2", width=width)
    rows = {row.path: row.output_shape[-1] for row in zoo.layer_table(model, (32, 32, 3))}
    assert rows["features/0/conv"] == stem
    assert rows["features/1/project/conv"] == block_1
    assert rows["features/18/conv"] == last


def test_keras_cuts_before_rounding():
    """16 * 0.556 = 8.896: 8 would be more than a tenth below it, but not below Keras's 8."""

    def first(dialect):
        model = zoo.create_model("mobilenet_v2", width=0.556, dialect=dialect)
        rows = {row.path: row.output_shape[-1] for row in zoo.layer_table(model, (32, 32, 3))}
        return rows["features/1/project/conv"]

    assert (first("torch"), first("keras")) == (16, 8)
    assert [round_channels(c) for c in (3, 8.8, 8.9, 12, 33.6)] == [8, 8, 16, 16, 32]


def test_width_must_be_positive():
    with pytest.raises(zoo.InputError, match="width is 0: give a positive multiplier"):
        count_parameters(zoo.create_model("mobilenet_v2", width=0), IMAGE)


@pytest.mark.parametrize(
    ("width", "size"),
    [
        (1.0, (64, 64)),
        (0.35, (33, 50)),
        pytest.param(0.556, (32, 32), marks=pytest.mark.slow),
        pytest.param(1.4, (96, 96), marks=pytest.mark.slow),
    ],
)
def test_logits_equal_keras(width, size):
    ours = zoo.create_model("mobilenet_v2", 10, dialect="keras", width=width)
    parity.assert_logits_equal_keras(ours, "MobileNetV2", parity.mobilenet_path, size, alpha=width)


@pytest.mark.slow
def test_training_step_equals_keras():
    ours = zoo.create_model("mobilenet_v2", 10, dialect="keras", width=0.5, dropout_rate=0.0)
    parity.assert_step_equals_keras(ours, "MobileNetV2", parity.mobilenet_path, (33, 32), alpha=0.5)
