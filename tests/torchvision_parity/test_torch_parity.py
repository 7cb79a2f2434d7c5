"""Equality with torchvision's nets, where torch is installed: see torch_compare.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch_compare

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "parity_torch.json"


def within_bounds(result):
    assert 0.1 < result["logits_max"] < 1000
    for part, error in result.get("step", {}).items():
        assert error < 1e-4, part
    assert result.get("logits_max_error", 0) < 1e-4  # in records from before there were two forms
    for forms in ("plain", "cpu"):
        for part, error in result.get(forms, {}).items():
            # Rounding decides the sign of some numbers that enter a ReLU (tests/zoo/parity.py), and ResNet-50 has
            # many layers on few pixels: 0.018 with either, where float64 gives 9e-8.
            assert error < (5e-2 if part == "gradients" else 1e-4), (forms, part)


# Three families here; the others in the long tests.
SHORT = ("alexnet", "resnet50", "mobilenet_v2 x 0.35")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [n if n in SHORT else pytest.param(n, marks=pytest.mark.long) for n in torch_compare.CASES],
)
def test_equal_to_torchvision(name):
    python = torch_compare.torch_python()
    if python is None:
        pytest.skip("no torch here: set JAX_ZOO_TORCH_PYTHON to a Python that has it")
    result = torch_compare.compare(torch_compare.CASES[name], python)
    assert {"plain", "cpu"} < set(result)
    within_bounds(result)


def test_the_record_holds_every_case_within_the_bounds():
    """benchmarks/results/parity_torch.json, written by torch_compare.py."""
    record = json.loads(RECORD.read_text())
    assert set(record["cases"]) == set(torch_compare.CASES)
    for name, result in record["cases"].items():
        assert result["case"] == torch_compare.CASES[name]
        within_bounds(result)
    assert {r["case"]["model"] for r in record["cases"].values() if "step" in r} >= {
        "vgg11",
        "resnet18",
        "resnet50",
        "mobilenet_v2",
    }


def test_without_torch_the_command_says_what_to_do(tmp_path):
    """In a Python that hides torch."""
    code = (
        "import sys, importlib.util as u, runpy; f = u.find_spec;"
        " u.find_spec = lambda n, *a: None if n == 'torch' else f(n, *a);"
        f" sys.argv = ['compare', '--out', {str(tmp_path / 'out.json')!r}];"
        f" runpy.run_path({torch_compare.__file__!r}, run_name='__main__')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ZOO_TORCH_PYTHON"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert done.stderr == "error: no torch here: set JAX_ZOO_TORCH_PYTHON to a Python that has it\n"


def test_names_of_torchvision_map_to_ours():
    """A few by hand, from the docstrings of the families."""
    vgg = torch_compare.vgg_modules((2, 2, 3, 3, 3))
    assert vgg["features.12"] == "block3/conv2/conv"
    assert vgg["features.28"] == "block5/conv3/conv"
    assert torch_compare.resnet_path("bn1") == "conv1/norm"
    assert torch_compare.resnet_path("layer2.0.bn3") == "layer2/0/conv3/norm"
    assert torch_compare.resnet_path("layer2.0.downsample.0") == "layer2/0/downsample/conv"
    assert torch_compare.mobilenet_path("features.0.1") == "features/0/norm"
    assert torch_compare.mobilenet_path("features.1.conv.1") == "features/1/project/conv"
    assert torch_compare.mobilenet_path("features.14.conv.1.0") == "features/14/depthwise/conv"
    assert torch_compare.mobilenet_path("features.18.0") == "features/18/conv"
