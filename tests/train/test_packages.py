"""A third-party package adds a model, a data set, an objective, an optimizer and a writer; a run uses all of them."""

import json
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path

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


RUN = """
import contextlib, io, json, os, sys
from train import cli, run

for words in json.load(sys.stdin):
    sys.argv = ["train.run", *words.split()]
    status, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(run.main)
        except SystemExit as stopped:
            status = stopped.code
    print(json.dumps([status, out.getvalue(), err.getvalue(), os.path.exists("out")]))
"""
LISTS = ("--list-models", "--list-datasets")
MISTAKES = {
    "--writers diry": "unknown run-log writer 'diry': did you mean diary?",
    "--writers broken": "cannot be imported",
    "--stages.0.optimizer.name lino": "unknown optimizer 'lino': did you mean lion?",
    "--stages.0.objective squarde": "unknown objective 'squarde': did you mean squared",
    "--dataset stripe": "did you mean stripes?",
}
TRAINING = (
    "--model striped_net --dataset stripes --writers diary --epochs 3 --batch-size 12 --lr 0.01"
    " --stages.0.objective squared --stages.0.optimizer.name lion --workdir out"
)


@pytest.fixture(scope="module")
def commands(site, tmp_path_factory):
    """Run `python -m train.run` with the package installed, all commands in one new process.

    Returns the folder, and [status, stdout, stderr, whether the folder `out` exists] of each command.
    """
    folder = tmp_path_factory.mktemp("work")
    words = [*LISTS]
    for mistake in MISTAKES:
        model = "--model striped_net --dataset stripes" if "--dataset" not in mistake else ""
        words.append(f"{model} {mistake} --workdir out")
    words.append(TRAINING)
    path = f"{Path(__file__).parents[2]}:{site}"
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
        cwd=folder,
        input=json.dumps(words),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = (*LISTS, *MISTAKES, TRAINING)
    return folder, dict(zip(names, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.slow
def test_a_run_uses_every_kind_of_plugin(commands):
    folder, results = commands
    status, _, stderr, _ = results[TRAINING]
    assert status == 0, stderr
    run = folder / "out"
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


@pytest.mark.slow
def test_names_are_listed_and_bad_names_are_one_line(commands):
    _, results = commands
    for flag, name in zip(LISTS, ("striped_net", "stripes"), strict=True):
        assert name in results[flag][1].splitlines()
    for words, message in MISTAKES.items():
        status, _, stderr, wrote = results[words]
        assert status == 2, (words, stderr)
        assert message in stderr and "Traceback" not in stderr
        assert not wrote
