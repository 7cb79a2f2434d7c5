"""Decoding of all formats to RGB, and resizing by resize rules."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import png
from PIL import Image

from datasets import InputError, ResizeRule
from datasets.images.decode import UndecodableError, decode, decode_image, to_rgb_uint8
from datasets.images.resize import decode_resized, resize

GRAY = np.arange(0, 240, 4, np.uint8).reshape(6, 10)
COLORS = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=2)
WHITE = [255, 255, 255]


def stored(image, format="PNG", **options):
    """Encode an image and decode it again."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return decode(file.getvalue())


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_gray(format):
    np.testing.assert_array_equal(stored(Image.fromarray(GRAY), format), np.dstack([GRAY] * 3))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_gray(format):
    """Values are 257 times as large: 65535 is white."""
    image = Image.fromarray(GRAY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(stored(image, format), np.dstack([GRAY] * 3))


def test_sixteen_bit_gray_with_the_other_byte_order():
    image = Image.fromarray((GRAY.astype(np.uint16) * 257).astype(">u2"))
    np.testing.assert_array_equal(stored(image, "TIFF"), np.dstack([GRAY] * 3))


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_floating_point_gray(scale):
    image = Image.fromarray((GRAY * scale).astype(np.float32))
    np.testing.assert_array_equal(stored(image, "TIFF"), np.dstack([GRAY] * 3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GRAY / 118 - 1, "floats from -1 to 1: use values from 0 to 1, or from 0 to 255"),
        (GRAY / 100, "floats from 0 to 2.36: "),
        (np.where(GRAY == 4, np.nan, GRAY), "NaN among its floats: "),
        (np.where(GRAY == 4, -np.inf, GRAY), "floats from -inf to 236: "),
    ],
    ids=["-1..1", "0..2.36", "nan", "inf"],
)
def test_floating_point_values_outside_the_ranges(values, message):
    with pytest.raises(UndecodableError, match=message):
        stored(Image.fromarray(values.astype(np.float32)), "TIFF")


@pytest.mark.parametrize("values", [[-1, 300], [0, 65536]])
def test_integers_outside_the_range(values):
    with pytest.raises(UndecodableError, match="use 0 to 65535"):
        stored(Image.fromarray(np.array([values], np.int32)), "TIFF")


def test_one_bit():
    bits = GRAY > 100
    decoded = stored(Image.fromarray(bits))
    np.testing.assert_array_equal(decoded, np.dstack([bits * np.uint8(255)] * 3))


def test_palette():
    image = Image.fromarray(COLORS).quantize(64)
    np.testing.assert_array_equal(stored(image), np.array(image.convert("RGB")))
    assert len(np.unique(stored(image))) > 3  # not the indices


def test_cmyk():
    """Without black, RGB is 255 minus the inks."""
    inks = [Image.fromarray(255 - COLORS[..., k]) for k in range(3)]
    image = Image.merge("CMYK", [*inks, Image.new("L", inks[0].size)])
    np.testing.assert_array_equal(stored(image, "TIFF"), COLORS)
    jpeg = stored(image, "JPEG", quality=100, subsampling=0)
    np.testing.assert_allclose(jpeg.astype(int), COLORS, atol=4)


def test_alpha_is_composited_over_white():
    alpha = np.full((2, 2, 4), (200, 0, 0, 0), np.uint8)
    alpha[0, 1, 3], alpha[1, 0, 3] = 255, 51  # opaque; a fifth
    decoded = stored(Image.fromarray(alpha))
    assert decoded[0, 0].tolist() == WHITE
    assert decoded[0, 1].tolist() == [200, 0, 0]
    np.testing.assert_allclose(decoded[1, 0].astype(int), [244, 204, 204], atol=1)


def test_gray_with_alpha():
    assert stored(Image.new("LA", (2, 2), (0, 0)))[0, 0].tolist() == WHITE


@pytest.mark.parametrize(
    ("mode", "color", "key"),
    [("L", 7, 7), ("RGB", (1, 2, 3), (1, 2, 3)), ("P", 1, 1), ("P", 1, b"\xff\x00")],
)
def test_transparent_color_is_white(mode, color, key):
    image = Image.new(mode, (2, 2), color)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0])
    assert stored(image, transparency=key)[0, 0].tolist() == WHITE


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_is_decoded_to_its_first_frame(format):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    decoded = stored(frames[0], format, save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(decoded[0, 0].astype(int), [255, 0, 0], atol=2)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
        (99, lambda a: a),
    ],
)
def test_exif_orientation_is_applied(format, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = stored(Image.fromarray(COLORS), format, exif=exif, **options)
    np.testing.assert_array_equal(decoded, upright(COLORS))


def test_damaged_exif_is_ignored():
    assert stored(Image.fromarray(COLORS), "JPEG", exif=b"Exif\0\0nonsense").shape == (6, 10, 3)


def test_result_is_a_copy():
    image = Image.fromarray(COLORS)
    to_rgb_uint8(image)[:] = 0
    np.testing.assert_array_equal(np.array(image), COLORS)


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_decoded_at_a_reduced_size(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = Image.fromarray(COLORS).resize((800, 640), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=95, exif=exif)
    full, reduced = decode(file.getvalue()), decode(file.getvalue(), for_size=(100, 70))
    assert full.shape[:2] == ((640, 800) if orientation == 1 else (800, 640))
    assert reduced.shape[:2] == tuple(n // 2 for n in full.shape[:2])  # a quarter is below 200
    resized = [resize(image, ResizeRule((100, 70))).astype(int) for image in (full, reduced)]
    np.testing.assert_allclose(*resized, atol=3)
    assert decode(file.getvalue(), for_size=(401, 3)).shape == full.shape


def test_truncation_is_detected_in_reduced_images():
    content = png(size=(64, 64), format="JPEG")
    for cut in range(700, len(content) - 2, 100):
        with pytest.raises(InputError, match="truncated"):
            decode(content[:cut], for_size=(1, 1))


def test_paths_are_read_and_named_in_errors(tmp_path):
    (tmp_path / "a.png").write_bytes(png(size=(3, 4)))
    (tmp_path / "b.png").write_bytes(b"nothing")
    assert decode(tmp_path / "a.png").shape == (3, 4, 3)
    with pytest.raises(InputError, match=r"b\.png cannot be decoded: not an image"):
        decode(str(tmp_path / "b.png"))
    with pytest.raises(InputError, match=r"c\.png cannot be read: No such file"):
        decode(tmp_path / "c.png")


def bomb():
    """Return a file of 50 kB with 400 million pixels."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"GIF89a", "not an image"),
        (png()[:60], "truncated|Truncated"),
        (png(size=(64, 64), format="JPEG")[:900], "truncated"),
        (png()[:50] + b"\0" * 40, "."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image"),
        (bomb(), "decompression bomb"),
    ],
)
def test_undecodable_files_raise_one_line_errors(content, reason):
    with pytest.raises(InputError, match=reason) as error:
        decode(content)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@given(
    st.integers(0, 400),
    st.binary(min_size=1, max_size=40),
    st.sampled_from(["PNG", "GIF", "TIFF", "WEBP"]),
)
def test_damage_never_crashes(place, damage, format):
    content = bytearray(png(format=format))
    content[place : place + len(damage)] = damage
    try:
        image = decode(bytes(content))
    except InputError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3


def test_pillow_warnings_are_ignored(monkeypatch):
    """Pillow warns above MAX_IMAGE_PIXELS, and raises above twice that."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert stored(Image.new("RGB", (12, 12))).shape == (12, 12, 3)
    assert not caught


def test_memory_error_is_not_a_bad_image(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        decode(b"")


def test_one_pixel_is_enlarged_to_any_size():
    pixel = np.array([[[9, 8, 7]]], np.uint8)
    for mode in ("squash", "crop"):
        enlarged = resize(pixel, ResizeRule((3, 5), mode))
        np.testing.assert_array_equal(enlarged, np.broadcast_to(pixel, (3, 5, 3)))


def test_squash_keeps_the_whole_image_and_crop_the_center():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 200
    squashed = resize(stripes, ResizeRule((10, 10)))
    cropped = resize(stripes, ResizeRule((10, 10), "crop"))
    assert squashed[:, [0, 9]].max() == 0
    assert squashed.max() == 200
    assert cropped.min() == 200


@pytest.mark.parametrize("size", [(20, 20), (8, 32), (40, 10)])
def test_crop_is_the_largest_with_the_aspect_ratio(size):
    """Compared with Pillow's `ImageOps.fit`."""
    from PIL import ImageOps

    image = np.random.default_rng(0).integers(0, 256, (10, 20, 3), np.uint8)
    fitted = ImageOps.fit(Image.fromarray(image), size[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(
        resize(image, ResizeRule(size, "crop", "bicubic")), np.array(fitted)
    )


def test_reduction_is_antialiased():
    checkers = np.indices((64, 64)).sum(0) % 2 * np.uint8(254)
    image = np.dstack([checkers] * 3).astype(np.uint8)
    np.testing.assert_allclose(resize(image, ResizeRule((8, 8))), 127, atol=1)
    assert set(np.unique(resize(image, ResizeRule((8, 8), "squash", "nearest")))) <= {0, 254}


def test_crop_fraction_keeps_the_center_of_the_crop():
    """224 / 256 is torchvision's "resize to 256, center-crop 224"; here at a sixteenth of the size."""
    rows = np.arange(64, dtype=np.uint8)[:, None, None] * np.ones((64, 96, 3), np.uint8)
    cropped = resize(rows, ResizeRule((14, 14), "crop", crop_fraction=14 / 16))
    box = (20.0, 4.0, 76.0, 60.0)  # of 96x64: the central 56x56 of the central 64x64
    expected = Image.fromarray(rows).resize((14, 14), Image.Resampling.BILINEAR, box)
    np.testing.assert_array_equal(cropped, np.array(expected))
    half = ResizeRule((14, 14), "crop", crop_fraction=0.5)
    same_size = resize(cropped, half)  # not returned unchanged
    assert not np.array_equal(same_size, cropped)
    squashed = resize(rows, ResizeRule((14, 14), "squash", crop_fraction=0.5))
    box = (24.0, 16.0, 72.0, 48.0)  # the central half of each side
    expected = Image.fromarray(rows).resize((14, 14), Image.Resampling.BILINEAR, box)
    np.testing.assert_array_equal(squashed, np.array(expected))
    with pytest.raises(ValueError, match="crop_fraction is 0"):
        resize(rows, ResizeRule((14, 14), "crop", crop_fraction=0))


@given(*[st.integers(1, 40)] * 4, st.sampled_from(["squash", "crop"]))
def test_any_size_is_resized_to_any_other(height, width, to_height, to_width, mode):
    image = np.full((height, width, 3), 77, np.uint8)
    resized = resize(image, ResizeRule((to_height, to_width), mode))
    assert resized.shape == (to_height, to_width, 3)
    assert resized.dtype == np.uint8
    assert (resized == 77).all()


@pytest.mark.parametrize("shape", [(480, 640, 3), (640, 480, 3)])
def test_crops_stay_inside_the_image_despite_rounding(shape):
    """480 / 232 * 232 is more than 480, and Pillow would reject the box."""
    image = np.zeros(shape, np.uint8)
    for side in range(200, 260):
        assert resize(image, ResizeRule((side, side), "crop")).shape == (side, side, 3)


def test_invalid_images_and_modes_are_rejected():
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], not float64 \[2, 2, 3\]"):
        resize(np.zeros((2, 2, 3)), ResizeRule((4, 4)))
    with pytest.raises(ValueError, match=r"not uint8 \[2, 2, 4\]"):
        resize(np.zeros((2, 2, 4), np.uint8), ResizeRule((4, 4)))
    with pytest.raises(ValueError, match="mode is 'stretch'"):
        resize(np.zeros((2, 2, 3), np.uint8), ResizeRule((4, 4), "stretch"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P"])
@pytest.mark.parametrize("side", [64, 90, 700])
def test_decode_resized_equals_decode_and_resize(mode, side):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (side // 8 + 1, side // 8 + 1, 3), np.uint8))
    file = io.BytesIO()
    image = coarse.resize((side, side), Image.Resampling.BICUBIC).convert(mode)
    image.save(file, "PNG" if mode in ("RGBA", "P") else "JPEG")
    for options in (("squash", "bilinear"), ("crop", "bicubic", 0.9)):
        rule = ResizeRule((64, 48), *options)
        np.testing.assert_array_equal(
            decode_resized(file.getvalue(), rule),
            resize(decode(file.getvalue(), rule.min_size), rule),
        )


@pytest.mark.parametrize(("fraction", "needed"), [(1.0, 28), (28 / 32, 32), (0.3, 94)])
def test_cropped_images_are_decoded_large_enough_for_the_crop(monkeypatch, fraction, needed):
    """A JPEG reduced to 28 pixels would have only 8 pixels in the central 0.3."""
    file = io.BytesIO()
    Image.new("RGB", (800, 800)).save(file, "JPEG")
    rule, sizes = ResizeRule((28, 28), crop_fraction=fraction), []
    monkeypatch.setattr(
        "datasets.images.resize.decode_image",
        lambda file, size: sizes.append(size) or decode_image(file, size),
    )
    decode_resized(file.getvalue(), rule)
    assert sizes == [rule.min_size] == [(needed, needed)]
