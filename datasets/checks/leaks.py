"""Leaks: images of one part that another part holds, too, as the same bytes or as a picture that looks the same."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL

from datasets.cache import cache_dir, write_cache
from datasets.checks.looks import FORMAT, bits, look, nearest
from datasets.checks.verify import CHUNK
from datasets.dataset import Leak, Progress


def find_leaks(
    parts: Mapping[str, Sequence[str]], digests: Mapping[str, str], looks: Mapping[str, str]
) -> Iterator[Leak]:
    """Each example that has a copy, or else looks the same as one, in a part before its own: once, with the
    first copy or the nearest look.

    Args:
      parts: the ids of each part; earlier parts own what they share.
      digests: of each example's content, by id.
      looks: by id; "" and examples that are not there are not compared.
    """
    owner: dict[str, tuple[str, str]] = {}
    earlier: list[tuple[str, list[str]]] = []
    for part, ids in parts.items():
        fresh = []
        for name in ids:
            first, other = owner.setdefault(digests[name], (part, name))
            if first != part:
                yield Leak("copy", part, name, first, other, 0)
            elif looks.get(name):
                fresh.append(name)
        unmatched = fresh
        for first, others in earlier:
            index, distance = nearest(
                bits([looks[name] for name in unmatched]), bits([looks[name] for name in others])
            )
            for name, i, d in zip(unmatched, index.tolist(), distance.tolist(), strict=True):
                if i >= 0:
                    yield Leak("look", part, name, first, others[i], d)
            unmatched = [name for name, i in zip(unmatched, index, strict=True) if i < 0]
        earlier.append((part, fresh))


def looks_of(
    name: str, ids: Sequence[str], load: Callable[[int], np.ndarray], progress: Progress | None
) -> dict[str, str]:
    """The looks of images that no check of files has decoded; what was found is kept in the cache directory.

    Args:
      name: the data's fingerprint.
      ids: of the examples.
      load: gives the image at a position in `ids`; called from several threads.
      progress: called while it takes long.
    """
    cache = cache_dir() / "looks" / f"{name[:32]}.json"
    try:
        content = json.loads(cache.read_bytes())
        known = content["looks"]
        if (content["format"], content["pillow"]) == (FORMAT, PIL.__version__) and known.keys() == {
            *ids
        }:
            return known
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or not ours
        pass
    looks = {}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16), "looks") as pool:
        for start in range(0, len(ids), CHUNK):
            chunk = range(start, min(start + CHUNK, len(ids)))
            for i, value in zip(chunk, pool.map(lambda i: look(load(i)), chunk), strict=True):
                looks[ids[i]] = value
            if progress:
                progress("comparing images", len(looks), len(ids))
    write_cache(cache, {"format": FORMAT, "pillow": PIL.__version__, "looks": looks})
    return looks
