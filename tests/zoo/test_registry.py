"""The registry: lookup by name, options, models of users and of other packages, preprocessing as JSON."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import zoo
from zoo import registry
from zoo.common import names

ROOT = Path(__file__).parents[2]


def test_builtin_modules_lists_exactly_the_registered_models():
    for module in set(registry.builtin_modules().values()):
        importlib.import_module(module)
    registered = {n: e.module for n, e in registry._ENTRIES.items() if e.module.startswith("zoo.")}
    assert registered == registry.builtin_modules()


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_model_has_a_description_and_a_source(name):
    entry = zoo.get_entry(name)
    assert entry.description.endswith(".")
    assert entry.source


def test_list_models_takes_a_pattern():
    assert zoo.list_models("sam_*") == ["sam_alexnet", "sam_alexnet_tiny"]
    assert zoo.list_models("no_such*") == []


def test_unknown_model_suggests_the_closest_name():
    with pytest.raises(
        zoo.InputError, match=r"unknown model 'sam_alexnt': did you mean sam_alexnet"
    ):
        zoo.create_model("sam_alexnt")


def test_unknown_option_suggests_the_closest_name():
    with pytest.raises(
        zoo.InputError, match="no option 'droput_rate': did you mean 'dropout_rate'"
    ):
        zoo.create_model("alexnet", droput_rate=0.1)


def test_options_reach_the_module():
    module = zoo.create_model("sam_alexnet", 7, dropout_rate=0.25)
    assert (module.num_classes, module.dropout_rate, module.attention) == (7, 0.25, True)


def test_negative_num_classes_is_rejected():
    with pytest.raises(zoo.InputError, match="num_classes is -1"):
        zoo.create_model("alexnet", -1)


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """A module of a user, outside the repository."""
    (tmp_path / "my_variants.py").write_text(
        textwrap.dedent(
            """
            import zoo
            from zoo.alexnet import PigAlexNet

            @zoo.register_model(input_shape=(64, 64, 3), num_classes=5, source="my thesis")
            def narrow_sam(num_classes: int) -> PigAlexNet:
                '''A narrow SAM-AlexNet.'''
                return PigAlexNet(num_classes, attention=True, stem=(5, 1), widths=(4, 4, 4, 4, 4))
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_variants"
    sys.modules.pop("my_variants", None)
    registry._ENTRIES.pop("narrow_sam", None)


def test_model_in_a_user_module(user_module):
    assert zoo.create_model(f"{user_module}:narrow_sam").widths == (4, 4, 4, 4, 4)
    assert zoo.model_info(f"{user_module}:narrow_sam").num_classes == 5
    assert "narrow_sam" in zoo.list_models()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_variants:narow_sam", "registers no model 'narow_sam' .it registers: narrow_sam"),
        ("my_variant:narrow_sam", "cannot import 'my_variant', .*no such module"),
    ],
)
def test_misspelled_model_in_a_user_module(user_module, name, message):
    with pytest.raises(zoo.InputError, match=message):
        zoo.create_model(name)


def test_registering_a_taken_name_raises():
    def alexnet(num_classes):
        """Another AlexNet."""

    with pytest.raises(ValueError, match="'alexnet' is already registered by zoo.alexnet"):
        zoo.register_model(input_shape=(8, 8, 3), num_classes=2, source="test")(alexnet)


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """An installed package that declares models."""
    (tmp_path / "their_nets.py").write_text(
        textwrap.dedent(
            """
            import zoo
            from zoo.alexnet import PigAlexNet

            @zoo.register_model(input_shape=(64, 64, 3), num_classes=5, source="their paper")
            def their_net(num_classes: int) -> PigAlexNet:
                '''Their net.'''
                return PigAlexNet(num_classes, attention=True, stem=(5, 1), widths=(4, 4, 4, 4, 4))

            def bare(num_classes):
                return PigAlexNet(num_classes)
            """
        )
    )
    declared = tmp_path / "their_nets-1.0.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nets\nVersion: 1.0\n")
    (declared / "entry_points.txt").write_text(
        "[jax_zoo.models]\ntheir_net = their_nets:their_net\nbare = their_nets:bare\n"
        "alexnet = their_nets:bare\nlost = no_such_module:net\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    names._entry_points.cache_clear()
    yield
    names._entry_points.cache_clear()
    sys.modules.pop("their_nets", None)
    registry._ENTRIES.pop("their_net", None)


def test_models_of_other_packages(other_package):
    assert {"their_net", "bare"} <= set(zoo.list_models())
    assert "their_nets" not in sys.modules
    assert zoo.create_model("their_net").widths == (4, 4, 4, 4, 4)
    assert zoo.model_info("their_net").source == "their paper"
    assert zoo.get_entry("alexnet").module == "zoo.alexnet"  # the built-in name takes precedence


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bare", "'bare' from another package is <function bare .* with @zoo.register_model"),
        ("lost", "'lost' is declared by another package as no_such_module:net, which cannot be"),
        ("thier_net", "did you mean their_net"),
    ],
)
def test_invalid_models_of_other_packages(other_package, name, message):
    with pytest.raises(zoo.InputError, match=message):
        zoo.get_entry(name)


def test_preprocessing_round_trips_through_json():
    rule = zoo.ResizeRule((224, 200), "crop", "bicubic", 0.875)
    preprocessing = zoo.Preprocessing(rule, "bgr", 1.0, (1.0, 2.0, 3.0))
    assert preprocessing.input_size == (224, 200)
    data = json.loads(json.dumps(preprocessing.to_json()))
    assert zoo.Preprocessing.from_json(data) == preprocessing


VERSION_0_1 = {
    "input_size": [224, 200],
    "resize": "crop",
    "interpolation": "bicubic",
    "channel_order": "bgr",
    "scale": 1.0,
    "mean": [1.0, 2.0, 3.0],
    "std": [1.0, 1.0, 1.0],
    "crop_fraction": 0.875,
}


def test_preprocessing_format_of_version_0_1():
    preprocessing = zoo.Preprocessing.from_json(VERSION_0_1)
    assert preprocessing == zoo.Preprocessing(
        zoo.ResizeRule((224, 200), "crop", "bicubic", 0.875), "bgr", 1.0, (1.0, 2.0, 3.0)
    )
    assert json.dumps(preprocessing.to_json()) == json.dumps(VERSION_0_1)
    assert zoo.Preprocessing.from_json({"input_size": [8, 8]}) == zoo.Preprocessing(
        zoo.ResizeRule((8, 8))
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"size": [8, 8]}, TypeError),
        ({"mode": "crop"}, TypeError),
        ({"gamma": 2.2}, TypeError),
        ({"resize": "stretch"}, ValueError),
        ({"crop_fraction": 0}, ValueError),
    ],
)
def test_invalid_preprocessing_is_rejected(change, error):
    with pytest.raises(error):
        zoo.Preprocessing.from_json(VERSION_0_1 | change)


LINEAR = """
import flax.linen as nn
import jax.numpy as jnp

from zoo.registry import register_model


class Linear(nn.Module):
    num_classes: int
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(7, dtype=self.dtype, name="backbone")(x.reshape(len(x), -1))
        x = nn.tanh(x).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="head")(x) if self.num_classes else x


@register_model(input_shape=(8, 8, 3), num_classes=5, source="a test")
def linear_tiny(num_classes):
    "Two dense layers."
    return Linear(num_classes)
"""


@pytest.mark.slow
def test_a_family_is_one_file_and_a_row_of_the_test_table(tmp_path):
    """In a copy of the project: nothing else has to change for the tests of all models to pass for a new one."""
    for folder in ("zoo", "tests"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("datasets", "train", "benchmarks", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "zoo" / "linear.py").write_text(LINEAR)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words):
        command = [sys.executable, *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    code = "import sys, zoo; print('linear_tiny' in zoo.list_models(), 'jax' in sys.modules)"
    assert run("-c", code).stdout == "True False\n"
    table = tmp_path / "tests" / "zoo" / "test_models.py"
    pytest_command = ("-m", "pytest", "-q", "-n", "0", "-m", "not long", str(table))
    done = run(*pytest_command, "-k", "complete")
    assert done.returncode == 1 and "Extra items in the right set:" in done.stdout, done.stdout
    row = 'PARAMETERS = {\n    "linear_tiny": (1391, 1391),  # (8 * 8 * 3 + 1) * 7 + (7 + 1) * 5'
    table.write_text(table.read_text("utf-8").replace("PARAMETERS = {", row, 1))
    done = run(*pytest_command, "-k", "linear or complete or every_family")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 10
