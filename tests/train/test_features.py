"""A head trained on features computed once gets the numbers of one trained behind its frozen backbone."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from datasets import Split
from datasets.dataset import VectorSplit
from train import recipe
from train.engine import features, freezing, steps
from train.engine.evaluation import array_batches, run_outputs
from train.engine.inputs import ImageInputs, VectorInputs
from train.engine.objectives import classification
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from zoo.common.resize import ResizeRule

CLASSES, BATCH, STEPS = 4, 8, 5
SHAPES = {"resnet_tiny": (64, 64, 3), "sam_alexnet_tiny": (64, 64, 3)}  # the others: 32 x 32
CLOCK = steps.Clock(np.uint32(3), np.int32(0))


@functools.cache
def model_and_variables(name, **options):
    """A net whose moving statistics are those of its images: with others, deep ReLUs let nothing through."""
    model = zoo.create_model(name, CLASSES, **options)
    variables = jax.device_get(steps.init_variables(model, shape_of(name), seed=0))
    if hasattr(model, "norm_momentum"):
        at_once = model.clone(norm_momentum=0.0, dropout_rate=0.0)
        images = data(name)[0] / np.float32(255)
        apply = functools.partial(at_once.apply, train=True, mutable=["batch_stats"])
        variables |= jax.device_get(jax.jit(apply)(variables, images)[1])
    return model, variables


def shape_of(name):
    return SHAPES.get(name, (32, 32, 3))


def find(name, patterns=("backbone",), **options):
    """The cut, found without any numbers."""
    model = zoo.create_model(name, CLASSES, **options)
    variables = jax.eval_shape(lambda: steps.init_variables(model, shape_of(name), seed=0))
    frozen = freezing.frozen_paths(variables["params"], patterns)
    return features.cut(model, variables, shape_of(name), frozen)


@functools.cache
def data(name):
    """Images and labels of 20 examples, and those that each step takes."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (20, *shape_of(name)), np.uint8)
    order = [rng.permutation(len(images))[:BATCH].astype(np.int32) for _ in range(STEPS)]
    return images, rng.integers(0, CLASSES, len(images), np.int32), order


def images_of(name):
    return ImageInputs(zoo.Preprocessing(ResizeRule(shape_of(name)[:2])))


def make_step(name, devices, optimizer, cut=None, **options):
    """The objective, and the step that trains the head: on images, or on the features of a cut."""
    model, variables = model_and_variables(name, **options)
    model = model.clone(axis_name=steps.AXIS) if hasattr(model, "axis_name") else model
    inputs = images_of(name)
    if cut is not None:
        model, inputs = features.FromFeatures(model, cut), VectorInputs(cut.feature_shape)
    objective = classification(model, 0.1)
    step = devices.compile_train_step(
        steps.make_train_step(
            objective,
            optimizer,
            inputs,
            recipe.Augmentation(),
            freezing.frozen_paths(variables["params"], ["backbone"]),
            class_weights=[1.0, 2.0, 3.0, 4.0],
        )
    )
    eval_step = devices.compile_eval_step(steps.make_eval_step(objective, inputs))
    return step, eval_step


def split_of(images, labels):
    return Split([str(i) for i in range(len(images))], labels, lambda i: images[i])


def batch_of(inputs, labels, chosen):
    return {"image": inputs[chosen], "label": labels[chosen], "index": chosen}


@functools.cache
def train(name, num_devices, cut=None, **options):
    """Metrics of each step, the last state, logits of all examples with it, and the step's program."""
    model, variables = model_and_variables(name, **options)
    devices = Devices(jax.local_devices()[:num_devices])
    images, labels, order = data(name)
    inputs = images
    if cut is not None:
        inputs = features.extract(
            features.cut_step(model, cut, images_of(name)),
            variables,
            {"all": images_of(name).evaluation(split_of(images, labels))},
            devices,
            batch_size=BATCH,
        )["all"]
        assert inputs.shape == (len(images), *cut.feature_shape) and inputs.dtype == np.float32
        assert np.mean(np.std(inputs, axis=0) > 0) > 0.5
    optimizer = build_optimizer(recipe.Optimizer("sgd", 0.02))
    frozen = freezing.frozen_paths(variables["params"], ["backbone"])
    state = devices.replicate(steps.init_state(variables, optimizer, frozen))
    step, eval_step = make_step(name, devices, optimizer, cut, **options)
    batches = [devices.split(batch_of(inputs, labels, chosen)) for chosen in order]
    program = step.lower(state, batches[0], CLOCK).compile()
    log = []
    for batch in batches:
        state, metrics = step(state, batch, CLOCK)
        log.append(jax.device_get(metrics))
    logits = run_outputs(eval_step, state.variables(), array_batches(inputs, BATCH))["logits"]
    return log, jax.device_get(state), logits, program


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v2_tiny", {"dropout_rate": 0.2}),
        ("resnet_tiny", {"dropout_rate": 0.5}),
        ("resnet_tiny", {"dropout_rate": 0.3, "dtype": jnp.bfloat16}),
        ("resnet_tiny", {"dropout_rate": 0.0}),
        ("vgg_tiny", {"dropout_rate": 0.0}),
    ],
)
def test_training_on_features_gives_the_same_numbers(name, options, num_devices):
    """Losses, norms, the head and what is evaluated; and the program has lost its convolutions."""
    cut = find(name, **options)
    log, state, logits, program = train(name, num_devices, **options)
    ours, our_state, our_logits, our_program = train(name, num_devices, cut, **options)

    for metrics, our_metrics in zip(log, ours, strict=True):
        assert metrics.keys() == our_metrics.keys()
        for key, value in metrics.items():
            np.testing.assert_allclose(our_metrics[key], value, rtol=1e-5, err_msg=key)
    losses = [metrics["loss"] for metrics in log]
    assert max(losses) > 1.01 * min(losses)  # they differ from step to step by far more
    # atol: for entries near zero, sums of terms that nearly cancel.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, our_state.params["head"], state.params["head"])
    close(our_logits, logits)

    _, variables = model_and_variables(name, **options)
    jax.tree.map(np.testing.assert_array_equal, our_state.batch_stats, variables["batch_stats"])
    before, after = dict(variables["params"]), dict(our_state.params)
    assert not np.array_equal(before.pop("head")["kernel"], after.pop("head")["kernel"])
    jax.tree.map(np.testing.assert_array_equal, after, before)

    assert "convolution" in program.as_text()
    assert "convolution" not in our_program.as_text()
    assert flops(our_program) < 0.05 * flops(program)


def flops(program):
    return program.cost_analysis()["flops"]


def test_masks_matter():
    """Losses with dropout and without differ by far more than the two ways to train above."""
    first = {}
    for rate in (0.0, 0.5):
        cut = find("resnet_tiny", dropout_rate=rate)
        log, *_ = train("resnet_tiny", 1, cut, dropout_rate=rate)
        first[rate] = log[0]["loss"]
    assert abs(first[0.5] - first[0.0]) > 0.01 * first[0.0]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mobilenet_v2_tiny", {}, ("Dropout_0",)),
        ("mobilenet_v2_tiny", {"dtype": jnp.bfloat16}, ("Dropout_0",)),
        ("mobilenet_v2_tiny", {"axis_name": steps.AXIS}, ("Dropout_0",)),
        ("mobilenet_v2_tiny", {"dialect": "keras", "dropout_rate": 0.0}, ("head",)),
        ("resnet_tiny", {}, ("head",)),
        ("vgg_tiny", {"dropout_rate": 0.0}, ("head",)),
        ("sam_alexnet_tiny", {"dropout_rate": 0.0}, ("head",)),
        ("sam_alexnet_tiny", {"head_widths": (16,)}, ("top", "Dropout_0")),
        ("vgg_tiny", {}, None),
        ("sam_alexnet_tiny", {}, None),
    ],
)
def test_where_a_model_is_cut(name, options, expected):
    found = find(name, **options)
    assert (found and found.path) == expected


@pytest.mark.parametrize(
    ("patterns", "is_cut"),
    [
        (["backbone"], True),
        (["block*", "top", "head.bias"], True),
        (["block*"], False),
        (["head"], False),
        ([], False),
    ],
)
def test_only_a_frozen_backbone_is_cut(patterns, is_cut):
    """Of a net without batch-norm, where nothing but the frozen parameters decides."""
    assert (find("vgg_tiny", patterns, dropout_rate=0.0) is not None) == is_cut


class Net(nn.Module):
    """A convolution, its mean, perhaps something that forbids a cut, and a head."""

    middle: str = ""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(6, (3, 3), name="conv")(x)
        if self.middle == "norm without parameters":
            x = nn.BatchNorm(not train, use_scale=False, use_bias=False, name="norm")(x)
        features = jnp.mean(x, (1, 2))
        if self.middle == "norm without statistics" and train:
            features = features - jnp.mean(features, 0, keepdims=True)
        if self.middle == "another scale in training" and train:
            features = 2 * features
        if self.middle == "noise" and train:
            features += jax.random.normal(self.make_rng("dropout"), features.shape)
        if self.middle == "counter":
            seen = self.variable("batch_stats", "seen", jnp.zeros, ())
            features = features + seen.value
            if train:
                seen.value += 1
        head = nn.Dense(CLASSES, name="head")
        if self.middle == "head in front":
            features += jnp.mean(head(features))
        dropout = nn.Dropout(0.5, deterministic=not train)
        x = dropout(features)
        if self.middle == "dropout twice":
            x += dropout(jnp.square(features))
        if self.middle == "frozen layer":
            x = nn.Dense(6, name="fc")(x)
        if self.middle == "head twice":
            return head(x) + head(features)
        if self.middle == "way around":
            return head(x) + features[:, :CLASSES]
        return head(x)


@pytest.mark.parametrize(
    "middle",
    [
        "",
        "norm without parameters",
        "norm without statistics",
        "another scale in training",
        "noise",
        "counter",
        "dropout twice",
        "frozen layer",
        "head in front",
        "head twice",
        "way around",
    ],
)
def test_what_forbids_a_cut(middle):
    model = Net(middle)
    variables = steps.init_variables(model, (8, 8, 3), seed=0)
    frozen = freezing.frozen_paths(variables["params"], ["backbone"])
    found = features.cut(model, variables, (8, 8, 3), frozen)
    assert found == (None if middle else features.Cut(("Dropout_0",), (8, 8, 3), (6,)))


# The value numbers by which training and evaluation are compared.


def numbers_of(fun, *arguments, programs=None):
    programs = {} if programs is None else programs
    return features._value_numbers(jax.make_jaxpr(fun)(*arguments), programs)


def are_alike(one, other, *arguments):
    programs = {}
    first, second = (numbers_of(fun, *arguments, programs=programs) for fun in (one, other))
    return first == second


X, Y = np.linspace(-1, 1, 4, dtype=np.float32), np.arange(4, dtype=np.float32)


def one_of_many(x, y):
    return jnp.tanh(x) @ y + jnp.sum(x)


def with_dead_code(x, y):
    jnp.exp(x) * jnp.cumsum(y)  # nobody uses it
    tangent = jnp.tanh(x)
    jnp.sin(tangent)
    return tangent @ y + jnp.sum(x)


def in_another_order(x, y):
    total = jnp.sum(x)
    return jnp.tanh(x) @ y + total


@pytest.mark.parametrize("other", [one_of_many, with_dead_code, in_another_order])
def test_programs_that_compute_the_same_have_the_same_numbers(other):
    assert are_alike(one_of_many, other, X, Y)
    # Also inside of a program that is called: jit, and a rule of differentiation, which is made anew each time.
    assert are_alike(*(jax.jit(lambda x, y, f=f: f(x, y)) for f in (one_of_many, other)), X, Y)
    assert are_alike(jax.nn.relu, lambda x: jax.nn.relu(x), X)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x, y: 2.0 * x, lambda x, y: 3.0 * x),
        (lambda x, y: x * X, lambda x, y: x * Y),  # constants that are arrays
        (lambda x, y: x * np.float32(1), lambda x, y: x * np.ones(4, np.float32)),
        (lambda x, y: jax.lax.cumsum(x), lambda x, y: jax.lax.cumsum(x, reverse=True)),
        (lambda x, y: jnp.sum(x), lambda x, y: jnp.max(x)),
        (lambda x, y: x - y, lambda x, y: y - x),
        (lambda x, y: x, lambda x, y: y),
        (lambda x, y: (x, y), lambda x, y: (y, x)),
        (lambda x, y: (x, y), lambda x, y: x),
        (lambda x, y: jnp.split(x, 2)[0], lambda x, y: jnp.split(x, 2)[1]),
        (lambda x, y: jax.jit(lambda a: a + 1)(x), lambda x, y: jax.jit(lambda a: a + 2)(x)),
        (
            lambda x, y: jax.lax.scan(lambda c, _: (c * 2, None), x, length=3)[0],
            lambda x, y: jax.lax.scan(lambda c, _: (c * 3, None), x, length=3)[0],
        ),
        (
            lambda x, y: jax.lax.cond(x[0] > 0, lambda: x, lambda: y),
            lambda x, y: jax.lax.cond(x[0] > 0, lambda: y, lambda: x),
        ),
        (lambda x, y: jax.nn.relu(x), lambda x, y: jax.nn.relu6(x)),
    ],
)
def test_programs_that_differ_have_other_numbers(one, other):
    assert not are_alike(one, other, X, Y)
    assert are_alike(one, one, X, Y) and are_alike(other, other, X, Y)


# `extract`, and its cache.


def extracted(counts, *, key=None, scale=1.0, parts=("train", "test"), progress=None):
    """Features of a step that counts the batches that it was asked for."""

    class CountingSamples(VectorSplit):
        def load(self, indices):
            counts.append(len(indices))
            return super().load(indices)

    rng = np.random.default_rng(0)
    samples = {}
    for part in parts:
        values = rng.normal(size=(5, 3)).astype(np.float32)
        split = Split(list("abcde"), [0] * 5, lambda i: None)
        samples[part] = CountingSamples(split, values)
    found = features.extract(
        lambda variables, batch: {"features": variables * batch["image"]},
        np.float32(scale),
        samples,
        Devices(jax.local_devices()[:2]),
        batch_size=4,
        key=key,
        progress=progress,
    )
    assert found.keys() == samples.keys()
    for part, values in found.items():
        np.testing.assert_allclose(values, scale * samples[part].values, rtol=1e-6)
    return found


def test_every_sample_is_computed_once_and_said(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path))
    counts, told = [], []
    extracted(counts, progress=lambda *report: told.append(report))
    assert sum(counts) == 10
    assert told == [
        (f"features of {part} images", done, 5) for part in ("train", "test") for done in (4, 5)
    ]
    assert list(tmp_path.iterdir()) == []  # without a key nothing is kept


def test_with_a_key_features_are_computed_once(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path))
    counts = []
    first = extracted(counts, key={"weights": "a", "layer": None})
    assert sum(counts) == 10
    again = extracted(counts, key={"layer": None, "weights": "a"})  # the order says nothing
    assert sum(counts) == 10
    for part, values in first.items():
        assert values.dtype == again[part].dtype == np.float32
        np.testing.assert_array_equal(values, again[part])
    extracted(counts, key={"weights": "b", "layer": None}, scale=2.0)
    assert sum(counts) == 20
    extracted(counts, key={"weights": "a", "layer": None}, parts=("train", "validation"))
    assert sum(counts) == 30  # a part is missing


@pytest.mark.parametrize("damage", ["cut short", "empty", "a flipped byte", "another file"])
def test_a_torn_cache_file_is_computed_anew_and_mended(monkeypatch, tmp_path, damage):
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path))
    counts, key = [], {"weights": "a"}
    extracted(counts, key=key)
    (file,) = (tmp_path / "features").iterdir()
    content = file.read_bytes()
    place = content.index(b"NUMPY") + 140  # among the numbers
    file.write_bytes(
        {
            "cut short": content[: len(content) // 2],
            "empty": b"",
            "a flipped byte": content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
            "another file": b"{}",
        }[damage]
    )
    extracted(counts, key=key)
    assert sum(counts) == 20
    extracted(counts, key=key)
    assert sum(counts) == 20
    assert [path.name for path in (tmp_path / "features").iterdir()] == [file.name]
