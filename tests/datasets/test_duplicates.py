"""Duplicates across splits, by bytes or by perceptual hash."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import images, write_folder
from PIL import Image, ImageDraw, ImageEnhance

from datasets import InputError, load_dataset
from datasets.checks import verify
from datasets.checks.duplicates import find_duplicates
from datasets.checks.perceptual_hash import (
    FLAT,
    FOR_SIZE,
    MAX_DISTANCE,
    hash_bits,
    nearest,
    perceptual_hash,
)
from datasets.dataset import DatasetInfo, Duplicate, Options
from datasets.formats.examples import Example, Layout, assemble
from datasets.images.decode import decode


def scene(seed, size=(240, 180)):
    """Draw an image similar to a photograph: a few large shapes over a gradient, with slight noise."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (3, 4, 3), np.uint8)
    image = Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, w, h = rng.integers(0, 160, 4)
        draw.ellipse([x, y, x + 20 + w, y + 20 + h], fill=tuple(rng.integers(0, 256, 3).tolist()))
    noise = rng.normal(0, 4, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def encode(image, format="JPEG", **options):
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def hash_file(content):
    return perceptual_hash(decode(content, FOR_SIZE))


def distance(a, b):
    return int(np.bitwise_count(hash_bits([a]) ^ hash_bits([b])).sum())


CHANGES = {
    "quality": lambda image: encode(image, quality=30),
    "png": lambda image: encode(image, "PNG"),
    "half": lambda image: encode(image.resize((120, 90), Image.Resampling.BICUBIC)),
    "double": lambda image: encode(image.resize((480, 360), Image.Resampling.BICUBIC)),
    "brighter": lambda image: encode(ImageEnhance.Brightness(image).enhance(1.15)),
    "gray": lambda image: encode(image.convert("L")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_modified_copies_have_similar_hashes(change):
    for seed in range(20):
        image = scene(seed)
        before = hash_file(encode(image, quality=90))
        after = hash_file(CHANGES[change](image))
        assert distance(before, after) <= MAX_DISTANCE


@pytest.mark.slow
def test_unrelated_images_have_different_hashes():
    hashes = hash_bits([perceptual_hash(np.asarray(scene(seed))) for seed in range(200)])
    assert hashes.shape == (200, 8)
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    assert (distances + 128 * np.eye(200)).min() > MAX_DISTANCE


@pytest.mark.parametrize(
    "image",
    [
        np.full((40, 40, 3), 255, np.uint8),
        np.zeros((40, 40, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (15, 300, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8),
        np.array(Image.new("RGB", (90, 90), "white").rotate(0)),
    ],
    ids=["white", "black", "low", "tiny", "new"],
)
def test_small_and_flat_images_have_no_hash(image):
    assert perceptual_hash(image) == ""


def test_images_flat_in_more_than_half_have_no_hash():
    image = np.full((90, 90, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    for rows, hashed in ((30, False), (70, True)):
        image[:rows] = np.kron(rng.integers(0, 256, (rows // 10, 9, 1)), np.ones((10, 10, 3)))
        assert bool(perceptual_hash(image)) == hashed
    assert FLAT == 64


def test_bits_compare_neighboring_cells():
    """For an image of 9x9 uniform cells: brighter than the left cell, brighter than the upper cell."""
    cells = np.random.default_rng(1).permutation(81).reshape(9, 9) * 3
    image = np.repeat(np.kron(cells, np.ones((45, 45)))[..., None], 3, 2).astype(np.uint8)
    found = np.unpackbits(np.frombuffer(bytes.fromhex(perceptual_hash(image)), np.uint8))
    right, down = np.diff(cells[:-1], axis=1) > 0, np.diff(cells[:, :-1], axis=0) > 0
    expected = np.concatenate([right, down], axis=None).reshape(8, 16).T.ravel()
    # Resizing blurs, so that some bits differ; half of them would for an unrelated image.
    assert np.count_nonzero(found != expected) < 16


# The search


def brute_force(left, right):
    distances = np.bitwise_count(left[:, None] ^ right[None]).sum(axis=2)
    first = distances.argmin(axis=1)
    best = distances.min(axis=1)
    return [(int(i), int(d)) if d <= MAX_DISTANCE else -1 for i, d in zip(first, best, strict=True)]


def search(left, right):
    found = zip(*(values.tolist() for values in nearest(left, right)), strict=True)
    return [(i, d) if i >= 0 else -1 for i, d in found]


@pytest.mark.slow
@given(st.integers(0, 2**32), st.integers(0, 16), st.integers(1, 60), st.integers(1, 60))
def test_search_equals_brute_force(seed, flips, n, m):
    """Among modified copies, some of them equal, at all distances around the limit."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, 1 << 16, (m, 8)).astype(np.uint16)
    right[m // 2] = right[0]
    left = right[rng.integers(0, m, n)]
    for row in left[: n // 2 + 1]:
        for bit in rng.choice(128, rng.integers(0, flips + 1), replace=False):
            row[bit // 16] ^= np.uint16(1 << (bit % 16))
    assert search(left, right) == brute_force(left, right)


def test_search_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    right = rng.integers(0, 4, (300, 8)).astype(np.uint16)
    left = rng.integers(0, 4, (200, 8)).astype(np.uint16)
    whole = search(left, right)
    assert whole == brute_force(left, right)
    monkeypatch.setattr("datasets.checks.perceptual_hash.CHUNK", 50)
    assert search(left, right) == whole


def test_search_without_candidates_or_queries():
    one = np.zeros((1, 8), np.uint16)
    assert search(one, one[:0]) == [-1]
    assert search(one[:0], one) == []


def test_thousands_of_equal_hashes():
    same = np.zeros((20_000, 8), np.uint16)
    assert search(same, same) == [(0, 0)] * 20_000


def test_duplicates_are_reported_once_with_the_first_split():
    splits = {"train": [*"abc"], "validation": [*"de"], "test": [*"fghij"]}
    digests = dict(zip("abcdefghij", "AABDEAXYZW", strict=True))
    zero, one, far = "00" * 16, "01" + "00" * 15, "ff" * 16
    # e and g are similar to a, and g to e; h is similar to d; i and j have no hash; f is already a copy.
    hashes = {"a": zero, "d": far, "e": one, "f": zero, "g": one, "h": far, "i": ""}
    assert list(find_duplicates(splits, digests, hashes)) == [
        Duplicate("look", "validation", "e", "train", "a", 1),
        Duplicate("copy", "test", "f", "train", "a", 0),
        Duplicate("look", "test", "g", "train", "a", 1),
        Duplicate("look", "test", "h", "validation", "d", 0),
    ]


def test_copies_across_splits_are_found():
    splits = {"train": [*"abc"], "validation": [*"de"], "test": [*"fghi"]}
    digests = dict(zip("abcdefghi", "xyyzyxzzw", strict=True))
    found = [
        (duplicate.split, duplicate.id, duplicate.other_split, duplicate.other_id)
        for duplicate in find_duplicates(splits, digests, {})
    ]
    assert found == [
        ("validation", "e", "train", "b"),
        ("test", "f", "train", "a"),
        ("test", "g", "validation", "d"),
        ("test", "h", "validation", "d"),
    ]


# In data sets


def photographs(count=6):
    folders = ("train/a", "train/b", "val/a", "val/b", "test/a", "test/b")
    return {
        f"{folder}/{i}.jpg": encode(scene(100 * number + i))
        for number, folder in enumerate(folders)
        for i in range(count)
    }


def test_folder_with_duplicates(tmp_path, own_cache):
    files = photographs()
    assert load_dataset(write_folder(tmp_path / "clean", files)).duplicates == ()
    files["test/b/again.png"] = CHANGES["half"](scene(100 + 3))
    files["test/a/bytes.jpg"] = files["train/a/2.jpg"]
    root = write_folder(tmp_path / "duplicates", files)
    data = load_dataset(root)
    copy, near = data.duplicates
    assert copy == Duplicate("copy", "test", "test/a/bytes.jpg", "train", "train/a/2.jpg", 0)
    assert near == Duplicate(
        "look", "test", "test/b/again.png", "train", "train/b/3.jpg", near.distance
    )
    assert data.notes == (
        "1 of 14 test images are copies of train images, starting with test/a/bytes.jpg"
        " (train/a/2.jpg)",
        "1 of 14 test images are nearly identical to train images, starting with"
        " test/b/again.png (train/b/3.jpg)",
    )
    assert load_dataset(root).duplicates == data.duplicates  # from the cache


def test_hashes_are_cached_with_the_verdict(tmp_path, own_cache, monkeypatch):
    root = write_folder(tmp_path, photographs(2))
    first = load_dataset(root)
    monkeypatch.setattr(verify, "perceptual_hash", lambda image: pytest.fail("hashed again"))
    assert load_dataset(root).duplicates == first.duplicates


def arrays(count=40):
    pixels = [np.asarray(scene(i, (40, 32))) for i in range(count)]
    pixels[1] = np.clip(pixels[0].astype(int) + 2, 0, 255).astype(np.uint8)
    splits = ["train", "test"] + ["train", "validation", "test"] * count
    examples = [Example(f"{i}", i, "ab"[i % 4 // 2], splits[i]) for i in range(count)]
    layout = Layout(examples, ("a", "b"), ("train", "validation", "test"), [])
    digests = {e.id: f"{e.content:064x}" for e in examples}
    return layout, digests, pixels


def test_duplicates_in_arrays(own_cache):
    layout, digests, pixels = arrays()
    info = DatasetInfo("arrays", "", "")
    loaded, reports = [], []

    def load(example):
        loaded.append(example.id)
        return pixels[example.content]

    options = Options(progress=lambda *report: reports.append(report))
    data = assemble(layout, info, options, digests=digests, load=load)
    (duplicate,) = data.duplicates
    assert (duplicate.id, duplicate.other_id, duplicate.kind) == ("1", "0", "look")
    assert sorted(loaded) == sorted(e.id for e in layout.examples)
    assert reports == [("comparing images", 40, 40)]

    again = assemble(layout, info, Options(seed=1), digests=digests, load=load)
    assert (again.duplicates, len(loaded)) == (data.duplicates, 40)  # from the cache
    (cache,) = (own_cache / "perceptual_hashes").iterdir()
    for damage in (b"", b"[]", b'{"format": 1, "pillow": "1", "perceptual_hashes": {}}'):
        cache.write_bytes(damage)
        loaded.clear()
        again = assemble(layout, info, options, digests=digests, load=load)
        assert again.duplicates == data.duplicates
        assert len(loaded) == 40
    without = assemble(layout, info, options, digests=digests, load=load, perceptual_hashes={})
    assert without.duplicates == ()


def test_digits_are_too_small_to_compare():
    for size in (8, 32):
        data = load_dataset("digits", image_size=size)
        assert (data.duplicates, data.notes) == ((), ())


def test_noise_of_few_pixels_is_not_compared(tmp_path, own_cache):
    assert load_dataset(write_folder(tmp_path, images("a", "b", count=20))).duplicates == ()


def test_error_of_the_loader_is_raised(own_cache):
    layout, digests, _ = arrays()

    def load(example):
        raise InputError(f"{example.id} is damaged")

    with pytest.raises(InputError, match="0 is damaged"):
        assemble(layout, DatasetInfo("arrays", "", ""), Options(), digests=digests, load=load)
