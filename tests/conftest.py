"""Settings and fixtures of the test suite; environment variables are set before JAX is imported."""

import gc
import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".pytest_cache"

os.environ["JAX_PLATFORMS"] = "cpu"
# Four simulated devices, for the tests that need them. Most of the suite's time is compilation, which takes a quarter
# as long without LLVM's optimizations, in one LLVM module, and with XLA's older code generator (gone in JAX 0.12).
# Tests that start commands in new processes compile with the default settings.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_experimental_ynn_fusion_type= --xla_force_host_platform_device_count=4"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
if tuple(map(int, metadata.version("jax").split(".")[:2])) < (0, 12):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_ZOO_CACHE"] = str(CACHE / "zoo")
os.environ["KERAS_BACKEND"] = "jax"
# Test processes share the cores, and threads of OpenMP spin while they wait for one that another process has displaced:
# on a busy machine, t-SNE of 60 points took 20 s of CPU time, and takes 0.2 s with one thread.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    import hypothesis
    import jax

    # Reproducible examples, without time limits that depend on the load of the machine.
    hypothesis.settings.register_profile("suite", max_examples=50, derandomize=True, deadline=None)
    hypothesis.settings.load_profile("suite")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    config.addinivalue_line("filterwarnings", "error")
    # Keras 3.15's variables do not support NumPy 2's copy keyword.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    )
    config.addinivalue_line(
        "markers", "slow: compiles or trains for about a second or more; not in `make test-fast`"
    )
    config.addinivalue_line("markers", "figures: runs of this test draw figures")
    config.addinivalue_line("markers", "long: runs in `make test-long`, not in CI")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, so that the test processes, which get files in order, finish together."""
    items.sort(key=lambda item: not item.path.name.startswith("test_smoke"))


MAX_MAPS = 30_000


@pytest.fixture(autouse=True, scope="module")
def _limit_memory_maps():
    """Clear JAX's caches in time: XLA segfaults at Linux's limit of 65,530 memory maps per process."""
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > MAX_MAPS:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture
def command_environment() -> dict[str, str]:
    """Environment for commands in new processes: one device, and the suite's caches."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Image folder with three classes that differ in color, and 30 images of 20 x 24 pixels per class."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("data") / "pens"
    rng = np.random.default_rng(0)
    colors = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
    for name, color in colors.items():
        (root / name).mkdir(parents=True)
        for index in range(30):
            pixels = np.clip(rng.normal(color, 40, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def call(capsys, monkeypatch):
    """Run a command in this process: `call(module, *arguments)` returns (status, stdout, stderr)."""

    from train import cli

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        status = 0
        try:
            cli.main(module.main)
        except SystemExit as stopped:
            status = stopped.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def small_run(image_folder, tmp_path_factory):
    """Run directory of a finished run of two epochs, trained on four simulated devices."""
    from train import run

    workdir = tmp_path_factory.mktemp("runs") / "pens"
    text = f"--model sam_alexnet_tiny --dataset {image_folder} --workdir {workdir} --epochs 2 --lr 0.001"
    text += " --batch-size 16 --model-options norm_momentum=0.5 dropout_rate=0.0"
    arguments = run.parse(text.split())
    run.run(arguments.recipe, arguments.workdir)
    return workdir
