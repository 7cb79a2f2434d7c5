"""Augmentation: comparison with Pillow and SciPy, and properties."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy import ndimage

import datasets.images.augment
from datasets.images.augment import (
    affine_map,
    example_keys,
    sample_affine,
)

GEOMETRY = {"rotation": 5.0, "shift_x": 0.1, "shift_y": 0.1, "zoom": 0.1, "flip": True}
COLORS = {"brightness": 0.3, "contrast": 0.3}
ALL = {**GEOMETRY, **COLORS, "aspect": 0.2, "flip_vertical": True, "crop_area": 0.5}
ALL |= {"noise_share": 0.5, "cutout": 0.3}


@pytest.fixture
def images():
    """Smooth images, so that bilinear samples of two implementations are close."""
    noise = np.random.default_rng(0).uniform(0, 255, (3, 24, 31, 3))
    return ndimage.gaussian_filter(noise, (0, 2, 2, 0)).astype(np.float32)


@pytest.fixture
def photographs():
    """Random uint8 images."""
    return np.random.default_rng(1).integers(0, 256, (6, 24, 31, 3), np.uint8)


def compiled(function):
    """Jit a function, as in a training step. Otherwise, each operation would be compiled separately."""
    arrays = ("images", "keys")
    names = [name for name in inspect.signature(function).parameters if name not in arrays]
    return jax.jit(function, static_argnames=names)


add_noise, cut_out = (
    compiled(datasets.images.augment.add_noise),
    compiled(datasets.images.augment.cut_out),
)
random_colors, augment = (
    compiled(datasets.images.augment.random_colors),
    compiled(datasets.images.augment.augment),
)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def whole(image):
    return (0, 0, *image.shape[:2])


def warp(image, size=None, window=None, **changes):
    size = size or image.shape[:2]
    matrix, offset = affine_map(size, window or whole(image), **changes)
    return sample_affine(image, matrix, offset, size), np.asarray(matrix), np.asarray(offset)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "window", "changes"),
    [
        (None, None, {"angle": 0.12, "dx": 2.5, "dy": -1.5}),
        (None, None, {"angle": -0.5, "mirror": True, "upside_down": True}),
        ((17, 12), None, {"zoom": 1.3}),
        ((20, 40), (3.3, 5.9, 14.2, 20.7), {"angle": 0.3, "mirror": True, "zoom": 0.8, "dx": 1}),
    ],
)
def test_sampling_equals_scipy(images, size, window, changes):
    warped, matrix, offset = warp(images[0], size, window, **changes)
    for channel in range(3):
        expected = ndimage.affine_transform(
            images[0, ..., channel], matrix, offset, size, order=1, mode="nearest"
        )
        np.testing.assert_allclose(warped[..., channel], expected, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_rotation_equals_pillow(images):
    """Counter-clockwise for positive angles, about the center; compared away from the border."""
    warped, *_ = warp(images[0], angle=np.deg2rad(10))
    gray = Image.fromarray(images[0, ..., 0])
    expected = np.asarray(gray.rotate(10, resample=Image.Resampling.BILINEAR))
    np.testing.assert_allclose(warped[6:-6, 6:-6, 0], expected[6:-6, 6:-6], atol=1.0)


@pytest.mark.parametrize("window", [(2.5, 4.0, 10.0, 13.5), (0, 0, 24, 31)])
def test_scaling_of_a_window_equals_pillow(images, window):
    """When enlarging, Pillow's filter is bilinear interpolation, with the same pixel centers."""
    top, left, rows, columns = window
    warped, *_ = warp(images[0], (36, 47), window)
    gray = Image.fromarray(images[0, ..., 0])
    box = (left, top, left + columns, top + rows)
    expected = np.asarray(gray.resize((47, 36), Image.Resampling.BILINEAR, box))
    # Pillow does not read pixels outside the box: compare where all four neighbors are inside.
    np.testing.assert_allclose(warped[4:-4, 4:-4, 0], expected[4:-4, 4:-4], atol=1e-2)


def test_zoom_and_shift_by_hand():
    """A row 0 1 2 3, enlarged twice about the center, then shifted one pixel to the right."""
    row = jnp.arange(4.0)[None, :, None]
    larger, *_ = warp(row, zoom=2.0)
    np.testing.assert_allclose(larger[0, :, 0], [0.75, 1.25, 1.75, 2.25])
    moved, *_ = warp(row, zoom=2.0, dx=1)
    np.testing.assert_allclose(moved[0, :, 0], [0.25, 0.75, 1.25, 1.75])


def test_integer_shifts_move_pixels_right_and_down(images):
    warped, *_ = warp(images[0], dx=3, dy=2)
    np.testing.assert_allclose(warped[2:, 3:], images[0, :-2, :-3], atol=1e-3)
    # Outside the image, the border pixel is repeated.
    np.testing.assert_allclose(warped[0, 0], images[0, 0, 0], atol=1e-3)


def test_flips_by_sampling_are_exact(images):
    np.testing.assert_allclose(warp(images[0], mirror=True)[0], images[0, :, ::-1], atol=1e-3)
    np.testing.assert_allclose(warp(images[0], upside_down=True)[0], images[0, ::-1], atol=1e-3)


def test_default_arguments_return_the_images_unchanged(photographs):
    not_jitted = datasets.images.augment.augment
    assert not_jitted(photographs, keys(6)) is photographs
    assert not_jitted(photographs, keys(6), photographs.shape[1:3]) is photographs


@pytest.mark.parametrize("change", [{"shift_x": 1e-9}, {"rotation": 1e-9}, {"zoom": 1e-9}])
def test_negligible_changes_are_the_identity(photographs, change):
    """Images are sampled nevertheless."""
    np.testing.assert_allclose(augment(photographs, keys(6), **change), photographs, atol=2e-3)


@pytest.mark.parametrize(("name", "axis"), [("flip", 1), ("flip_vertical", 0)])
def test_flip_alone_is_exact_and_has_probability_one_half(photographs, name, axis):
    many = jnp.broadcast_to(photographs[:1], (200, *photographs.shape[1:]))
    flipped = np.asarray(augment(many, keys(200), **{name: True}))
    is_flipped = (flipped == np.flip(photographs[0], axis)).all(axis=(1, 2, 3))
    is_same = (flipped == photographs[0]).all(axis=(1, 2, 3))
    assert np.all(is_flipped ^ is_same)
    assert 70 < is_flipped.sum() < 130  # 100 +- 4.2 standard deviations


def crop_corners(cropped):
    """Return top and left of crops of an image whose channels contain row and column numbers."""
    return np.asarray(cropped)[:, 0, 0, 0].astype(int), np.asarray(cropped)[:, 0, 0, 1].astype(int)


@pytest.fixture
def coordinates():
    """300 images, 12 x 14, whose pixel (i, j) is (i, j, 0)."""
    rows, columns = np.mgrid[:12, :14]
    image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    return np.broadcast_to(image, (300, *image.shape))


def test_random_crops_are_exact_and_have_all_positions(coordinates):
    cropped = np.asarray(augment(coordinates, keys(300), (8, 9)))
    assert cropped.shape == (300, 8, 9, 3)
    tops, lefts = crop_corners(cropped)
    for crop, top, left in zip(cropped, tops, lefts, strict=True):
        np.testing.assert_array_equal(crop, coordinates[0, top : top + 8, left : left + 9])
    # 5 and 6 positions, expected 60 and 50 times each, with a standard deviation of 7.
    assert np.bincount(tops, minlength=5).min() > 35 and tops.max() == 4
    assert np.bincount(lefts, minlength=6).min() > 25 and lefts.max() == 5


def test_copied_and_sampled_crops_are_the_same(photographs):
    """The same draws give the same crops and flips, whether or not other changes require sampling."""
    flips = {"flip": True, "flip_vertical": True}
    copied = augment(photographs, keys(6), (20, 25), **flips)
    sampled = augment(photographs, keys(6), (20, 25), rotation=1e-9, **flips)
    np.testing.assert_allclose(sampled, copied, atol=2e-3)


def test_random_area_crops_have_the_given_area_and_stay_inside():
    """On ramps, the corners of the output show the corners of the crop."""
    rows, columns = np.mgrid[:100, :100]
    ramps = jnp.broadcast_to(jnp.stack([rows, columns], -1)[None] * 1.0, (400, 100, 100, 2))
    out = np.asarray(augment(ramps, keys(400), (50, 50), crop_area=0.25, aspect=0.5))
    last, first = out[:, -1, -1], out[:, 0, 0]
    height, width = ((last - first) * 50 / 49).T  # centers of border pixels are half a pixel inside
    assert first.min() >= 0 and last.max() <= 99
    inside = (height < 98) & (width < 98)  # crops that were not limited to the image
    area = (height * width / 1e4)[inside]
    assert 0.25 - 1e-3 < area.min() < 0.3 and 0.85 < area.max() < 1
    ratio = (width / height)[inside]
    assert 1 / 1.5 - 1e-3 < ratio.min() < 0.72 and 1.38 < ratio.max() < 1.5 + 1e-3
    assert abs(np.log(ratio).mean()) < 0.06  # wide as often as tall
    # All positions, independently along each axis.
    for corner in first.T:
        assert corner.max() > 30 and corner.min() < 2
    assert np.corrcoef(first.T)[0, 1] < 0.5  # above 0, since small crops allow large coordinates


def test_zoom_and_aspect_stay_within_their_bounds():
    """On a ramp, the difference between neighbors is the input size of an output pixel."""
    rows, columns = np.mgrid[:40, :40]
    ramps = jnp.broadcast_to(jnp.stack([rows, columns], -1)[None] * 1.0, (400, 40, 40, 2))
    zoomed = np.asarray(augment(ramps, keys(400), zoom=0.25))
    down, across = (zoomed[:, 20, 20] - zoomed[:, 19, 19]).T
    np.testing.assert_allclose(down, across, atol=1e-4)
    factor = 1 / down
    assert 0.75 - 1e-3 < factor.min() < 0.77 and 1.23 < factor.max() < 1.25 + 1e-3
    stretched = np.asarray(augment(ramps, keys(400), aspect=1.0))
    down, across = (stretched[:, 20, 20] - stretched[:, 19, 19]).T
    np.testing.assert_allclose(down * across, 1, atol=1e-3)
    for changed in (zoomed, stretched):  # about the center
        np.testing.assert_allclose((changed[:, 19, 19] + changed[:, 20, 20]) / 2, 19.5, atol=1e-3)
    ratio = down / across
    assert 0.5 - 1e-3 < ratio.min() < 0.53 and 1.9 < ratio.max() < 2 + 1e-2


def test_shifts_stay_within_their_bounds():
    """A ramp shows the source position of each pixel."""
    ramp = jnp.broadcast_to(jnp.arange(40.0)[None, None, :, None], (300, 1, 40, 1))
    moved = augment(ramp, keys(300), shift_x=0.1)
    shift = 20.0 - np.asarray(moved)[:, 0, 20, 0]
    assert np.abs(shift).max() <= 4.0 + 1e-3
    assert shift.min() < -3.5 and shift.max() > 3.5


def test_crop_larger_than_the_image_is_rejected(photographs):
    with pytest.raises(ValueError, match="images of 24x31 are too small for a crop of 28x28"):
        augment(photographs, keys(6), (28, 28))
    assert augment(photographs, keys(6), (28, 28), crop_area=0.5).shape == (6, 28, 28, 3)


@pytest.mark.parametrize(
    ("name", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast)],
)
def test_color_changes_equal_pillow(photographs, name, enhance):
    """To about one gray level: Pillow rounds the mean gray and truncates its results."""
    out = np.asarray(random_colors(photographs, keys(6), **{name: 0.5}))
    for image, before in zip(out, photographs, strict=True):
        middle = (before.astype(float) > 90) & (before < 160) & (np.abs(before - 127.5) > 10)
        center = 0.0
        if name == "contrast":
            center = np.asarray(Image.fromarray(before).convert("L"), float).mean()
        factor = np.median((image - center)[middle] / (before - center)[middle])
        assert 0.5 <= factor <= 1.5
        expected = np.asarray(enhance(Image.fromarray(before)).enhance(factor), float)
        assert np.abs(image - expected).max() < 1.5


def test_color_factors_are_uniform_within_their_bounds():
    gray = jnp.full((500, 2, 2, 3), 100.0)
    factor = np.asarray(random_colors(gray, keys(500), brightness=0.2))[:, 0, 0, 0] / 100
    assert 0.8 - 1e-6 < factor.min() < 0.81 and 1.19 < factor.max() < 1.2 + 1e-6
    assert abs(factor.mean() - 1) < 0.02  # four standard deviations
    same = random_colors(gray, keys(500), contrast=0.9)
    np.testing.assert_allclose(same, gray, rtol=1e-5)  # uniform images have no contrast


def test_brightness_and_contrast_are_drawn_independently():
    """Of two grays, the mean is scaled by brightness, and the difference by the product of both factors."""
    pair = jnp.broadcast_to(jnp.array([100.0, 140.0])[None, :, None, None], (500, 2, 1, 3))
    out = np.asarray(random_colors(pair, keys(500), brightness=0.2, contrast=0.2))[:, :, 0, 0]
    bright = out.mean(axis=1) / 120
    contrasty = (out[:, 1] - out[:, 0]) / (40 * bright)
    assert 0.8 - 1e-3 < contrasty.min() < 0.82 and 1.18 < contrasty.max() < 1.2 + 1e-3
    assert abs(np.corrcoef(bright, contrasty)[0, 1]) < 0.2  # 4.5 standard deviations


@pytest.mark.slow
def test_noise_is_gaussian_on_the_given_fraction_of_images():
    gray = jnp.full((1000, 8, 8, 3), 128.0)
    noise = np.asarray(add_noise(gray, keys(1000), 0.1, 10.0)) - 128
    noisy = np.abs(noise).max(axis=(1, 2, 3)) > 0
    assert 62 <= noisy.sum() <= 138  # 100 +- 4 standard deviations
    values = noise[noisy].ravel()
    assert abs(values.mean()) < 0.3 and abs(values.std() - 10) < 0.3
    assert abs((np.abs(values) < 10).mean() - 0.683) < 0.02
    more = np.abs(add_noise(gray, keys(1000), 0.2, 10.0) - 128).max(axis=(1, 2, 3)) > 0
    assert np.all(more[noisy])  # a larger share includes the images of a smaller one
    np.testing.assert_array_equal(add_noise(gray, keys(1000), 0.0), gray)
    assert np.all(np.abs(add_noise(gray, keys(1000), 1.0) - 128).max(axis=(1, 2, 3)) > 0)


@pytest.mark.slow
def test_noise_of_a_sample_does_not_depend_on_the_batch():
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), np.uint8)
    index = np.arange(40)

    def noisy_images(indices):
        sample_keys = example_keys(jax.random.key(7), index[indices])
        return np.asarray(add_noise(images[indices], sample_keys, 0.5))

    batch = noisy_images(np.arange(40))
    noise = (batch - images).reshape(40, -1)
    noisy = np.abs(noise).max(axis=1) > 0
    assert 8 < noisy.sum() < 32  # 20 +- 3.8 standard deviations
    # Noise differs between samples.
    assert np.abs(np.triu(np.corrcoef(noise[noisy]), 1)).max() < 0.6
    reverse = np.arange(40)[::-1]
    np.testing.assert_array_equal(noisy_images(reverse), batch[reverse])
    np.testing.assert_array_equal(noisy_images(np.arange(10, 15)), batch[10:15])
    assert batch.min() >= 0 and batch.max() <= 255


def test_cutout_fills_a_square():
    image = jnp.broadcast_to(jnp.arange(20.0)[None, :, None, None], (300, 20, 30, 3)) + 50
    out = np.asarray(cut_out(image, keys(300), 0.25, fill=7))
    hidden = (out == 7).all(axis=-1)
    np.testing.assert_array_equal(out[~hidden], np.asarray(image)[~hidden])
    heights, widths = hidden.any(2).sum(1), hidden.any(1).sum(1)
    np.testing.assert_array_equal(hidden.sum(axis=(1, 2)), heights * widths)  # a full rectangle
    assert (heights.min(), heights.max(), widths.min(), widths.max()) == (3, 5, 3, 5)
    assert (heights * widths == 25).mean() > 0.6  # 16/20 x 26/30 are inside
    assert hidden.any(axis=0).all()  # every pixel is hidden in some image
    mean = np.asarray(cut_out(image, keys(300), 0.25))
    np.testing.assert_allclose(mean[hidden], 59.5, rtol=1e-5)


@pytest.mark.slow
def test_augmentation_depends_only_on_image_and_key(photographs):
    batch = augment(photographs, keys(6), (20, 20), **ALL)
    alone = augment(photographs[2:3], keys(6)[2:3], (20, 20), **ALL)
    np.testing.assert_allclose(batch[2:3], alone, atol=1e-3)
    order = np.array([3, 1, 5, 0, 4, 2])
    shuffled = augment(photographs[order], keys(6)[order], (20, 20), **ALL)
    np.testing.assert_allclose(shuffled, batch[order], atol=1e-3)
    other = augment(photographs, keys(6, seed=1), (20, 20), **ALL)
    assert np.abs(batch - other).mean() > 10
    twins = augment(np.stack([photographs[0]] * 2), keys(2), (20, 20), **ALL)
    assert np.abs(twins[0] - twins[1]).mean() > 10


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"noise_share": 0.4}, {"cutout": 0.2}])
def test_adding_a_change_does_not_alter_the_others(photographs, more):
    """Each kind has its own draws: pixels that the added change does not affect are the same."""
    before = np.asarray(augment(photographs, keys(6), **GEOMETRY))
    after = np.asarray(augment(photographs, keys(6), **GEOMETRY, **more))
    assert 0.2 < np.isclose(after, before, atol=1e-3).mean() < 1
    moved = np.asarray(augment(photographs, keys(6, seed=5), **GEOMETRY))
    assert np.isclose(moved, before, atol=1e-3).mean() < 0.01


@pytest.mark.slow
def test_result_does_not_depend_on_the_number_of_devices(photographs):
    """Two images on each of three devices, compared with one batch."""
    one = jax.jit(lambda x, k: augment(x, k, (20, 20), **ALL))(photographs, keys(6))
    several = jax.pmap(lambda x, k: augment(x, k, (20, 20), **ALL), devices=jax.devices()[:3])(
        photographs.reshape(3, 2, *photographs.shape[1:]), keys(6).reshape(3, 2)
    )
    np.testing.assert_allclose(several.reshape(one.shape), one, atol=1e-3)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 1000),
    brightness=st.sampled_from([0.0, 0.3, 1.0]),
    contrast=st.sampled_from([0.0, 1.0]),
    sigma=st.sampled_from([0.0, 200.0]),
)
def test_values_stay_in_range(seed, brightness, contrast, sigma):
    image = np.random.default_rng(seed).integers(0, 256, (2, 5, 6, 3), np.uint8)
    out = augment(
        image,
        keys(2, seed),
        rotation=20.0,
        brightness=brightness,
        contrast=contrast,
        noise_share=0.5,
        noise_sigma=sigma,
        cutout=0.2,
    )
    assert out.dtype == jnp.float32
    assert out.min() >= 0 and out.max() <= 255.001


def test_dtype_shape_and_range_of_the_output(images):
    out = jax.jit(lambda x, k: augment(x, k, **GEOMETRY))(images, keys(3))
    assert (out.dtype, out.shape) == (jnp.float32, images.shape)
    assert images.min() - 1e-2 <= out.min() and out.max() <= images.max() + 1e-2
