"""Augmentation against Pillow and scipy, and its properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from datasets.augment import affine_map, random_affine, sample_affine

SPEC = {"rotation": 5.0, "shift_x": 0.1, "shift_y": 0.1, "flip": True}


@pytest.fixture
def images():
    """Smooth, so that bilinear samples of two implementations are close."""
    noise = np.random.default_rng(0).uniform(0, 255, (3, 24, 31, 3))
    return ndimage.gaussian_filter(noise, (0, 2, 2, 0)).astype(np.float32)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def warp(image, angle=0.0, dx=0.0, dy=0.0, mirror=False):
    matrix, offset = affine_map(image.shape[:2], jnp.deg2rad(angle), dx, dy, mirror)
    return sample_affine(jnp.asarray(image), matrix, offset), np.asarray(matrix), np.asarray(offset)


@pytest.mark.parametrize(
    ("angle", "dx", "dy", "mirror"), [(7, 2.5, -1.5, False), (-30, 0, 0, True)]
)
def test_sampling_equals_scipy(images, angle, dx, dy, mirror):
    ours, matrix, offset = warp(images[0], angle, dx, dy, mirror)
    for channel in range(3):
        theirs = ndimage.affine_transform(
            images[0, ..., channel], matrix, offset, order=1, mode="nearest"
        )
        np.testing.assert_allclose(ours[..., channel], theirs, rtol=1e-4, atol=1e-2)


def test_rotation_turns_as_pillow_does(images):
    """Counter-clockwise for positive angles, about the centre; compared away from the border."""
    ours, *_ = warp(images[0], angle=10)
    grey = Image.fromarray(images[0, ..., 0])
    theirs = np.asarray(grey.rotate(10, resample=Image.Resampling.BILINEAR))
    np.testing.assert_allclose(ours[6:-6, 6:-6, 0], theirs[6:-6, 6:-6], atol=1.0)


def test_whole_shifts_move_pixels_right_and_down(images):
    ours, *_ = warp(images[0], dx=3, dy=2)
    np.testing.assert_allclose(ours[2:, 3:], images[0, :-2, :-3], atol=1e-3)
    np.testing.assert_allclose(
        ours[0, 0], images[0, 0, 0], atol=1e-3
    )  # the nearest pixel continues


def test_mirror_is_exact(images):
    ours, *_ = warp(images[0], mirror=True)
    np.testing.assert_allclose(ours, images[0, :, ::-1], atol=1e-3)


def test_nothing_asked_changes_nothing(images):
    assert random_affine(images, keys(3)) is images


def test_flip_alone_is_exact_and_even(images):
    many = jnp.broadcast_to(images[:1], (200, *images.shape[1:]))
    flipped = np.asarray(random_affine(many, keys(200), flip=True))
    is_flipped = (flipped == images[0][:, ::-1]).all(axis=(1, 2, 3))
    is_same = (flipped == images[0]).all(axis=(1, 2, 3))
    assert np.all(is_flipped ^ is_same)
    assert 70 < is_flipped.sum() < 130  # 100 +- 4.2 standard deviations


def test_an_image_depends_on_its_key_alone(images):
    batch = random_affine(jnp.asarray(images), keys(3), **SPEC)
    alone = random_affine(jnp.asarray(images[2:]), keys(3)[2:], **SPEC)
    np.testing.assert_allclose(batch[2:], alone, atol=1e-4)
    other = random_affine(jnp.asarray(images), keys(3, seed=1), **SPEC)
    assert np.abs(batch - other).max() > 1


def test_shifts_stay_within_their_bounds():
    """A ramp shows where each pixel was read from."""
    ramp = jnp.broadcast_to(jnp.arange(40.0)[None, None, :, None], (300, 1, 40, 1))
    moved = random_affine(ramp, keys(300), shift_x=0.1)
    shift = 20.0 - np.asarray(moved)[:, 0, 20, 0]
    assert np.abs(shift).max() <= 4.0 + 1e-3
    assert shift.min() < -3.5 and shift.max() > 3.5


def test_range_and_type_are_kept(images):
    out = jax.jit(lambda x, k: random_affine(x, k, **SPEC))(images, keys(3))
    assert (out.dtype, out.shape) == (jnp.float32, images.shape)
    assert images.min() - 1e-2 <= out.min() and out.max() <= images.max() + 1e-2
