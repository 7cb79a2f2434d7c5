"""Drawn pigs: shape of the data, dependence on the seed, and cache."""

import hashlib
import itertools

import numpy as np
import pytest
from PIL import Image

from datasets import load_dataset
from datasets.dataset import Options
from datasets.named import synthetic_pigs
from datasets.named.synthetic_pigs.drawing import PIGS, Draws

SIZES = {"train": 684, "validation": 77, "test": 254}


@pytest.fixture(scope="module", params=[8, pytest.param(1, marks=pytest.mark.long)])
def share(request):
    """The part of the data that is drawn: an eighth, and in the long tests all."""
    return request.param


@pytest.fixture(scope="module")
def pigs(share, tmp_path_factory):
    if share == 1:
        return load_dataset("synthetic_pigs")
    with pytest.MonkeyPatch.context() as patch:
        sizes = {name: size // share for name, size in synthetic_pigs.SPLIT_SIZES.items()}
        patch.setattr(synthetic_pigs, "SPLIT_SIZES", sizes)
        patch.setenv("JAX_ZOO_CACHE", str(tmp_path_factory.mktemp("pigs")))
        return load_dataset("synthetic_pigs")


@pytest.mark.slow
def test_data_have_the_shape_of_the_papers_data(pigs, share):
    assert synthetic_pigs.INFO.split_sizes == synthetic_pigs.SPLIT_SIZES == SIZES
    sizes = {name: size // share for name, size in SIZES.items()}
    assert {name: len(split) for name, split in pigs.splits.items()} == sizes
    assert len(pigs.class_names) == len(PIGS) == 10
    for split in pigs.splits.values():
        counts = np.bincount(split.labels)
        assert counts.max() - counts.min() <= 1
        image, _ = split[len(split) - 1]
        assert (image.shape, image.dtype) == ((256, 256, 3), np.uint8)


@pytest.mark.slow
def test_data_are_marked_as_synthetic(pigs):
    assert pigs.info.synthetic
    assert "synthetic" in pigs.name and "synthetic" in pigs.info.description
    assert pigs.provenance["kind"] == "synthetic"


@pytest.mark.slow
def test_all_images_are_different(pigs):
    """Within and across splits, so that no test image is a training image."""
    digests = [
        hashlib.sha256(split[i][0]).digest()
        for split in pigs.splits.values()
        for i in range(len(split))
    ]
    assert len(set(digests)) == sum(map(len, pigs.splits.values()))


def test_image_is_a_function_of_seed_split_and_index(pigs):
    for split, index in (("train", 3), ("test", len(pigs.splits["test"]) - 1)):
        again = synthetic_pigs.draw(split, index)
        np.testing.assert_array_equal(again, pigs.splits[split][index][0])
    images = [
        synthetic_pigs.draw("train", 0),
        synthetic_pigs.draw("train", 10),  # the same pig
        synthetic_pigs.draw("test", 0),
        synthetic_pigs.draw("train", 0, seed=1),
    ]
    for one, other in itertools.combinations(images, 2):
        assert np.mean(one != other) > 0.5


def test_draws_are_the_raw_stream_of_pcg64():
    """Pins the first draws of a key, to detect changes of NumPy that would change the images."""
    draws = Draws(1, 0, 0, 0)
    raw = np.random.PCG64(np.random.SeedSequence((1, 0, 0, 0))).random_raw(3)
    expected = [(int(number) >> 11) / 2**53 for number in raw]
    assert [draws.uniform() for _ in range(3)] == expected
    bells = [Draws(7, i).bell(2.0) for i in range(2000)]
    assert max(map(abs, bells)) <= 6
    assert np.mean(bells) == pytest.approx(0, abs=0.15)
    assert np.std(bells) == pytest.approx(2, rel=0.05)


@pytest.mark.slow
def test_linear_classifier_stays_under_60_percent(pigs, share):
    """With the best regularization strengths; benchmarks.linear_baseline tries more sizes and strengths."""
    from benchmarks.linear_baseline import fit_all

    trials = list(fit_all(pigs, (8, 16), (1e-2, 1e-1)))
    assert all(trial["converged"] for trial in trials)
    assert all(0.2 / share < trial["test_accuracy"] < 0.6 for trial in trials)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """A small data set of solid colors, with an empty cache. Returns the list of drawn images."""

    def draw(split, index, *, seed=0):
        return np.full((256, 256, 3), (index, len(split), seed), np.uint8)

    drawn = []
    monkeypatch.setattr(synthetic_pigs, "draw", lambda *a, **k: drawn.append(a) or draw(*a, **k))
    monkeypatch.setattr(synthetic_pigs, "SPLIT_SIZES", {"train": 6, "validation": 2, "test": 3})
    monkeypatch.setenv("JAX_ZOO_CACHE", str(tmp_path / "cache"))
    return drawn


def test_second_load_reads_the_cache(quick, tmp_path):
    first = synthetic_pigs.build(Options())
    assert len(quick) == 11
    second = synthetic_pigs.build(Options())
    assert len(quick) == 11
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(second.splits["test"][2][0][0, 0], (2, 4, 0))
    synthetic_pigs.build(Options(seed=1))
    assert len(quick) == 22
    assert len(list((tmp_path / "cache").glob("*.rgb"))) == 2


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_cache_is_drawn_again(quick, tmp_path, damage):
    fingerprint = synthetic_pigs.build(Options()).fingerprint
    (file,) = (tmp_path / "cache").glob("*.rgb")
    content = bytearray(file.read_bytes())
    if damage == "cut":
        del content[-100:]
    else:
        content[1000] ^= 255
    file.write_bytes(content)
    assert synthetic_pigs.build(Options()).fingerprint == fingerprint
    assert len(quick) == 22
    synthetic_pigs.build(Options())
    assert len(quick) == 22


def test_unwritable_cache_is_ignored(quick, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(synthetic_pigs.build(Options()).splits["train"]) == 6


def test_caches_of_other_generators_are_not_read(quick, monkeypatch):
    synthetic_pigs.build(Options())
    monkeypatch.setattr(synthetic_pigs, "GENERATOR", synthetic_pigs.GENERATOR + 1)
    synthetic_pigs.build(Options())
    assert len(quick) == 22


def test_contact_sheet(tmp_path):
    synthetic_pigs.contact_sheet(tmp_path / "sheet.png", per_pig=2, size=40)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (400, 80)
