"""Strictness and determinism for the whole suite, set before JAX starts."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".pytest_cache"

os.environ["JAX_PLATFORMS"] = "cpu"
# Four simulated devices for the tests that ask for them; commands are tested in processes of their own.
os.environ["XLA_FLAGS"] = (
    "--xla_cpu_experimental_ynn_fusion_type= --xla_force_host_platform_device_count=4"
)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE / "xla")
os.environ["JAX_ZOO_CACHE"] = str(CACHE / "zoo")
os.environ["KERAS_BACKEND"] = "jax"


def pytest_configure(config: pytest.Config) -> None:
    import jax

    jax.config.update("jax_numpy_rank_promotion", "raise")
    config.addinivalue_line("filterwarnings", "error")
    # Keras 3.15's variables predate NumPy 2's copy keyword.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
    )
    config.addinivalue_line("markers", "slow: takes more than ten seconds; CI runs these too")


@pytest.fixture
def command_environment() -> dict[str, str]:
    """The environment of a command that a test starts: one device, the suite's caches."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return environment | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
