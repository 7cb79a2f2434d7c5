"""Compare the zoo's nets to torchvision's, with the same weights and images.

    python tests/torchvision_parity/torch_compare.py --out benchmarks/results/parity_torch.json

compares all cases and records the errors. torch may be installed for another Python interpreter, which
JAX_ZOO_TORCH_PYTHON names; the default is this one, if it has torch.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "zoo")]

# Odd sizes reveal padding errors. Steps are compared in float64, for which small images are sufficient.
CASES: dict[str, dict[str, Any]] = {
    "alexnet": {"model": "alexnet_torchvision", "size": [64, 93], "batch": 4},
    "alexnet at 224": {"model": "alexnet_torchvision", "size": [224, 224], "batch": 2},
    "vgg11": {"model": "vgg11", "size": [40, 65], "batch": 4, "hidden": 64, "step": True},
    "vgg16 at 64": {"model": "vgg16", "size": [64, 64], "batch": 2},
    "vgg16 at 224": {"model": "vgg16", "size": [224, 224], "batch": 1},
    "resnet18": {"model": "resnet18", "size": [64, 51], "batch": 4, "step": True},
    "resnet50": {"model": "resnet50", "size": [48, 48], "batch": 4, "step": True},
    "resnet50 at 224": {"model": "resnet50", "size": [224, 224], "batch": 2},
    "mobilenet_v2": {"model": "mobilenet_v2", "size": [33, 48], "batch": 4, "step": True},
    "mobilenet_v2 at 224": {"model": "mobilenet_v2", "size": [224, 224], "batch": 2},
    "mobilenet_v2 x 0.35": {
        "model": "mobilenet_v2",
        "width": 0.35,
        "size": [33, 32],
        "batch": 4,
        "step": True,
    },
}
VGG_BLOCKS = {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3)}


def torch_python() -> str | None:
    """Path of a Python interpreter that has torch, or None."""
    given = os.environ.get("JAX_ZOO_TORCH_PYTHON")
    if given:
        return given
    return sys.executable if importlib.util.find_spec("torch") else None


# These functions map names of torchvision's modules to paths of the zoo.


def vgg_modules(blocks: tuple[int, ...]) -> dict[str, str]:
    modules = {"classifier.0": "top/fc1", "classifier.3": "top/fc2", "classifier.6": "head"}
    index = 0
    for block, count in enumerate(blocks, start=1):
        for conv in range(1, count + 1):
            modules[f"features.{index}"] = f"block{block}/conv{conv}/conv"
            index += 2  # convolution and ReLU
        index += 1  # pool
    return modules


def resnet_path(module: str) -> str:
    path = module.replace(".", "/")
    path = re.sub(r"^fc$", "head", path)
    path = re.sub(r"downsample/0$", "downsample/conv", path)
    path = re.sub(r"downsample/1$", "downsample/norm", path)
    path = re.sub(r"(conv\d)$", r"\1/conv", path)
    return re.sub(r"bn(\d)$", r"conv\1/norm", path)


def mobilenet_path(module: str) -> str:
    if module == "classifier.1":
        return "head"
    if outer := re.fullmatch(r"features\.(\d+)\.([01])", module):  # stem and last convolution
        return f"features/{outer[1]}/{('conv', 'norm')[int(outer[2])]}"
    index, inner = re.fullmatch(r"features\.(\d+)\.conv\.(.+)", module).groups()
    entries = ["0.0", "0.1", "1", "2"] if index == "1" else ["0.0", "0.1", "1.0", "1.1", "2", "3"]
    convs = ["depthwise", "project"] if index == "1" else ["expand", "depthwise", "project"]
    entry = entries.index(inner)
    return f"features/{index}/{convs[entry // 2]}/{('conv', 'norm')[entry % 2]}"


LEAVES = {"running_mean": "mean", "running_var": "var", "bias": "bias"}


def from_torch(case: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Convert torch's arrays, named "module.leaf", to the names and layout of the zoo."""
    model = case["model"]
    if model in VGG_BLOCKS:
        path_of = vgg_modules(VGG_BLOCKS[model]).__getitem__
    else:
        path_of = mobilenet_path if model == "mobilenet_v2" else resnet_path
    renamed = {}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        renamed[f"{path_of(module)}/{LEAVES.get(leaf, leaf)}"] = array
    return renamed


def compare(case: Mapping[str, Any], python: str) -> dict[str, Any]:
    """Compute the errors of one case.

    These are the absolute error of the logits in float32, and relative errors of a training step in float64 and in
    float32. In float32, both are computed with Flax's layers ("plain") and with the fast CPU kernels ("cpu").
    """
    import jax
    import numpy as np
    import parity

    import zoo
    from zoo import cpu

    options = {"width": case["width"]} if "width" in case else {}
    if "hidden" in case:
        options["head_widths"] = (case["hidden"],) * 2
    with tempfile.TemporaryDirectory() as folder:
        path, saved = Path(folder) / "reference.npz", Path(folder) / "weights.pth"
        command = [
            python,
            str(HERE / "torch_reference.py"),
            json.dumps(case),
            str(path),
            str(saved),
        ]
        subprocess.run(command, check=True)
        with np.load(path) as file:
            reference = {name: file[name] for name in file.files}
        model, variables, _ = zoo.load_pretrained(case["model"], saved, **options)

    def arrays(prefix: str) -> dict[str, Any]:
        found = {k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)}
        return from_torch(case, found)

    images, labels = reference["images"], reference["labels"]
    torch_step = None
    if case.get("step"):
        loss = float(reference["loss"])
        torch_step = parity.Step(loss, arrays("gradients/"), arrays("statistics/"))
    errors: dict[str, Any] = {"logits_max": float(np.max(np.abs(reference["logits"])))}
    if torch_step is not None:
        step_model = model.clone(dtype="float64", dropout_rate=0.0)
        with jax.enable_x64(True):
            variables64 = jax.tree.map(lambda leaf: leaf.astype("float64"), variables)
            zoo_step = parity.zoo_step(step_model, variables64, images.astype("float64"), labels)
        errors["step"] = parity.step_errors(zoo_step, torch_step)
    for name, kernels in (("plain", ()), ("cpu", cpu.KERNELS)):
        with cpu.kernels(kernels):
            logits = parity.zoo_logits(model, variables, images)
            float32 = {"logits_max_error": float(np.max(np.abs(logits - reference["logits"])))}
            if torch_step is not None:
                step_model = model.clone(dropout_rate=0.0)
                zoo_step = parity.zoo_step(step_model, variables, images, labels)
                step_errors = parity.step_errors(zoo_step, torch_step)
                float32 |= {key: step_errors[key] for key in ("loss", "statistics")}
                float32["gradients"] = parity.gradient_error(zoo_step, torch_step)
            errors[name] = float32
    errors["versions"] = [str(v) for v in reference["versions"]]
    return errors


def results(python: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, case in CASES.items():
        yield name, {"case": case, **compare(case, python)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    python = torch_python()
    if python is None:
        sys.exit("error: torch is not installed: set JAX_ZOO_TORCH_PYTHON to a Python that has it")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_experimental_ynn_fusion_type=")
    cases = {}
    for name, result in results(python):
        print(name, json.dumps({k: v for k, v in result.items() if k != "case"}), flush=True)
        cases[name] = result
    import flax
    import jax

    versions = [result.pop("versions") for result in cases.values()][0]
    git = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    record = {
        "what": "the zoo's nets against torchvision's in torch, with random weights saved by torch and loaded by"
        " zoo.load_pretrained. step: one training step in float64, largest error of any array relative to its largest"
        " absolute value. plain (Flax's layers) and cpu (the fast CPU kernels), in float32: absolute error of the"
        " logits in evaluation mode; the same training step, with the relative L2 error of all gradients",
        "command": "python tests/torchvision_parity/torch_compare.py"
        " --out benchmarks/results/parity_torch.json",
        "commit": git.stdout.strip(),
        "hardware": f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "flax": flax.__version__,
            "torch": versions[0],
            "torchvision": versions[1],
        },
        "cases": cases,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
