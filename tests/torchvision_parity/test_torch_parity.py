"""Equality with torchvision's nets, if torch is installed: see torch_compare.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch_compare

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "parity_torch.json"


def assert_within_bounds(result):
    assert 0.1 < result["logits_max"] < 1000
    # Records from before the comparison of the CPU kernels have `logits_max_error` instead of "plain" and "cpu".
    assert "logits_max_error" in result or {"plain", "cpu"} <= set(result)
    assert result.get("logits_max_error", 0) < 1e-4
    for quantity, error in result.get("step", {}).items():
        assert error < 1e-4, quantity
    for implementation in ("plain", "cpu"):
        for quantity, error in result.get(implementation, {}).items():
            # In float32, rounding determines the sign of some inputs of a ReLU (tests/zoo/parity.py). ResNet-50 has
            # many layers with few pixels: its error is 0.018 with both implementations, and 9e-8 in float64.
            bound = 5e-2 if quantity == "gradients" else 1e-4
            assert error < bound, (implementation, quantity)


# In CI, one net of three families. Of ResNet-18 the logits alone, since its training step takes most of a minute: the
# steps of MobileNetV2 here, of a small ResNet beside Keras and of resnet_tiny beside torch have the same layers.
SHORT = {name: torch_compare.CASES[name] for name in ("alexnet", "mobilenet_v2 x 0.35")}
SHORT["logits of resnet18"] = torch_compare.CASES["resnet18"] | {"step": False}
LONG = {name: case for name, case in torch_compare.CASES.items() if case not in SHORT.values()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=name) for name, case in SHORT.items()),
        *(pytest.param(case, id=name, marks=pytest.mark.long) for name, case in LONG.items()),
    ],
)
def test_equal_to_torchvision(case):
    python = torch_compare.torch_python()
    if python is None:
        pytest.skip("torch is not installed: set JAX_ZOO_TORCH_PYTHON to a Python that has it")
    result = torch_compare.compare(case, python)
    assert {"plain", "cpu"} < set(result)
    assert_within_bounds(result)


def test_recorded_errors_of_all_cases_are_within_bounds():
    """The record is benchmarks/results/parity_torch.json, written by torch_compare.py."""
    record = json.loads(RECORD.read_text())
    assert set(record["cases"]) == set(torch_compare.CASES)
    for name, result in record["cases"].items():
        assert result["case"] == torch_compare.CASES[name]
        assert_within_bounds(result)
    assert {r["case"]["model"] for r in record["cases"].values() if "step" in r} >= {
        "vgg11",
        "resnet18",
        "resnet50",
        "mobilenet_v2",
    }


def test_command_without_torch_says_what_to_do(tmp_path):
    """In a process in which torch cannot be found."""
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
    message = "torch is not installed: set JAX_ZOO_TORCH_PYTHON to a Python that has it"
    assert done.stderr == f"error: {message}\n"


def test_torchvision_names_map_to_paths():
    """Examples from the docstrings of the families."""
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
