"""The fast decoder is close to Pillow for all files, and never decodes below the required size."""

import io

import numpy as np
import pytest
from PIL import Image

from datasets import InputError, ResizeRule
from datasets.images import fast
from datasets.images.decode import decode
from datasets.images.resize import decode_resized


def scene(height, width):
    """Draw smooth waves with some grain, similar to a photograph."""
    y, x = np.mgrid[:height, :width] / 40
    waves = np.stack([np.sin(x + y), np.cos(x * 1.3), np.sin(y * 0.7)], -1)
    grain = np.random.default_rng(0).normal(0, 4, waves.shape)
    return np.clip(127 + 90 * waves + grain, 0, 255).astype(np.uint8)


def encoded(pixels, kind="JPEG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95, **options)
    return file.getvalue()


def deviation(content, options):
    exact = decode_resized(content, ResizeRule(*options))
    approximate = decode_resized(content, ResizeRule(*options), "fast")
    assert approximate.shape == exact.shape and approximate.dtype == np.uint8
    return np.abs(approximate.astype(int) - exact).mean()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(300, 300), (232, 310), (224, 224), (100, 120), (900, 1300)])
@pytest.mark.parametrize(
    "options", [("squash",), ("crop",), ("crop", "bilinear", 0.875), ("squash", "bicubic")]
)
def test_result_is_close_to_pillow(size, options):
    assert deviation(encoded(scene(*size)), ((224, 224), *options)) < 3


@pytest.mark.slow
def test_large_photographs_are_reduced_by_the_decoder(monkeypatch):
    """But not below the size that the crop requires."""
    sizes = []
    resize = fast.resize
    monkeypatch.setattr(
        fast, "resize", lambda image, rule: sizes.append(image.shape[:2]) or resize(image, rule)
    )
    content = encoded(scene(1200, 1600))
    for fraction in (1.0, 0.5):
        assert deviation(content, ((224, 224), "crop", "bilinear", fraction)) < 3
    (small, large) = sizes
    assert 224 <= small[0] < 600
    assert 448 <= large[0] <= 600


@pytest.mark.parametrize("kind", ["rotated", "gray", "cmyk", "png", "alpha", "palette"])
def test_all_kinds_of_files(kind):
    pixels = scene(300, 200)
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(file, "JPEG", exif=exif)
    elif kind in ("gray", "cmyk"):
        image.convert({"gray": "L", "cmyk": "CMYK"}[kind]).save(file, "JPEG")
    else:
        image.convert({"png": "RGB", "alpha": "RGBA", "palette": "P"}[kind]).save(file, "PNG")
    assert deviation(file.getvalue(), ((96, 64), "squash")) < 6  # a palette's edges are sharp
    assert decode(file.getvalue()).shape == ((200, 300, 3) if kind == "rotated" else (300, 200, 3))


@pytest.mark.parametrize(("interpolation", "side"), [("nearest", 8), ("bilinear", 4)])
def test_interpolation_of_the_rule_is_used(interpolation, side):
    checks = np.kron(np.indices((16, 16)).sum(0) % 2 * 255, np.ones((2, 2), int)).astype(np.uint8)
    image = np.repeat(checks[..., None], 3, axis=2)
    resized = fast.resize(image, ResizeRule((side, side), interpolation=interpolation))
    assert (set(np.unique(resized)) <= {0, 255}) == (interpolation == "nearest")
    if interpolation == "bilinear":
        np.testing.assert_allclose(resized, 127, atol=1)  # areas are averaged


def test_missing_libraries_raise_one_line_errors(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs cv2 and simplejpeg: .* -e '.\[fast\]'"):
        fast.check()
    monkeypatch.undo()
    fast.check()


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8 and no more"])
def test_files_that_are_not_images_are_rejected(content):
    with pytest.raises(InputError):
        decode_resized(content, ResizeRule((8, 8)), "fast")


def test_truncated_files_raise_the_same_error_as_pillow():
    content = encoded(scene(100, 100))[:-200]
    messages = []
    for decoder in ("exact", "fast"):
        with pytest.raises(InputError) as caught:
            decode_resized(content, ResizeRule((8, 8)), decoder)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] != ""
