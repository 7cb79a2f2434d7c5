"""Duplicates across splits: images with identical bytes, or nearly equal perceptual hashes."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL

from datasets.cache import cache_dir, write_cache
from datasets.checks.perceptual_hash import FORMAT, hash_bits, nearest, perceptual_hash
from datasets.checks.verify import CHUNK
from datasets.dataset import Duplicate, Progress


def find_duplicates(
    splits: Mapping[str, Sequence[str]],
    digests: Mapping[str, str],
    perceptual_hashes: Mapping[str, str],
) -> Iterator[Duplicate]:
    """Find images that have an exact copy or a near-duplicate in an earlier split.

    Each image is reported once, with its first copy or, without one, the image with the nearest hash.

    Args:
      splits: ids of each split, in order.
      digests: hash of each image's content, by id.
      perceptual_hashes: perceptual hashes by id; images whose hash is "" or missing are not compared.
    """
    owner: dict[str, tuple[str, str]] = {}
    earlier: list[tuple[str, list[str]]] = []
    for split, ids in splits.items():
        hashed = []
        for name in ids:
            first, other = owner.setdefault(digests[name], (split, name))
            if first != split:
                yield Duplicate("copy", split, name, first, other, 0)
            elif perceptual_hashes.get(name):
                hashed.append(name)
        unmatched = hashed
        for first, others in earlier:
            index, distance = nearest(
                hash_bits([perceptual_hashes[name] for name in unmatched]),
                hash_bits([perceptual_hashes[name] for name in others]),
            )
            for name, i, d in zip(unmatched, index.tolist(), distance.tolist(), strict=True):
                if i >= 0:
                    yield Duplicate("look", split, name, first, others[i], d)
            unmatched = [name for name, i in zip(unmatched, index, strict=True) if i < 0]
        earlier.append((split, hashed))


def hash_images(
    fingerprint: str,
    ids: Sequence[str],
    load: Callable[[int], np.ndarray],
    progress: Progress | None,
) -> dict[str, str]:
    """Compute the perceptual hash of each image, by id, for data that `verify` has not decoded.

    The result is stored in the cache directory.

    Args:
      fingerprint: fingerprint of the data.
      ids: ids of the images.
      load: returns the image at an index into `ids`; called from several threads.
      progress: called during the computation.
    """
    cache = cache_dir() / "perceptual_hashes" / f"{fingerprint[:32]}.json"
    try:
        content = json.loads(cache.read_bytes())
        known = content["perceptual_hashes"]
        if (content["format"], content["pillow"]) == (FORMAT, PIL.__version__) and known.keys() == {
            *ids
        }:
            return known
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing or damaged
        pass
    hashes = {}
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16), "perceptual_hash") as pool:
        for start in range(0, len(ids), CHUNK):
            chunk = range(start, min(start + CHUNK, len(ids)))
            values = pool.map(lambda i: perceptual_hash(load(i)), chunk)
            for i, value in zip(chunk, values, strict=True):
                hashes[ids[i]] = value
            if progress:
                progress("comparing images", len(hashes), len(ids))
    write_cache(cache, {"format": FORMAT, "pillow": PIL.__version__, "perceptual_hashes": hashes})
    return hashes
