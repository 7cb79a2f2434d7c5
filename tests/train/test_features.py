"""Features: where a model is cut, training a head on features, and the feature cache."""

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
from train.engine.evaluation import array_batches, collect_outputs
from train.engine.inputs import ImageInputs, VectorInputs
from train.engine.objectives import classification
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from zoo.common.resize import ResizeRule

CLASSES, BATCH, STEPS = 4, 8, 5
SHAPES = {"resnet_tiny": (64, 64, 3), "sam_alexnet_tiny": (64, 64, 3)}  # the others: 32 x 32
CONTEXT = steps.RngContext(np.uint32(3), np.int32(0))
OTHER_CONTEXT = steps.RngContext(np.uint32(4), np.int32(0))


def long(*values):
    return pytest.param(*values, marks=pytest.mark.long)


@functools.cache
def model_and_variables(name, **options):
    """A model whose moving statistics match its images. With others, the outputs of deep ReLU layers are all zero."""
    model = zoo.create_model(name, CLASSES, **options)
    variables = jax.device_get(steps.init_variables(model, shape_of(name), seed=0))
    if hasattr(model, "norm_momentum"):
        without_momentum = model.clone(norm_momentum=0.0, dropout_rate=0.0)
        images = data(name)[0] / np.float32(255)
        apply = functools.partial(without_momentum.apply, train=True, mutable=["batch_stats"])
        variables |= jax.device_get(jax.jit(apply)(variables, images)[1])
    return model, variables


def shape_of(name):
    return SHAPES.get(name, (32, 32, 3))


def find(name, patterns=("backbone",), **options):
    """Find the cut of a model from shapes alone."""
    model = zoo.create_model(name, CLASSES, **options)
    variables = jax.eval_shape(lambda: steps.init_variables(model, shape_of(name), seed=0))
    frozen = freezing.frozen_paths(variables["params"], patterns)
    return features.find_cut(model, variables, shape_of(name), frozen)


@functools.cache
def data(name):
    """20 images, their labels, and the indices of each step."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (20, *shape_of(name)), np.uint8)
    order = [rng.permutation(len(images))[:BATCH].astype(np.int32) for _ in range(STEPS)]
    return images, rng.integers(0, CLASSES, len(images), np.int32), order


def images_of(name):
    return ImageInputs(zoo.Preprocessing(ResizeRule(shape_of(name)[:2])))


def make_step(name, devices, optimizer, cut=None, **options):
    """Training and evaluation steps of the head, on images or on the features of a cut."""
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


def train(name, num_devices, cut=None, **options):
    """Metrics of each step, the final state, its logits for all images, and the compiled step.

    Also the loss of the first batch with another random seed, thus other dropout masks.
    """
    model, variables = model_and_variables(name, **options)
    devices = Devices(jax.local_devices()[:num_devices])
    images, labels, order = data(name)
    inputs = images
    if cut is not None:
        inputs = features.extract(
            features.cut_step(model, cut, images_of(name)),
            variables,
            {"all": images_of(name).eval_samples(split_of(images, labels))},
            devices,
            batch_size=BATCH,
        )["all"]
        assert inputs.shape == (len(images), *cut.feature_shape) and inputs.dtype == np.float32
        assert np.mean(np.std(inputs, axis=0) > 0) > 0.5
    optimizer = build_optimizer(recipe.Optimizer("sgd", 0.02))
    frozen = freezing.frozen_paths(variables["params"], ["backbone"])
    state, other = (
        devices.replicate(jax.tree.map(np.array, steps.init_state(variables, optimizer, frozen)))
        for _ in range(2)
    )
    step, eval_step = make_step(name, devices, optimizer, cut, **options)
    batches = [devices.split(batch_of(inputs, labels, chosen)) for chosen in order]
    program = step.lower(state, batches[0], CONTEXT).compile()
    _, other = step(other, batches[0], OTHER_CONTEXT)
    log = []
    for batch in batches:
        state, metrics = step(state, batch, CONTEXT)
        log.append(jax.device_get(metrics))
    logits = collect_outputs(eval_step, state.variables(), array_batches(inputs, BATCH))["logits"]
    return log, jax.device_get(state), logits, program, float(other["loss"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "num_devices"),
    [
        long("mobilenet_v2_tiny", {"dropout_rate": 0.2}, 1),
        long("mobilenet_v2_tiny", {"dropout_rate": 0.2}, 2),
        long("resnet_tiny", {"dropout_rate": 0.5}, 1),
        long("resnet_tiny", {"dropout_rate": 0.5}, 2),
        long("resnet_tiny", {"dropout_rate": 0.3, "dtype": jnp.bfloat16}, 1),
        ("resnet_tiny", {"dropout_rate": 0.3, "dtype": jnp.bfloat16}, 2),
        long("resnet_tiny", {"dropout_rate": 0.0}, 1),
        long("resnet_tiny", {"dropout_rate": 0.0}, 2),
        long("vgg_tiny", {"dropout_rate": 0.0}, 1),
        long("vgg_tiny", {"dropout_rate": 0.0}, 2),
    ],
)
def test_training_on_features_equals_training_on_images(name, options, num_devices):
    """In metrics, head and logits; and the program on features has no convolutions."""
    cut = find(name, **options)
    log, state, logits, program, other = train(name, num_devices, **options)
    feature_log, feature_state, feature_logits, feature_program, feature_other = train(
        name, num_devices, cut, **options
    )

    for metrics, feature_metrics in zip(log, feature_log, strict=True):
        assert metrics.keys() == feature_metrics.keys()
        for key, value in metrics.items():
            np.testing.assert_allclose(feature_metrics[key], value, rtol=1e-5, err_msg=key)
    losses = [metrics["loss"] for metrics in log]
    assert max(losses) > 1.01 * min(losses)  # steps differ by far more than the tolerance
    # So do dropout masks.
    np.testing.assert_allclose(feature_other, other, rtol=1e-5)
    assert (abs(other - losses[0]) > 1e-3 * losses[0]) == (options["dropout_rate"] > 0)
    # atol: for entries near zero, sums of terms that nearly cancel.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, feature_state.params["head"], state.params["head"])
    close(feature_logits, logits)

    _, variables = model_and_variables(name, **options)
    jax.tree.map(np.testing.assert_array_equal, feature_state.batch_stats, variables["batch_stats"])
    before, after = dict(variables["params"]), dict(feature_state.params)
    assert not np.array_equal(before.pop("head")["kernel"], after.pop("head")["kernel"])
    jax.tree.map(np.testing.assert_array_equal, after, before)

    assert "convolution" in program.as_text()
    assert "convolution" not in feature_program.as_text()
    assert flops(feature_program) < 0.05 * flops(program)


def flops(program):
    return program.cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mobilenet_v2_tiny", {}, ("Dropout_0",)),
        long("mobilenet_v2_tiny", {"dtype": jnp.bfloat16}, ("Dropout_0",)),
        ("mobilenet_v2_tiny", {"dtype": jnp.bfloat16, "axis_name": steps.AXIS}, ("Dropout_0",)),
        long("mobilenet_v2_tiny", {"axis_name": steps.AXIS}, ("Dropout_0",)),
        long("mobilenet_v2_tiny", {"variant": "keras", "dropout_rate": 0.0}, ("head",)),
        long("resnet_tiny", {}, ("head",)),
        ("vgg_tiny", {"dropout_rate": 0.0}, ("head",)),
        long("sam_alexnet_tiny", {"dropout_rate": 0.0}, ("head",)),
        ("sam_alexnet_tiny", {"head_widths": (16,)}, ("top", "Dropout_0")),
        ("vgg_tiny", {}, None),
        long("sam_alexnet_tiny", {}, None),
    ],
)
def test_path_of_the_cut(name, options, expected):
    cut = find(name, **options)
    assert (cut and cut.path) == expected


@pytest.mark.slow
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
def test_only_models_with_a_frozen_backbone_are_cut(patterns, is_cut):
    """A model without batch norm, for which only the frozen parameters matter."""
    assert (find("vgg_tiny", patterns, dropout_rate=0.0) is not None) == is_cut


class Net(nn.Module):
    """A convolution, its mean and a head; `obstacle` adds something that prevents a cut."""

    obstacle: str = ""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(6, (3, 3), name="conv")(x)
        if self.obstacle == "norm without parameters":
            x = nn.BatchNorm(not train, use_scale=False, use_bias=False, name="norm")(x)
        features = jnp.mean(x, (1, 2))
        if self.obstacle == "norm without statistics" and train:
            features = features - jnp.mean(features, 0, keepdims=True)
        if self.obstacle == "another scale in training" and train:
            features = 2 * features
        if self.obstacle == "noise" and train:
            features += jax.random.normal(self.make_rng("dropout"), features.shape)
        if self.obstacle == "counter":
            seen = self.variable("batch_stats", "seen", jnp.zeros, ())
            features = features + seen.value
            if train:
                seen.value += 1
        head = nn.Dense(CLASSES, name="head")
        if self.obstacle == "head before the cut":
            features += jnp.mean(head(features))
        dropout = nn.Dropout(0.5, deterministic=not train)
        x = dropout(features)
        if self.obstacle == "dropout twice":
            x += dropout(jnp.square(features))
        if self.obstacle == "frozen layer":
            x = nn.Dense(6, name="fc")(x)
        if self.obstacle == "head twice":
            return head(x) + head(features)
        if self.obstacle == "skip connection around the head":
            return head(x) + features[:, :CLASSES]
        return head(x)


@pytest.mark.parametrize(
    "obstacle",
    [
        "",
        "norm without parameters",
        "norm without statistics",
        "another scale in training",
        "noise",
        "counter",
        "dropout twice",
        "frozen layer",
        "head before the cut",
        "head twice",
        "skip connection around the head",
    ],
)
def test_obstacles_to_a_cut(obstacle):
    model = Net(obstacle)
    variables = steps.abstract_variables(model, (8, 8, 3))
    frozen = freezing.frozen_paths(variables["params"], ["backbone"])
    cut = features.find_cut(model, variables, (8, 8, 3), frozen)
    assert cut == (None if obstacle else features.Cut(("Dropout_0",), (8, 8, 3), (6,)))


# Value numbering, which compares the programs of training and evaluation.


def value_numbers(fun, *arguments, numbers):
    return features._value_numbers(jax.make_jaxpr(fun)(*arguments), numbers)


def are_equal(one, other, *arguments):
    numbers = {}
    first, second = (value_numbers(fun, *arguments, numbers=numbers) for fun in (one, other))
    return first == second


X, Y = np.linspace(-1, 1, 4, dtype=np.float32), np.arange(4, dtype=np.float32)


def reference(x, y):
    return jnp.tanh(x) @ y + jnp.sum(x)


def with_dead_code(x, y):
    jnp.exp(x) * jnp.cumsum(y)
    tangent = jnp.tanh(x)
    jnp.sin(tangent)
    return tangent @ y + jnp.sum(x)


def in_another_order(x, y):
    total = jnp.sum(x)
    return jnp.tanh(x) @ y + total


@pytest.mark.parametrize("other", [reference, with_dead_code, in_another_order])
def test_equal_programs_have_equal_numbers(other):
    assert are_equal(reference, other, X, Y)
    # Also inside subprograms: under jit, and with a differentiation rule, a new object in each trace.
    assert are_equal(*(jax.jit(lambda x, y, f=f: f(x, y)) for f in (reference, other)), X, Y)
    assert are_equal(jax.nn.relu, lambda x: jax.nn.relu(x), X)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x, y: 2.0 * x, lambda x, y: 3.0 * x),
        (lambda x, y: x * X, lambda x, y: x * Y),  # array constants
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
def test_different_programs_have_different_numbers(one, other):
    assert not are_equal(one, other, X, Y)
    assert are_equal(one, one, X, Y) and are_equal(other, other, X, Y)


# `extract` and its cache.


def extract(counts, *, key=None, scale=1.0, splits=("train", "test"), progress=None):
    """Extract features and append the number of samples of each load to `counts`."""

    class CountingSamples(VectorSplit):
        def load(self, indices):
            counts.append(len(indices))
            return super().load(indices)

    rng = np.random.default_rng(0)
    samples = {}
    for name in splits:
        values = rng.normal(size=(5, 3)).astype(np.float32)
        split = Split(list("abcde"), [0] * 5, lambda i: None)
        samples[name] = CountingSamples(split, values)
    extracted = features.extract(
        lambda variables, batch: {"features": variables * batch["image"]},
        np.float32(scale),
        samples,
        Devices(jax.local_devices()[:2]),
        batch_size=4,
        key=key,
        progress=progress,
    )
    assert extracted.keys() == samples.keys()
    for name, values in extracted.items():
        np.testing.assert_allclose(values, scale * samples[name].values, rtol=1e-6)
    return extracted


def test_every_sample_is_computed_once_and_progress_is_reported(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path))
    counts, reports = [], []
    extract(counts, progress=lambda *report: reports.append(report))
    assert sum(counts) == 10
    assert reports == [
        (f"features of {split} images", done, 5) for split in ("train", "test") for done in (4, 5)
    ]
    assert list(tmp_path.iterdir()) == []  # no cache without a key


def test_features_with_a_key_are_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path))
    counts = []
    first = extract(counts, key={"weights": "a", "layer": None})
    assert sum(counts) == 10
    second = extract(counts, key={"layer": None, "weights": "a"})  # order does not matter
    assert sum(counts) == 10
    for split, values in first.items():
        assert values.dtype == second[split].dtype == np.float32
        np.testing.assert_array_equal(values, second[split])
    extract(counts, key={"weights": "b", "layer": None}, scale=2.0)
    assert sum(counts) == 20
    extract(counts, key={"weights": "a", "layer": None}, splits=("train", "validation"))
    assert sum(counts) == 30  # validation is not in the cache file


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped bit", "different content"])
def test_damaged_cache_file_is_recomputed_and_replaced(monkeypatch, tmp_path, damage):
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path))
    counts, key = [], {"weights": "a"}
    extract(counts, key=key)
    (file,) = (tmp_path / "features").iterdir()
    content = file.read_bytes()
    offset = content.index(b"NUMPY") + 140  # inside the array data
    flipped = bytes([content[offset] ^ 1])
    file.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "flipped bit": content[:offset] + flipped + content[offset + 1 :],
            "different content": b"{}",
        }[damage]
    )
    extract(counts, key=key)
    assert sum(counts) == 20
    extract(counts, key=key)
    assert sum(counts) == 20
    assert [path.name for path in (tmp_path / "features").iterdir()] == [file.name]
