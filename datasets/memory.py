"""Free memory of this process, and decoded images that are kept in it."""

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from pathlib import Path

import numpy as np

# Maximum fraction of the free memory that the images of one split at one size may take.
KEPT_SHARE = 0.25
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


def free_bytes() -> int:
    """Return the memory that this process can still use, in bytes; 0 if it is unknown."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        try:  # not Linux: assume that half of the memory is free
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (OSError, ValueError, AttributeError):
            return 0
    try:  # a container's limit; "max" if there is none
        limit, used = (int(path.read_text(encoding="ascii")) for path in LIMITS)
        return max(min(free, limit - used), 0)
    except (OSError, ValueError):
        return free


class KeptImages:
    """Images of one size that are kept in memory from their second load on.

    Images that are loaded once, as in evaluation, take no memory. Safe to use from several threads.
    """

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self._images = np.empty((count, *shape), np.uint8)  # a page takes memory once it is written
        self._loads = np.zeros(count, np.uint8)

    def load(self, index: int, load: Callable[[], np.ndarray]) -> np.ndarray:
        """Return image `index`, uint8 [H, W, 3], by calling `load` unless it is kept."""
        if self._loads[index] == 2:
            return self._images[index]
        image = load()
        if self._loads[index]:
            self._images[index] = image  # threads may write it twice, with the same bytes
            self._loads[index] = 2
        else:
            self._loads[index] = 1
        return image


_KEPT: weakref.WeakKeyDictionary[object, dict[Hashable, KeptImages | None]] = (
    weakref.WeakKeyDictionary()
)
_NEVER: weakref.WeakSet[object] = weakref.WeakSet()
_LOCK = threading.Lock()


def never_keep(owner: object) -> None:
    """Decode the images of an owner, such as a split, at each load. For benchmarks of decoding."""
    _NEVER.add(owner)


def kept_images(
    owner: object, key: Hashable, count: int, shape: tuple[int, ...]
) -> KeptImages | None:
    """Return the kept images of an owner, such as a split, which live as long as it does.

    `key` distinguishes several sets of one owner. None if they would take more than `KEPT_SHARE` of the memory that is
    free at the first call.
    """
    with _LOCK:
        sets = _KEPT.setdefault(owner, {})
        if key not in sets:
            fits = owner not in _NEVER and count * int(np.prod(shape)) <= KEPT_SHARE * free_bytes()
            sets[key] = KeptImages(count, shape) if fits else None
        return sets[key]
