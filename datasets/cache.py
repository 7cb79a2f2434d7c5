"""Where derived files are kept, and how they appear there: whole or not at all."""

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
    """Where derived files are kept: $JAX_ZOO_CACHE, else the user's cache directory."""
    if os.environ.get("JAX_ZOO_CACHE"):
        return Path(os.environ["JAX_ZOO_CACHE"])
    import platformdirs

    return Path(platformdirs.user_cache_dir("jax-zoo"))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which appears at `path` when the block is left, or not at all when it fails.

    What a killed process left beside it goes when the same file is written again, a while later.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink()
    descriptor, temporary = tempfile.mkstemp(".part", f"{path.name}.", path.parent)
    try:
        with open(descriptor, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_cache(path: Path, content: Any) -> None:
    """Replace a JSON file at once, so that no reader meets half of it. Without space or rights the next run
    does the work again: no reason to fail."""
    with contextlib.suppress(OSError), whole_file(path) as file:
        file.write(json.dumps(content).encode())
