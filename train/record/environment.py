"""Environment of a run: hardware, versions, commit, command. Imports only the standard library."""

import functools
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zoo
from zoo.common.commands import SCRIPT, started_by_script

ROOT = Path(__file__).parents[2]  # the repository, or site-packages

TUNABLES = os.environ.get(
    "GLIBC_TUNABLES", ""
)  # as read by glibc at startup; later changes have no effect


def hardware(env: Mapping[str, Any]) -> str:
    """Describe the devices in the content of an env.json; for a CPU, its model and cores."""
    if env["backend"] != "cpu":
        return f"{len(env['devices'])} x {env['devices'][0]}"
    # Old runs did not record the CPU model; assume the current one.
    return f"{env.get('cpu') or cpu_model()}, {env['cores']} cores"


def cpu_model() -> str:
    """Name of the processor, or its architecture if the system does not report a name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Collect versions, devices, commit and command line of this process, for env.json."""
    import jax

    commit, dirty = own_commit(ROOT)
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.local_devices()],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "glibc_tunables": TUNABLES,
        "numerics": numerics(),
        "git_commit": commit,
        "git_dirty": dirty,
        "command": command_line(),
    }


def is_checkout(root: Path) -> bool:
    """Whether the packages in `root` are those of a source tree of this project, not an installed copy."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["name"] == SCRIPT
    except (OSError, ValueError, KeyError, TypeError):
        return False


@functools.cache
def own_commit(root: Path) -> tuple[str, bool]:
    """The commit of the source tree in `root`, and whether its tracked files differ from it.

    ("", False) for an installed copy, even inside another repository, whose commit says nothing about it.
    """
    # git sets these variables in hooks, where they name the hook's repository.
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE")
    variables = {name: value for name, value in os.environ.items() if name not in elsewhere}

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=root, env=variables, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    try:
        top = git("rev-parse", "--show-toplevel") if is_checkout(root) else ""
        if not top or Path(top).resolve() != root.resolve():
            return "", False
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except OSError:  # git is not installed
        return "", False


def numerics() -> dict[str, Any]:
    """JAX settings that change a run's numerical results, by the lowercase names of their environment variables."""
    import jax

    return {
        name: getattr(jax.config, name)
        for name in (
            "jax_enable_x64",
            "jax_default_matmul_precision",
            "jax_default_prng_impl",
            "jax_threefry_partitionable",
        )
    }


def command_line() -> list[str]:
    """The command that this process runs, as typed in a shell; `train.run` if called from Python."""
    if started_by_script():
        return [SCRIPT, *sys.argv[1:]]
    command = Path(sys.argv[0])
    if command.name == "__main__.py":  # of a package
        command = command.parent
    is_command = command.parent == ROOT / "train"
    return ["python", "-m", f"train.{command.stem}" if is_command else "train.run", *sys.argv[1:]]


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages that affect numerical results."""
    import flax
    import jax
    import numpy as np
    import optax
    import PIL

    return {
        SCRIPT: zoo.__version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,  # 12 and 13 resize to different bytes
    }
