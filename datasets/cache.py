"""The cache directory for derived files, and atomic writes."""

import contextlib
import glob
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

ABANDONED_SECONDS = 900  # without a write


def cache_dir() -> Path:
    """Return the cache directory: $JAX_ZOO_CACHE, or else the user's cache directory."""
    if os.environ.get("JAX_ZOO_CACHE"):
        return Path(os.environ["JAX_ZOO_CACHE"])
    import platformdirs

    return Path(platformdirs.user_cache_dir("jax-zoo"))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically: it appears at `path` when the block ends, and not at all if the block fails.

    Temporary files that a killed process left are removed by a later write of the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for abandoned in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - abandoned.stat().st_mtime > ABANDONED_SECONDS:
                abandoned.unlink()
    descriptor, temporary = tempfile.mkstemp(".part", f"{path.name}.", path.parent)
    try:
        with open(descriptor, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_cache(path: Path, content: Any) -> None:
    """Replace a JSON file atomically. A failure is ignored: the next run computes the content again."""
    with contextlib.suppress(OSError), whole_file(path) as file:
        file.write(json.dumps(content).encode())
