"""Our nets beside torchvision's: the same weights, the same images.

    python tests/torchvision_parity/torch_compare.py --out benchmarks/results/parity_torch.json

compares every case and records the errors. torch lives in a Python of its own: JAX_ZOO_TORCH_PYTHON, or this
one if torch can be imported here.
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

# Odd sizes find errors of padding. A step sums over few numbers in float64: small images do.
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
    """The interpreter that has torch, or None."""
    given = os.environ.get("JAX_ZOO_TORCH_PYTHON")
    if given:
        return given
    return sys.executable if importlib.util.find_spec("torch") else None


# Names: a module of torchvision to a path of ours.


def vgg_modules(blocks: tuple[int, ...]) -> dict[str, str]:
    modules = {"classifier.0": "top/fc1", "classifier.3": "top/fc2", "classifier.6": "head"}
    index = 0
    for block, count in enumerate(blocks, start=1):
        for conv in range(1, count + 1):
            modules[f"features.{index}"] = f"block{block}/conv{conv}/conv"
            index += 2  # and a ReLU
        index += 1  # a pool
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
    if outer := re.fullmatch(r"features\.(\d+)\.([01])", module):  # the stem and the last
        return f"features/{outer[1]}/{('conv', 'norm')[int(outer[2])]}"
    index, inner = re.fullmatch(r"features\.(\d+)\.conv\.(.+)", module).groups()
    entries = ["0.0", "0.1", "1", "2"] if index == "1" else ["0.0", "0.1", "1.0", "1.1", "2", "3"]
    parts = ["depthwise", "project"] if index == "1" else ["expand", "depthwise", "project"]
    place = entries.index(inner)
    return f"features/{index}/{parts[place // 2]}/{('conv', 'norm')[place % 2]}"


LEAVES = {"running_mean": "mean", "running_var": "var", "bias": "bias"}


def our_arrays(case: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Torch's arrays, named "module.leaf", under our names and in our layout."""
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
    """Errors of one case: of the logits, absolute and in float32; of a step, relative, in float64 and in float32.
    What is in float32 is computed twice: by the net as Flax makes it, and by the fast forms for a CPU."""
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

    def part(prefix: str) -> dict[str, Any]:
        chosen = {k.removeprefix(prefix): v for k, v in reference.items() if k.startswith(prefix)}
        return our_arrays(case, chosen)

    images, labels = reference["images"], reference["labels"]
    theirs = None
    if case.get("step"):
        theirs = parity.Step(float(reference["loss"]), part("gradients/"), part("statistics/"))
    errors: dict[str, Any] = {"logits_max": float(np.max(np.abs(reference["logits"])))}
    if theirs is not None:
        step_model = model.clone(dtype="float64", dropout_rate=0.0)
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda leaf: leaf.astype("float64"), variables)
            ours = parity.zoo_step(step_model, wide, images.astype("float64"), labels)
        errors["step"] = parity.step_errors(ours, theirs)
    for name, forms in (("plain", ()), ("cpu", cpu.FORMS)):
        with cpu.kernels(forms):
            logits = parity.zoo_logits(model, variables, images)
            found = {"logits_max_error": float(np.max(np.abs(logits - reference["logits"])))}
            if theirs is not None:
                ours = parity.zoo_step(model.clone(dropout_rate=0.0), variables, images, labels)
                errors_of = parity.step_errors(ours, theirs)
                found |= {key: errors_of[key] for key in ("loss", "statistics")}
                found["gradients"] = parity.gradient_error(ours, theirs)
            errors[name] = found
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
        sys.exit("error: no torch here: set JAX_ZOO_TORCH_PYTHON to a Python that has it")
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
        "what": "ours against torchvision's nets in torch, from random weights that torch saved and"
        " zoo.load_pretrained read. step: one training step in float64, largest error of any array relative to its"
        " largest number. plain (the net as Flax makes it) and cpu (the fast forms for a CPU), in float32: logits in"
        " evaluation mode, absolute errors; the same training step, of its gradients the length of the difference over"
        " the length of torch's",
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
