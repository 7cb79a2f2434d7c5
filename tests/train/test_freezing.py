"""Freezing: parameters and batch-norm statistics that must not change, and the patterns that select them."""

import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo
from train import recipe, recipes, run
from train.engine import freezing, steps
from train.engine.inputs import ImageInputs
from train.engine.objectives import classification
from train.engine.optimizers import build_optimizer
from train.engine.parallel import Devices
from train.recipe import InputError, Optimizer, Recipe, Stage
from zoo.common.resize import ResizeRule

SHAPE = (32, 32, 3)
INPUTS = ImageInputs(zoo.Preprocessing(ResizeRule((32, 32))))


def flat(tree):
    return {"/".join(k): np.asarray(v) for k, v in flax.traverse_util.flatten_dict(tree).items()}


@functools.cache
def model_and_variables():
    options = {"norm_momentum": 0.9, "dropout_rate": 0.0}
    options["table"] = ((1, 8, 1, 1), (4, 8, 1, 2))  # layers 0 to 3
    model = zoo.create_model("mobilenet_v2_tiny", 4, **options)
    variables = steps.init_variables(model, SHAPE, seed=0)
    # Random, because zeros and ones would hide errors.
    rng = np.random.default_rng(0)
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), variables["batch_stats"]
    )
    return model, variables


def batch(seed, size=12):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, *SHAPE), np.uint8),
        "label": rng.integers(0, 4, size, np.int32),
        "index": np.arange(size, dtype=np.int32),
    }


@functools.cache
def train(*patterns, num_devices=1):
    """The variables before and after ten steps, as flat dicts, and the metrics of each step."""
    model, variables = model_and_variables()
    frozen = freezing.frozen_paths(variables["params"], patterns)
    optimizer = build_optimizer(recipe.Optimizer("adam", 1e-2))
    devices = Devices(jax.local_devices()[:num_devices])
    state = devices.replicate(
        jax.tree.map(jnp.array, steps.init_state(variables, optimizer, frozen))
    )
    step = devices.compile_train_step(
        steps.make_train_step(
            classification(model.clone(axis_name=steps.AXIS)),
            optimizer,
            INPUTS,
            recipe.Augmentation(),
            frozen,
        )
    )
    log = []
    for number in range(10):
        state, metrics = step(state, devices.split(batch(number)), steps.RngContext(0, 0))
        log.append(jax.device_get(metrics))
    after = {"params": state.params, "batch_stats": state.batch_stats}
    return flat(variables), flat(jax.device_get(after)), log


FROZEN = {
    ("backbone",): lambda name: not name.startswith("params/head"),
    ("features.:3",): lambda name: name.split("/")[2] in ("0", "1", "2"),
    ("features.3:", "head"): lambda name: name.split("/")[2] not in ("0", "1", "2"),
    ("features.2.depthwise.norm",): lambda name: "/features/2/depthwise/norm/" in name,
    # The other parameter of this norm is trainable, so its statistics are updated.
    ("features.0.norm.scale",): lambda name: name == "params/features/0/norm/scale",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patterns", "num_devices"),
    [
        (("backbone",), 1),
        pytest.param(("backbone",), 3, marks=pytest.mark.long),
        pytest.param(("features.:3",), 1, marks=pytest.mark.long),
        (("features.:3",), 3),
        (("features.3:", "head"), 1),
        pytest.param(("features.3:", "head"), 3, marks=pytest.mark.long),
        pytest.param(("features.2.depthwise.norm",), 1, marks=pytest.mark.long),
        (("features.2.depthwise.norm",), 3),
        (("features.0.norm.scale",), 1),
        pytest.param(("features.0.norm.scale",), 3, marks=pytest.mark.long),
    ],
)
def test_ten_steps_leave_exactly_the_frozen_arrays_unchanged(patterns, num_devices):
    """Bit for bit, including batch statistics. All other arrays change."""
    before, after, _ = train(*patterns, num_devices=num_devices)
    frozen = [name for name in before if FROZEN[patterns](name)]
    assert frozen and len(frozen) < len(before)
    for name in before:
        same = np.array_equal(before[name], after[name])
        assert same == (name in frozen), name


@pytest.mark.slow
def test_frozen_batch_norm_runs_in_inference_mode():
    """With a frozen backbone, the first loss is that of the untrained model in evaluation mode."""
    model, variables = model_and_variables()
    _, _, log = train("backbone", num_devices=1)
    data = batch(0)
    logits = jax.jit(model.apply)(variables, data["image"] / np.float32(255))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, data["label"]).mean()
    assert log[0]["loss"] == pytest.approx(float(expected), rel=1e-5)
    _, _, trainable = train("features.0.norm.scale", num_devices=1)
    assert abs(trainable[0]["loss"] - expected) > 1e-3


@pytest.mark.slow
def test_optimizer_has_no_state_for_frozen_parameters():
    _, variables = model_and_variables()
    frozen = freezing.frozen_paths(variables["params"], ["backbone"])
    state = steps.init_state(variables, build_optimizer(recipe.Optimizer("adam")), frozen)
    moments = [leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    head = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["head"]))
    assert sum(moments) == 2 * head


class UserModel(nn.Module):
    """A user's model that passes `use_running_average` in the call instead of the field."""

    num_classes: int = 4

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(name="norm")(x, use_running_average=not train)
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, (1, 2)))


def test_frozen_batch_norm_with_use_running_average_in_the_call():
    model = UserModel()
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)) + 5
    variables = model.init(jax.random.key(1), x)
    with freezing.batch_norm_in_inference_mode({("norm",)}):
        logits, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(logits, model.apply(variables, x))
    np.testing.assert_array_equal(updated["batch_stats"]["norm"]["mean"], 0)


NAMES = {
    "conv1": {"conv": {"kernel": 0, "bias": 0}},
    "features": {
        "3": {"expand": {"kernel": 0}},
        "14": {"expand": {"kernel": 0}, "project": {"kernel": 0}},
    },
    "head": {"kernel": 0},
}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("conv1", ["conv1/conv/bias", "conv1/conv/kernel"]),
        ("conv1.conv.bias", ["conv1/conv/bias"]),
        ("features/3/", ["features/3/expand/kernel"]),
        ("features.14:", ["features/14/expand/kernel", "features/14/project/kernel"]),
        ("features.:14", ["features/3/expand/kernel"]),
        ("features.0:15.exp*", ["features/14/expand/kernel", "features/3/expand/kernel"]),
        ("*", sorted("/".join(k) for k in flax.traverse_util.flatten_dict(NAMES))),
    ],
)
def test_patterns(pattern, expected):
    paths = sorted("/".join(path) for path in freezing.frozen_paths(NAMES, [pattern]))
    assert paths == expected
    assert len(freezing.frozen_paths(NAMES, ["backbone"])) == 5


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("conv2", "no parameter of this model matches 'conv2': did you mean conv1"),
        ("features.20:", "no parameter of this model matches 'features.20:': did you mean"),
        ("backbon", "no parameter of this model matches 'backbon': did you mean backbone"),
        (
            "features.:16",
            "the range in 'features.:16' ends at 16, beyond the last layer of this model: use at most 15",
        ),
        ("zzz", "no parameter of this model matches 'zzz': use conv1, features, head or backbone"),
        ("", "no parameter of this model matches '': use conv1"),
    ],
)
def test_patterns_without_a_match_raise_input_error(pattern, message):
    with pytest.raises(InputError) as caught:
        freezing.frozen_paths(NAMES, [pattern])
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["bakbone"], "stage 0 (train): no parameter of this model matches 'bakbone'"),
        (
            ["backbone", "head"],
            "stage 0 (train) freezes all parameters of mobilenet_v2_tiny: leave some",
        ),
    ],
)
def test_invalid_patterns_are_rejected_before_training(tmp_path, call, patterns, message):
    status, _, stderr = call(
        run,
        *("--model", "mobilenet_v2_tiny", "--dataset", "digits", "--workdir", tmp_path / "run"),
        *("--stages.0.freeze", *patterns),
    )
    assert status == 2
    assert message in stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_stage_starts_with_the_weights_of_the_previous_stage(
    tmp_path, call, monkeypatch, image_folder, small_net
):
    """A second stage that trains only the head ends with the backbone of the first."""
    first = Stage("all", epochs=1, optimizer=Optimizer("sgd", 1e-2))
    second = Stage("head", epochs=2, optimizer=Optimizer("sgd", 1e-2), freeze=("backbone",))
    common = {"model": "small_net", "batch_size": 16, "dataset": str(image_folder)}
    params = {}
    for name, stages in (("one", (first,)), ("two", (first, second))):
        run_recipe = Recipe(name=name, stages=stages, **common)
        monkeypatch.setitem(recipes.RECIPES, name, run_recipe)
        workdir = tmp_path / name
        status, _, stderr = call(run, "--from-recipe", name, "--workdir", workdir)
        assert status == 0, stderr
        params[name] = flat(last_state(workdir, run_recipe).params)
    for name, array in params["one"].items():
        same = np.array_equal(array, params["two"][name])
        assert same == (not name.startswith("head")), name


def last_state(workdir, run_recipe):
    from train.engine.checkpoints import Checkpoints

    model = zoo.create_model(run_recipe.model, 3)
    variables = steps.init_variables(model, (8, 8, 3), 0)

    def like(index):
        stage = run_recipe.stages[index]
        frozen = freezing.frozen_paths(variables["params"], stage.freeze)
        return steps.init_state(variables, build_optimizer(stage.optimizer), frozen)

    checkpoints = Checkpoints(workdir / "checkpoints")
    restored = checkpoints.restore(like, pytest.fail)
    checkpoints.close()
    assert restored.stage == len(run_recipe.stages) - 1
    return restored.train
