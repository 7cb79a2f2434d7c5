"""The cache directory for derived files."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from zoo.common.files import whole_file as whole_file


def cache_dir() -> Path:
    """Return the cache directory: $JAX_ZOO_CACHE, or else the user's cache directory."""
    if os.environ.get("JAX_ZOO_CACHE"):
        return Path(os.environ["JAX_ZOO_CACHE"]).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("jax-zoo"))


def write_cache(path: Path, content: Any) -> None:
    """Replace a JSON file atomically. A failure is ignored: the next run computes the content again."""
    with contextlib.suppress(OSError), whole_file(path) as file:
        file.write(json.dumps(content).encode())
