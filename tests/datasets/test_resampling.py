"""Compiled resizing equals Pillow's byte for byte, for all sizes, crops and interpolations."""

import subprocess
import sys

import numpy as np
import PIL
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from datasets import ResizeRule
from datasets.images import resampling
from datasets.images.resize import decode_resized, resize

sides = st.integers(1, 120)
# Pillow 13 changed the order of directions. Beside Pillow 12, this module is not used.
PILLOW_13 = int(PIL.__version__.partition(".")[0]) >= 13
equals_pillow_13 = pytest.mark.skipif(not PILLOW_13, reason="the same bytes as Pillow 13")


def test_available_beside_pillow_13():
    assert resampling.available() == PILLOW_13


def by_pillow(image, size, interpolation, box):
    top, left, bottom, right = box
    method = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(image).resize(size[::-1], method, (left, top, right, bottom)))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@equals_pillow_13
@pytest.mark.slow
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.sampled_from(["bilinear", "bicubic"]))
def test_whole_images_equal_pillow(size, new_size, interpolation):
    image, box = noise(*size), (0, 0, *size)
    expected = by_pillow(image, new_size, interpolation, box)
    np.testing.assert_array_equal(resampling.resize(image, new_size, interpolation, box), expected)


@equals_pillow_13
@given(
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.sampled_from(["bilinear", "bicubic"]),
    st.tuples(*[st.floats(0, 1)] * 4),
)
def test_crops_equal_pillow(size, new_size, interpolation, edges):
    """Including edges between pixels, as of centered crops."""
    top, bottom = sorted(size[0] * edge for edge in edges[:2])
    left, right = sorted(size[1] * edge for edge in edges[2:])
    assume(bottom - top > 0.01 and right - left > 0.01)
    image, box = noise(*size), (top, left, bottom, right)
    expected = by_pillow(image, new_size, interpolation, box)
    np.testing.assert_array_equal(resampling.resize(image, new_size, interpolation, box), expected)


@equals_pillow_13
@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        ((300, 300), (224, 224)),  # along rows first
        # along columns first: the height shrinks by more than twice as much
        ((300, 200), (96, 160)),
        ((90, 224), (224, 224)),  # only one side changes
        ((224, 90), (224, 224)),
        ((2000, 30), (3, 3)),  # hundreds of input pixels per output pixel
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_order_of_directions_equals_pillow(size, new_size, interpolation):
    image, box = noise(*size), (0, 0, *size)
    expected = by_pillow(image, new_size, interpolation, box)
    np.testing.assert_array_equal(resampling.resize(image, new_size, interpolation, box), expected)


@pytest.mark.parametrize("value", [0, 255])
def test_overshoot_of_the_cubic_kernel_is_clipped(value):
    image = np.full((40, 40, 3), value, np.uint8)
    image[::7] = 255 - value
    expected = by_pillow(image, (90, 90), "bicubic", (0, 0, 40, 40))
    resized = resampling.resize(image, (90, 90), "bicubic", (0, 0, 40, 40))
    np.testing.assert_array_equal(resized, expected)
    assert {0, 255} <= set(np.unique(resized))


def test_arrays_of_any_memory_layout():
    image = noise(60, 80)
    image.setflags(write=False)
    for view in (image, image[::-1], image[:, ::2], image.swapaxes(0, 1), image[..., ::-1]):
        expected = by_pillow(
            np.ascontiguousarray(view), (20, 30), "bilinear", (0, 0, *view.shape[:2])
        )
        np.testing.assert_array_equal(resize(view, ResizeRule((20, 30))), expected)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("mode", ["squash", "crop"])
def test_images_are_the_same_with_and_without_the_extra(monkeypatch, interpolation, mode):
    rule = ResizeRule((50, 70), mode, interpolation, crop_fraction=0.9)
    image = noise(123, 187)
    with_extra = resize(image, rule)
    monkeypatch.setattr(resampling, "available", lambda: False)
    np.testing.assert_array_equal(resize(image, rule), with_extra)


def test_large_files_are_resized_to_the_same_bytes_by_pillow(monkeypatch, tmp_path):
    """Above `MAX_PIXELS`, Pillow resizes."""
    path = tmp_path / "image.png"
    Image.fromarray(noise(200, 100)).save(path)
    rule = ResizeRule((64, 64))
    small = decode_resized(path.read_bytes(), rule)
    monkeypatch.setattr(resampling, "MAX_PIXELS", 19_999)
    monkeypatch.setattr(resampling, "resize", None)
    np.testing.assert_array_equal(decode_resized(path.read_bytes(), rule), small)


@equals_pillow_13
def test_not_available_with_a_different_pillow_or_without_the_libraries(monkeypatch):
    available = resampling._available.__wrapped__
    assert available()
    weights = resampling._weights
    monkeypatch.setattr(resampling, "_weights", lambda *a: weights(*a[:4], "bicubic"))
    assert not available()
    monkeypatch.undo()
    for name in ("numba", "cv2"):
        with monkeypatch.context() as context:
            context.setitem(sys.modules, name, None)  # makes its import fail
            assert not available()


@pytest.mark.slow
def test_first_use_is_thread_safe(command_environment):
    """In a separate process, since only the first use imports and compiles."""
    code = """
import threading
import numpy as np
from datasets.images import resampling
from datasets.images.resize import resize
from zoo.common.resize import ResizeRule
image, results = np.zeros((60, 60, 3), np.uint8), []
barrier = threading.Barrier(8)
def first():
    barrier.wait()
    results.append(resize(image, ResizeRule((30, 30))).shape)
threads = [threading.Thread(target=first) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(len(results), resampling._compiled.cache_info().misses)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=command_environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["8", "1"], done.stderr
