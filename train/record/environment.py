"""What computed something: names for a reader. Imports the standard library only."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def hardware(env: Mapping[str, Any]) -> str:
    """The device of an env.json, and for a CPU its model and cores."""
    if env["backend"] != "cpu":
        return f"{len(env['devices'])} x {env['devices'][0]}"
    # Runs before this was written down are named by the machine that asks.
    return f"{env.get('cpu') or cpu_model()}, {env['cores']} cores"


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
