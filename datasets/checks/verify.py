"""Find undecodable images and compute the perceptual hashes of the others, with results in the cache directory."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL

from datasets.cache import cache_dir, write_cache
from datasets.checks.perceptual_hash import FOR_SIZE, perceptual_hash
from datasets.dataset import BadImage, Progress
from datasets.formats.sources import File, Source, UnreadableError
from datasets.images.decode import UndecodableError, decode, heif_version

FORMAT = 2
CHUNK = 256  # files submitted to the threads at a time; they are still processed after Ctrl-C
PROGRESS_SECONDS = 0.1
SAVE_SECONDS = 60.0  # between two writes of the cache
# Results depend on these.
VERSIONS = {"format": FORMAT, "pillow": PIL.__version__, "heif": heif_version()}

# Stamp of a file, sha256 of its content, reason why it is bad (or None), and perceptual hash.
Verdict = tuple[str, str, str | None, str]


def verify(
    source: Source, files: Sequence[File], progress: Progress | None = None
) -> tuple[dict[str, str], dict[str, str], tuple[BadImage, ...]]:
    """Decode every file that has changed since it was last decoded.

    Returns:
      The sha256 (hex) and the perceptual hash of each good file, both by path, and the bad files with the reasons.
    """
    cache = _cache_file(source)
    known = _read(cache)
    verdicts = {f.path: v for f in files if (v := known.get(f.path)) and v[0] == f.stamp}
    # Keep cached results for the source's other files, which other data sets may use.
    others = {f.path: known[f.path] for f in source.files if f.path in known}
    new = [f for f in files if f.path not in verdicts]
    unreadable: set[str] = set()  # not cached: permissions may be fixed without a new stamp

    def save() -> None:
        """Save the results so far, so that an interrupted check continues where it stopped."""
        everything = others | {
            path: verdict for path, verdict in verdicts.items() if path not in unreadable
        }
        write_cache(cache, {**VERSIONS, "images": everything})

    if new:
        try:
            _decode_all(source, new, verdicts, unreadable, progress, save, total=len(files))
        finally:
            save()
    digests, hashes, bad = {}, {}, []
    for file in files:
        _, digest, reason, image_hash = verdicts[file.path]
        if reason is None:
            digests[file.path], hashes[file.path] = digest, image_hash
        else:
            bad.append(BadImage(file.path, reason))
    return digests, hashes, tuple(bad)


def _decode_all(
    source: Source,
    files: Sequence[File],
    verdicts: dict[str, Verdict],
    unreadable: set[str],
    progress: Progress | None,
    save: Callable[[], None],
    total: int,
) -> None:
    def check(file: File) -> Verdict:
        try:
            content = source.read(file)
        except UndecodableError as error:
            if isinstance(error, UnreadableError):
                unreadable.add(file.path)
            return file.stamp, "", str(error), ""
        digest = hashlib.sha256(content).hexdigest()
        try:
            # Decoding at a reduced size is fast but still reads the whole file.
            image_hash = perceptual_hash(decode(content, for_size=FOR_SIZE))
        except UndecodableError as error:
            return file.stamp, digest, str(error), ""
        return file.stamp, digest, None, image_hash

    last = 0.0
    next_save = time.monotonic() + SAVE_SECONDS
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16), "verify") as pool:
        for start in range(0, len(files), CHUNK):
            chunk = files[start : start + CHUNK]
            for file, verdict in zip(chunk, pool.map(check, chunk), strict=True):
                verdicts[file.path] = verdict
                now = time.monotonic()
                if progress and (now - last > PROGRESS_SECONDS or len(verdicts) == total):
                    progress("checking images", len(verdicts), total)
                    last = now
            if (began := time.monotonic()) > next_save:
                save()
                now = time.monotonic()
                next_save = now + max(SAVE_SECONDS, 20 * (now - began))  # at most 5% of the time


def _cache_file(source: Source) -> Path:
    name = hashlib.sha256(os.path.realpath(source.root).encode(errors="surrogateescape"))
    return cache_dir() / "images" / f"{name.hexdigest()[:32]}.json"


def _read(cache: Path) -> dict[str, Verdict]:
    try:
        content = json.loads(cache.read_bytes())
        if VERSIONS.items() <= content.items():
            return {path: (stamp, *rest) for path, (stamp, *rest) in content["images"].items()}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # missing or damaged: check all files again
        pass
    return {}
