"""MobileNetV2: published parameter counts, sizes, FLOPs, and equality with Keras."""

import functools

import parity
import pytest

import zoo
from zoo.inspect import count_parameters
from zoo.mobilenet import round_channels

IMAGE = (224, 224, 3)


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["torch", "keras"])
def test_published_parameter_counts(variant):
    """torchvision states 3,504,872; Keras, including moving statistics, 3,538,984."""
    model = zoo.create_model("mobilenet_v2", variant=variant)
    assert count_parameters(model, IMAGE) == (3_504_872, 3_538_984)


def test_sizes_of_named_stages():
    model = zoo.create_model("mobilenet_v2")
    rows = {row.path: row.output_shape for row in zoo.layer_table(model, IMAGE, leaves_only=False)}
    stages = {  # from the input sizes in the paper's Table 2
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


def test_flops_include_depthwise_layers():
    """The paper states 300 million multiply-adds."""
    rows = zoo.layer_table(zoo.create_model("mobilenet_v2"), IMAGE)
    assert sum(row.flops for row in rows) / 2 == pytest.approx(300e6, rel=0.01)
    depthwise = next(row for row in rows if row.path == "features/14/depthwise/conv")
    assert depthwise.flops == 2 * 9 * 7 * 7 * 576


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "stem", "block_1", "last"),
    [(0.35, 16, 8, 1280), (0.75, 24, 16, 1280), (1.4, 48, 24, 1792)],
)
def test_width_scales_all_layers_but_does_not_reduce_the_last(width, stem, block_1, last):
    model = zoo.create_model("mobilenet_v2", width=width)
    rows = {row.path: row.output_shape[-1] for row in zoo.layer_table(model, (32, 32, 3))}
    assert rows["features/0/conv"] == stem
    assert rows["features/1/project/conv"] == block_1
    assert rows["features/18/conv"] == last


@pytest.mark.slow
def test_keras_truncates_before_rounding():
    """16 * 0.556 = 8.896 rounds to 16, because 8 is more than 10% below it; Keras truncates it to 8 first."""

    def first_block_channels(variant):
        model = zoo.create_model("mobilenet_v2", width=0.556, variant=variant)
        rows = {row.path: row.output_shape[-1] for row in zoo.layer_table(model, (32, 32, 3))}
        return rows["features/1/project/conv"]

    assert (first_block_channels("torch"), first_block_channels("keras")) == (16, 8)
    assert [round_channels(c) for c in (3, 8.8, 8.9, 12, 33.6)] == [8, 8, 16, 16, 32]


def test_width_must_be_positive():
    with pytest.raises(zoo.InputError, match="width is 0: use a positive multiplier"):
        count_parameters(zoo.create_model("mobilenet_v2", width=0), IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "size"),
    [
        (0.35, (33, 50)),
        long(1.0, (64, 64)),
        long(0.556, (32, 32)),
        long(1.4, (96, 96)),
    ],
)
def test_logits_equal_keras(width, size):
    model = zoo.create_model("mobilenet_v2", 10, variant="keras", width=width)
    parity.assert_logits_equal_keras(model, "MobileNetV2", parity.mobilenet_path, size, alpha=width)


@pytest.mark.slow
def test_training_step_of_a_small_net_equals_keras():
    model = zoo.create_model(
        "mobilenet_v2",
        10,
        variant="keras",
        width=0.5,
        dropout_rate=0.0,
        table=parity.SMALL_MOBILENET,
    )
    path = functools.partial(parity.mobilenet_path, last=5)
    parity.assert_step_equals_keras(model, parity.small_mobilenet, path, (33, 32), alpha=0.5)


@pytest.mark.long
def test_training_step_equals_keras():
    model = zoo.create_model("mobilenet_v2", 10, variant="keras", width=0.5, dropout_rate=0.0)
    parity.assert_step_equals_keras(
        model, "MobileNetV2", parity.mobilenet_path, (33, 32), alpha=0.5
    )
