"""Resize rules: crop boxes, minimum sizes, and invalid rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.common.resize import ResizeRule

sides = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("rule", "box"),
    [
        (ResizeRule((10, 20)), (0, 0, 300, 200)),
        (ResizeRule((10, 20), crop_fraction=0.5), (75, 50, 225, 150)),
        (ResizeRule((10, 20), "crop"), (100, 0, 200, 200)),
        (ResizeRule((20, 10), "crop"), (0, 25, 300, 175)),
        (ResizeRule((10, 20), "crop", crop_fraction=0.5), (125, 50, 175, 150)),
    ],
)
def test_crop_box(rule, box):
    assert rule.box(300, 200) == box


@given(
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.sampled_from(["squash", "crop"]),
    st.floats(0.01, 1),
)
def test_crop_box_is_inside_the_image_and_centered(size, image, mode, fraction):
    top, left, bottom, right = ResizeRule(size, mode, crop_fraction=fraction).box(*image)
    assert 0 <= top < bottom <= image[0] and 0 <= left < right <= image[1]
    assert top == pytest.approx(image[0] - bottom, abs=1e-6 * image[0])
    assert left == pytest.approx(image[1] - right, abs=1e-6 * image[1])
    if mode == "crop":
        assert (bottom - top) * size[1] == pytest.approx((right - left) * size[0], rel=1e-6)


@pytest.mark.parametrize(("fraction", "min_size"), [(1.0, (28, 14)), (28 / 32, (32, 16))])
def test_min_size(fraction, min_size):
    assert ResizeRule((28, 14), crop_fraction=fraction).min_size == min_size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "stretch"}, "mode is 'stretch' instead of one of"),
        ({"interpolation": "lanczos"}, "interpolation is 'lanczos' instead of one of"),
        ({"crop_fraction": 0.0}, "crop_fraction is 0.0: use a fraction"),
        ({"crop_fraction": 1.01}, "crop_fraction is 1.01"),
    ],
)
def test_invalid_rules_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        ResizeRule((8, 8), **fields)
