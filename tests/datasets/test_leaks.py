"""Images of one part that are in another, as the same bytes or as a picture that looks the same."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import images, write_folder
from PIL import Image, ImageDraw, ImageEnhance

from datasets import InputError, load_dataset
from datasets.checks import verify
from datasets.checks.leaks import find_leaks
from datasets.checks.looks import FLAT, FOR_SIZE, MAX_DISTANCE, bits, look, nearest
from datasets.dataset import DatasetInfo, Leak, Options
from datasets.formats.examples import Example, Layout, assemble
from datasets.images.decode import decode


def picture(seed, size=(240, 180)):
    """Something like a photograph: a few large shapes over a gradient, with a little noise."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 256, (3, 4, 3), np.uint8)
    image = Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, w, h = rng.integers(0, 160, 4)
        draw.ellipse([x, y, x + 20 + w, y + 20 + h], fill=tuple(rng.integers(0, 256, 3).tolist()))
    noise = rng.normal(0, 4, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def file(image, format="JPEG", **options):
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def seen(content):
    return look(decode(content, FOR_SIZE))


def distance(a, b):
    return int(np.bitwise_count(bits([a]) ^ bits([b])).sum())


CHANGES = {
    "quality": lambda image: file(image, quality=30),
    "png": lambda image: file(image, "PNG"),
    "half": lambda image: file(image.resize((120, 90), Image.Resampling.BICUBIC)),
    "double": lambda image: file(image.resize((480, 360), Image.Resampling.BICUBIC)),
    "brighter": lambda image: file(ImageEnhance.Brightness(image).enhance(1.15)),
    "grey": lambda image: file(image.convert("L")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_look_the_same(change):
    for seed in range(20):
        image = picture(seed)
        before, after = seen(file(image, quality=90)), seen(CHANGES[change](image))
        assert distance(before, after) <= MAX_DISTANCE


def test_strangers_do_not():
    ours = bits([look(np.asarray(picture(seed))) for seed in range(200)])
    assert ours.shape == (200, 8)
    apart = np.bitwise_count(ours[:, None] ^ ours[None]).sum(axis=2)
    assert (apart + 128 * np.eye(200)).min() > MAX_DISTANCE


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
def test_nothing_is_said_of_small_and_flat_images(image):
    assert look(image) == ""


def test_half_of_a_picture_has_to_show_something():
    image = np.full((90, 90, 3), 128, np.uint8)
    rng = np.random.default_rng(0)
    for rows, told in ((30, False), (70, True)):
        image[:rows] = np.kron(rng.integers(0, 256, (rows // 10, 9, 1)), np.ones((10, 10, 3)))
        assert bool(look(image)) == told
    assert FLAT == 64


def test_bits_are_those_of_the_cells():
    """Of 9x9 pixels that are one cell each, enlarged: brighter than the left one, than the upper one."""
    cells = np.random.default_rng(1).permutation(81).reshape(9, 9) * 3
    image = np.repeat(np.kron(cells, np.ones((45, 45)))[..., None], 3, 2).astype(np.uint8)
    found = np.unpackbits(np.frombuffer(bytes.fromhex(look(image)), np.uint8))
    right, down = np.diff(cells[:-1], axis=1) > 0, np.diff(cells[:, :-1], axis=0) > 0
    expected = np.concatenate([right, down], axis=None).reshape(8, 16).T.ravel()
    assert np.count_nonzero(found != expected) < 16  # the resize blurs; of others half would differ


# The search


def slowly(left, right):
    apart = np.bitwise_count(left[:, None] ^ right[None]).sum(axis=2)
    first = apart.argmin(axis=1)
    best = apart.min(axis=1)
    return [(int(i), int(d)) if d <= MAX_DISTANCE else -1 for i, d in zip(first, best, strict=True)]


def quickly(left, right):
    found = zip(*(values.tolist() for values in nearest(left, right)), strict=True)
    return [(i, d) if i >= 0 else -1 for i, d in found]


@given(st.integers(0, 2**32), st.integers(0, 16), st.integers(1, 60), st.integers(1, 60))
def test_search_finds_what_comparing_all_finds(seed, flips, n, m):
    """Among changed copies, some of them equal, at all distances around the limit."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, 1 << 16, (m, 8)).astype(np.uint16)
    right[m // 2] = right[0]
    left = right[rng.integers(0, m, n)]
    for row in left[: n // 2 + 1]:
        for bit in rng.choice(128, rng.integers(0, flips + 1), replace=False):
            row[bit // 16] ^= np.uint16(1 << (bit % 16))
    assert quickly(left, right) == slowly(left, right)


def test_search_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    right = rng.integers(0, 4, (300, 8)).astype(np.uint16)
    left = rng.integers(0, 4, (200, 8)).astype(np.uint16)
    whole = quickly(left, right)
    assert whole == slowly(left, right)
    monkeypatch.setattr("datasets.checks.looks.CHUNK", 50)
    assert quickly(left, right) == whole


def test_search_among_none():
    one = np.zeros((1, 8), np.uint16)
    assert quickly(one, one[:0]) == [-1]
    assert quickly(one[:0], one) == []


def test_thousands_of_the_same_do_not_matter():
    same = np.zeros((20_000, 8), np.uint16)
    assert quickly(same, same) == [(0, 0)] * 20_000


def test_leaks_are_told_once_and_by_the_first_owner():
    parts = {"train": [*"abc"], "validation": [*"de"], "test": [*"fghij"]}
    digests = dict(zip("abcdefghij", "AABDEAXYZW", strict=True))
    zero, one, far = "00" * 16, "01" + "00" * 15, "ff" * 16
    # e and g look like a, and g like e; h like d; i and j cannot be compared; f is a copy already.
    looks = {"a": zero, "d": far, "e": one, "f": zero, "g": one, "h": far, "i": ""}
    assert list(find_leaks(parts, digests, looks)) == [
        Leak("look", "validation", "e", "train", "a", 1),
        Leak("copy", "test", "f", "train", "a", 0),
        Leak("look", "test", "g", "train", "a", 1),
        Leak("look", "test", "h", "validation", "d", 0),
    ]


def test_copies_across_parts_are_found():
    parts = {"train": [*"abc"], "validation": [*"de"], "test": [*"fghi"]}
    digests = dict(zip("abcdefghi", "xyyzyxzzw", strict=True))
    found = [
        (leak.part, leak.id, leak.other_part, leak.other_id)
        for leak in find_leaks(parts, digests, {})
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
        f"{folder}/{i}.jpg": file(picture(100 * place + i))
        for place, folder in enumerate(folders)
        for i in range(count)
    }


def test_folder_with_changed_copies(tmp_path, own_cache):
    files = photographs()
    assert load_dataset(write_folder(tmp_path / "clean", files)).leaks == ()
    files["test/b/again.png"] = CHANGES["half"](picture(100 + 3))
    files["test/a/bytes.jpg"] = files["train/a/2.jpg"]
    data = load_dataset(write_folder(tmp_path / "leaky", files))
    copy, near = data.leaks
    assert copy == Leak("copy", "test", "test/a/bytes.jpg", "train", "train/a/2.jpg", 0)
    assert near == Leak("look", "test", "test/b/again.png", "train", "train/b/3.jpg", near.distance)
    assert data.notes == (
        "1 of 14 test images have a copy among the train images, the first is test/a/bytes.jpg"
        " (train/a/2.jpg)",
        "1 of 14 test images look the same as one among the train images, the first is"
        " test/b/again.png (train/b/3.jpg)",
    )
    assert load_dataset(tmp_path / "leaky").leaks == data.leaks  # from the cache


def test_looks_are_kept_with_the_verdict(tmp_path, own_cache, monkeypatch):
    root = write_folder(tmp_path, photographs(2))
    first = load_dataset(root)
    monkeypatch.setattr(verify, "look", lambda image: pytest.fail("looked again"))
    assert load_dataset(root).leaks == first.leaks


def arrays(count=40):
    pictures = [np.asarray(picture(i, (40, 32))) for i in range(count)]
    pictures[1] = np.clip(pictures[0].astype(int) + 2, 0, 255).astype(np.uint8)
    part = ["train", "test"] + ["train", "validation", "test"] * count
    examples = [Example(f"{i}", i, "ab"[i % 4 // 2], part[i]) for i in range(count)]
    layout = Layout(examples, ("a", "b"), ("train", "validation", "test"), [])
    digests = {e.id: f"{e.content:064x}" for e in examples}
    return layout, digests, pictures


def test_data_in_memory(own_cache):
    layout, digests, pictures = arrays()
    info = DatasetInfo("arrays", "", "")
    loaded, told = [], []

    def load(example):
        loaded.append(example.id)
        return pictures[example.content]

    options = Options(progress=lambda *report: told.append(report))
    data = assemble(layout, info, options, digests=digests, load=load)
    (leak,) = data.leaks
    assert (leak.id, leak.other_id, leak.kind) == ("1", "0", "look")
    assert sorted(loaded) == sorted(e.id for e in layout.examples)
    assert told == [("comparing images", 40, 40)]

    again = assemble(layout, info, Options(seed=1), digests=digests, load=load)
    assert (again.leaks, len(loaded)) == (data.leaks, 40)  # from the cache
    (cache,) = (own_cache / "looks").iterdir()
    for damage in (b"", b"[]", b'{"format": 1, "pillow": "1", "looks": {}}'):
        cache.write_bytes(damage)
        loaded.clear()
        assert assemble(layout, info, options, digests=digests, load=load).leaks == data.leaks
        assert len(loaded) == 40
    assert assemble(layout, info, options, digests=digests, load=load, looks={}).leaks == ()


def test_digits_are_too_small_to_tell():
    for size in (8, 32):
        data = load_dataset("digits", image_size=size)
        assert (data.leaks, data.notes) == ((), ())


def test_noise_of_few_pixels_is_not_compared(tmp_path, own_cache):
    assert load_dataset(write_folder(tmp_path, images("a", "b", count=20))).leaks == ()


def test_unreadable_image_in_memory_is_named(own_cache):
    """What the loader says comes through."""
    layout, digests, _ = arrays()

    def load(example):
        raise InputError(f"{example.id} is damaged")

    with pytest.raises(InputError, match="0 is damaged"):
        assemble(layout, DatasetInfo("arrays", "", ""), Options(), digests=digests, load=load)
