"""Check whether a run used the paper's data, from its splits.json."""

from collections.abc import Mapping
from typing import Any

from datasets.manifest import edition_of

EDITIONS = {
    "lossy copy": "a lossy copy (JPEG) of the published images",
    "repacked": "image files, not the published batches",
}


def describe_data(
    manifest: Mapping[str, Any],
    dataset: str,
    published: Mapping[str, int] | None,
    *,
    fewer_on_purpose: bool = False,
) -> dict[str, Any]:
    """Compare a run's data with the paper's.

    Args:
      manifest: the run's splits.json.
      dataset: name of the paper's data.
      published: sizes of the published splits; train and validation are added up, since few papers have a
        validation split. None: not known, and not checked.
      fewer_on_purpose: the recipe itself uses a subset of the training images.

    Returns name, fingerprint, synthetic, images (per split), is_documents (the run used the paper's data as
    published) and why (the reason if it did not).
    """
    images = {split: len(ids) for split, ids in manifest["splits"].items()}
    why = _why_other_data(manifest, images, dataset, published, fewer_on_purpose)
    return {
        "name": manifest["dataset"],
        "fingerprint": manifest["fingerprint"],
        "synthetic": bool(manifest.get("synthetic")),
        "images": images,
        "is_documents": not why,
        "why": why,
    }


def _why_other_data(
    manifest: Mapping[str, Any],
    images: Mapping[str, int],
    dataset: str,
    published: Mapping[str, int] | None,
    fewer_on_purpose: bool,
) -> str:
    if manifest.get("synthetic"):
        return f"synthetic images in place of {dataset}"
    if manifest["dataset"] != dataset:
        return f"in place of {dataset}"
    if edition := edition_of(manifest):
        return EDITIONS[edition]
    if published is None:
        return ""

    def for_training(sizes: Mapping[str, int]) -> int:
        return sizes.get("train", 0) + sizes.get("validation", 0)

    train, test = for_training(images), images["test"]
    published_train, published_test = for_training(published), published["test"]
    if test == published_test and (train == published_train or fewer_on_purpose):
        return ""
    is_subset = train <= published_train and test <= published_test
    if not is_subset and train + test <= published_train + published_test:
        return (
            f"split differently: {train:,} training images (with validation) and {test:,} test images, not"
            f" {published_train:,} and {published_test:,}"
        )
    return (
        f"{'subset' if is_subset else 'other edition'}: {train:,} of {published_train:,} training images"
        f" (with validation), {test:,} of {published_test:,} test images"
    )
