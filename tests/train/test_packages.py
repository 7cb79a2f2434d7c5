"""A third-party package adds a model, a data set, an objective, an optimizer and a writer; a run uses all of them."""

import json
import math
import subprocess
import sys
import zipfile

import pytest

ENTRY_POINTS = """
[jax_zoo.models]
striped_net = zoo_extras:striped_net
[jax_zoo.datasets]
stripes = zoo_extras.stripes
[jax_zoo.objectives]
squared = zoo_extras:SQUARED
[jax_zoo.optimizers]
lion = zoo_extras:lion
[jax_zoo.writers]
diary = zoo_extras:Diary
broken = zoo_extras:nothing
"""

PACKAGE = '''
"""One of each kind."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from train.engine.objectives import Entry, Objective, classification
from train.record.log import RunLog
from zoo import register_model


class StripedNet(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Conv(4, (3, 3))(x)).mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


@register_model(input_shape=(12, 12, 3), num_classes=2, source="a test")
def striped_net(num_classes: int) -> StripedNet:
    """Classifies stripes."""
    return StripedNet(num_classes)


def squared(model, stage):
    """Squared error of the probabilities; everything else as for classification."""
    base = classification(model)

    def loss(params, batch_stats, batch, rng):
        logits = model.apply({"params": params}, batch["image"], train=True)
        wanted = jax.nn.one_hot(batch["label"], logits.shape[-1])
        value = jnp.mean((jax.nn.softmax(logits) - wanted) ** 2)
        accuracy = jnp.mean(logits.argmax(-1) == batch["label"])
        return value, (batch_stats, {"loss": value, "accuracy": accuracy})

    return Objective(loss, base.outputs, base.scores, "accuracy")


SQUARED = Entry(squared, frozenset(["classification"]), "classes", reads_labels=True)


def lion(spec, rate):
    return [optax.scale_by_lion(spec.b1, spec.b2), optax.scale_by_learning_rate(rate)]


class Diary(RunLog):
    def __init__(self, directory, recipe):
        self.path = directory / "diary.txt"
        self.recipe = recipe

    def _write(self, text):
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text + "\\n")

    def run_started(self, start):
        self._write(f"{self.recipe.model} starts at {start.step}")

    def epoch(self, record):
        self._write(f"epoch {record.epoch}: {record.val_accuracy!r}")

    def run_ended(self):
        self._write("ends")
'''

STRIPES = '''
"""Images with horizontal or vertical stripes."""
import hashlib
from datasets.dataset import Dataset, DatasetInfo, Options

INFO = DatasetInfo(name="stripes", description="stripes", source="a test", num_classes=2)


def build(options: Options) -> Dataset:
    import numpy as np
    from datasets.formats.examples import Example, Layout, assemble

    rng = np.random.default_rng(options.seed)
    images, examples = [], []
    for index in range(60):
        stripes = np.tile([[0, 0, 0, 255, 255, 255]], (12, 2))
        stripes = stripes if index % 2 else stripes.T
        noise = rng.integers(0, 40, (12, 12))
        image = np.clip(stripes + noise, 0, 255).astype(np.uint8)
        images.append(np.repeat(image[..., None], 3, axis=2))
        name = "down" if index % 2 else "across"
        examples.append(Example(f"{name}/{index}", index, name, None))
    return assemble(
        Layout(examples, ("across", "down"), (), []), INFO, options,
        digests={e.id: hashlib.sha256(images[e.content].tobytes()).hexdigest() for e in examples},
        load=lambda example: images[example.content], perceptual_hashes={},
    )
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder in which pip has installed the package."""
    root = tmp_path_factory.mktemp("packages")
    wheel = root / "zoo_extras-1.0-py3-none-any.whl"
    info = "zoo_extras-1.0.dist-info"
    files = {
        "zoo_extras/__init__.py": PACKAGE,
        "zoo_extras/stripes.py": STRIPES,
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: zoo-extras\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": ENTRY_POINTS,
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    pip += ["--disable-pip-version-check", "--target", str(root / "site"), str(wheel)]
    subprocess.run(pip, check=True)
    return root / "site"


@pytest.fixture
def command(site, command_environment, tmp_path):
    """Run `python -m train.run` with the package installed."""

    def run(*words):
        path = f"{command_environment['PYTHONPATH']}:{site}"
        return subprocess.run(
            [sys.executable, "-m", "train.run", *map(str, words)],
            env=command_environment | {"PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_a_run_uses_every_kind_of_plugin(command, tmp_path):
    words = (
        "--model striped_net --dataset stripes --writers diary --epochs 3 --batch-size 12 --lr 0.01"
    )
    words += " --stages.0.objective squared --stages.0.optimizer.name lion --workdir out"
    done = command(*words.split())
    assert done.returncode == 0, done.stderr
    run = tmp_path / "out"
    best = json.loads((run / "best/model.json").read_text("utf-8"))
    assert (best["model"], best["objective"], best["dataset"]) == (
        "striped_net",
        "squared",
        "stripes",
    )
    assert best["class_names"] == ["across", "down"]
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    # The mean squared error of two probabilities starts at about 1/4; a cross-entropy would start at log 2.
    assert 0 < steps[0]["loss"] < math.log(2) / 2
    # Lion changes each of the 3 * 3 * 3 * 4 + 4 + 4 * 2 + 2 = 122 parameters by the learning rate.
    assert steps[0]["update_norm"] == pytest.approx(0.01 * math.sqrt(122), rel=1e-3)
    diary = (run / "diary.txt").read_text("utf-8").splitlines()
    accuracies = [row.split(",")[6] for row in (run / "summary.csv").read_text().splitlines()[1:]]
    assert diary == [
        "striped_net starts at 0",
        *(f"epoch {i}: {float(value)!r}" for i, value in enumerate(accuracies, 1)),
        "ends",
    ]
    test = json.loads((run / "test.json").read_text("utf-8"))
    assert test["scored_by"] == "squared" and test["num_examples"] == 6


def test_names_are_listed_and_bad_names_are_one_line(command, tmp_path):
    assert "striped_net" in command("--list-models").stdout.splitlines()
    assert "stripes" in command("--list-datasets").stdout.splitlines()
    for words, message in (
        ("--writers diry", "unknown run-log writer 'diry': did you mean diary?"),
        ("--writers broken", "cannot be imported"),
        ("--stages.0.optimizer.name lino", "unknown optimizer 'lino': did you mean lion?"),
        ("--stages.0.objective squarde", "unknown objective 'squarde': did you mean squared"),
        ("--dataset stripe", "did you mean stripes?"),
    ):
        model = "--model striped_net --dataset stripes" if "--dataset" not in words else ""
        done = command(*f"{model} {words} --workdir out".split())
        assert done.returncode == 2, (words, done.stderr)
        assert message in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
