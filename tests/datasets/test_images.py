"""Files of every kind become RGB bytes, and bytes of every size the size asked for."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import png
from PIL import Image

from datasets import InputError, ResizeRule
from datasets.images.decode import decode, decode_image, to_rgb_uint8
from datasets.images.resize import decode_resized, resize

GREY = np.arange(0, 240, 4, np.uint8).reshape(6, 10)
COLOURS = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)
WHITE = [255, 255, 255]


def stored(image, format="PNG", **options):
    """What becomes of an image on its way through a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return decode(file.getvalue())


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_grey(format):
    np.testing.assert_array_equal(stored(Image.fromarray(GREY), format), np.dstack([GREY] * 3))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey(format):
    """257 times as bright: 65535 is white."""
    image = Image.fromarray(GREY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(stored(image, format), np.dstack([GREY] * 3))


def test_sixteen_bit_grey_of_the_other_byte_order():
    image = Image.fromarray((GREY.astype(np.uint16) * 257).astype(">u2"))
    np.testing.assert_array_equal(stored(image, "TIFF"), np.dstack([GREY] * 3))


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_floating_point_grey(scale):
    image = Image.fromarray((GREY * scale).astype(np.float32))
    np.testing.assert_array_equal(stored(image, "TIFF"), np.dstack([GREY] * 3))


def test_floating_point_that_is_no_number_is_black():
    image = Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 7]], np.float32))
    assert stored(image, "TIFF")[0, :, 0].tolist() == [0, 255, 0, 7]


def test_one_bit():
    bits = GREY > 100
    decoded = stored(Image.fromarray(bits))
    np.testing.assert_array_equal(decoded, np.dstack([bits * np.uint8(255)] * 3))


def test_palette():
    image = Image.fromarray(COLOURS).quantize(64)
    np.testing.assert_array_equal(stored(image), np.array(image.convert("RGB")))
    assert len(np.unique(stored(image))) > 3  # not the indices


def test_cmyk():
    """Inks take light away: without black, RGB is what they leave of 255."""
    inks = [Image.fromarray(255 - COLOURS[..., k]) for k in range(3)]
    image = Image.merge("CMYK", [*inks, Image.new("L", inks[0].size)])
    np.testing.assert_array_equal(stored(image, "TIFF"), COLOURS)
    jpeg = stored(image, "JPEG", quality=100, subsampling=0)
    np.testing.assert_allclose(jpeg.astype(int), COLOURS, atol=4)


def test_alpha_lies_over_white():
    alpha = np.full((2, 2, 4), (200, 0, 0, 0), np.uint8)
    alpha[0, 1, 3], alpha[1, 0, 3] = 255, 51  # opaque; a fifth
    decoded = stored(Image.fromarray(alpha))
    assert decoded[0, 0].tolist() == WHITE
    assert decoded[0, 1].tolist() == [200, 0, 0]
    np.testing.assert_allclose(decoded[1, 0].astype(int), [244, 204, 204], atol=1)


def test_grey_with_alpha():
    assert stored(Image.new("LA", (2, 2), (0, 0)))[0, 0].tolist() == WHITE


@pytest.mark.parametrize(
    ("mode", "colour", "key"),
    [("L", 7, 7), ("RGB", (1, 2, 3), (1, 2, 3)), ("P", 1, 1), ("P", 1, b"\xff\x00")],
)
def test_transparent_colour_is_white(mode, colour, key):
    image = Image.new(mode, (2, 2), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0])
    assert stored(image, transparency=key)[0, 0].tolist() == WHITE


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
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
def test_exif_turns(format, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    decoded = stored(Image.fromarray(COLOURS), format, exif=exif, **options)
    np.testing.assert_array_equal(decoded, upright(COLOURS))


def test_damaged_exif_does_not_matter():
    assert stored(Image.fromarray(COLOURS), "JPEG", exif=b"Exif\0\0nonsense").shape == (6, 10, 3)


def test_result_is_the_callers_own():
    image = Image.fromarray(COLOURS)
    to_rgb_uint8(image)[:] = 0
    np.testing.assert_array_equal(np.array(image), COLOURS)


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_may_come_reduced(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = Image.fromarray(COLOURS).resize((800, 640), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=95, exif=exif)
    full, reduced = decode(file.getvalue()), decode(file.getvalue(), for_size=(100, 70))
    assert full.shape[:2] == ((640, 800) if orientation == 1 else (800, 640))
    assert reduced.shape[:2] == tuple(n // 2 for n in full.shape[:2])  # a fourth is below 200
    resized = [resize(image, ResizeRule((100, 70))).astype(int) for image in (full, reduced)]
    np.testing.assert_allclose(*resized, atol=3)
    assert decode(file.getvalue(), for_size=(401, 3)).shape == full.shape


def test_truncation_is_found_in_reduced_images():
    content = png(size=(64, 64), format="JPEG")
    for cut in range(700, len(content) - 2, 100):
        with pytest.raises(InputError, match="truncated"):
            decode(content[:cut], for_size=(1, 1))


def test_paths_are_read_and_named(tmp_path):
    (tmp_path / "a.png").write_bytes(png(size=(3, 4)))
    (tmp_path / "b.png").write_bytes(b"nothing")
    assert decode(tmp_path / "a.png").shape == (3, 4, 3)
    with pytest.raises(InputError, match=r"b\.png cannot be decoded: not an image"):
        decode(str(tmp_path / "b.png"))
    with pytest.raises(InputError, match=r"c\.png cannot be read: No such file"):
        decode(tmp_path / "c.png")


def bomb():
    """A file of 50 kB that is 400 million pixels."""
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
def test_undecodable_is_one_line(content, reason):
    with pytest.raises(InputError, match=reason) as error:
        decode(content)
    assert "\n" not in str(error.value)


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


def test_pillow_does_not_warn(monkeypatch):
    """It does, above MAX_IMAGE_PIXELS; from twice that on it refuses."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert stored(Image.new("RGB", (12, 12))).shape == (12, 12, 3)
    assert not caught


def test_memory_shortage_is_no_bad_image(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        decode(b"")


def test_one_pixel_fills_any_size():
    pixel = np.array([[[9, 8, 7]]], np.uint8)
    for mode in ("squash", "crop"):
        enlarged = resize(pixel, ResizeRule((3, 5), mode))
        np.testing.assert_array_equal(enlarged, np.broadcast_to(pixel, (3, 5, 3)))


def test_squash_keeps_everything_and_crop_the_middle():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 10:20] = 200
    squashed = resize(stripes, ResizeRule((10, 10)))
    cropped = resize(stripes, ResizeRule((10, 10), "crop"))
    assert squashed[:, [0, 9]].max() == 0
    assert squashed.max() == 200
    assert cropped.min() == 200


@pytest.mark.parametrize("size", [(20, 20), (8, 32), (40, 10)])
def test_crop_is_the_largest_of_its_shape(size):
    """Against Pillow's own fitting."""
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


def test_crop_fraction_takes_the_middle_of_the_crop():
    """224 / 256 is torchvision's: shorter side to 256, the central 224; here at a sixteenth of that."""
    rows = np.arange(64, dtype=np.uint8)[:, None, None] * np.ones((64, 96, 3), np.uint8)
    ours = resize(rows, ResizeRule((14, 14), "crop", crop_fraction=14 / 16))
    box = (20.0, 4.0, 76.0, 60.0)  # of 96x64: the middle 64x64, of which 56x56
    expected = Image.fromarray(rows).resize((14, 14), Image.Resampling.BILINEAR, box)
    np.testing.assert_array_equal(ours, np.array(expected))
    half = ResizeRule((14, 14), "crop", crop_fraction=0.5)
    same_size = resize(ours, half)  # wanted in part: not as it is
    assert not np.array_equal(same_size, ours)
    squashed = resize(rows, ResizeRule((14, 14), "squash", crop_fraction=0.5))
    box = (24.0, 16.0, 72.0, 48.0)  # the middle half of each side
    expected = Image.fromarray(rows).resize((14, 14), Image.Resampling.BILINEAR, box)
    np.testing.assert_array_equal(squashed, np.array(expected))
    with pytest.raises(ValueError, match="crop_fraction is 0"):
        resize(rows, ResizeRule((14, 14), "crop", crop_fraction=0))


@given(*[st.integers(1, 40)] * 4, st.sampled_from(["squash", "crop"]))
def test_any_size_becomes_any_other(height, width, to_height, to_width, mode):
    image = np.full((height, width, 3), 77, np.uint8)
    resized = resize(image, ResizeRule((to_height, to_width), mode))
    assert resized.shape == (to_height, to_width, 3)
    assert resized.dtype == np.uint8
    assert (resized == 77).all()


@pytest.mark.parametrize("shape", [(480, 640, 3), (640, 480, 3)])
def test_crops_stay_inside_the_image_whatever_rounding_does(shape):
    """480 / 232 * 232 is more than 480: Pillow would refuse the box."""
    image = np.zeros(shape, np.uint8)
    for side in range(200, 260):
        assert resize(image, ResizeRule((side, side), "crop")).shape == (side, side, 3)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], not float64 \[2, 2, 3\]"):
        resize(np.zeros((2, 2, 3)), ResizeRule((4, 4)))
    with pytest.raises(ValueError, match=r"not uint8 \[2, 2, 4\]"):
        resize(np.zeros((2, 2, 4), np.uint8), ResizeRule((4, 4)))
    with pytest.raises(ValueError, match="mode is 'stretch'"):
        resize(np.zeros((2, 2, 3), np.uint8), ResizeRule((4, 4), "stretch"))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P"])
@pytest.mark.parametrize("side", [64, 90, 700])
def test_the_short_way_from_a_file_to_a_size_gives_the_same(mode, side):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (side // 8 + 1, side // 8 + 1, 3), np.uint8))
    file = io.BytesIO()
    image = coarse.resize((side, side), Image.Resampling.BICUBIC).convert(mode)
    image.save(file, "PNG" if mode in ("RGBA", "P") else "JPEG")
    for how in (("squash", "bilinear"), ("crop", "bicubic", 0.9)):
        rule = ResizeRule((64, 48), *how)
        np.testing.assert_array_equal(
            decode_resized(file.getvalue(), rule),
            resize(decode(file.getvalue(), rule.least), rule),
        )


@pytest.mark.parametrize(("fraction", "needed"), [(1.0, 28), (28 / 32, 32), (0.3, 94)])
def test_cropped_images_are_read_as_large_as_their_middle_needs(monkeypatch, fraction, needed):
    """A JPEG reduced to 28 pixels would have 8 left in the middle 0.3."""
    file = io.BytesIO()
    Image.new("RGB", (800, 800)).save(file, "JPEG")
    rule, asked = ResizeRule((28, 28), crop_fraction=fraction), []
    monkeypatch.setattr(
        "datasets.images.resize.decode_image",
        lambda file, size: asked.append(size) or decode_image(file, size),
    )
    decode_resized(file.getvalue(), rule)
    assert asked == [rule.least] == [(needed, needed)]
