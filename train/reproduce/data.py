"""Whether a run's data are the paper's: what its splits.json tells, beside what was published."""

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
    """What a run's splits.json tells of its data, beside the paper's.

    `dataset` is the name of the paper's data, `published` the sizes of its splits (train and validation count
    together, since few papers have a validation split). `fewer_on_purpose`: the recipe itself uses a subset of
    the training images. `is_documents` is False, and `why` says why, unless all are as published.
    """
    images = {part: len(ids) for part, ids in manifest["splits"].items()}
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

    def learning(sizes: Mapping[str, int]) -> int:
        return sizes.get("train", 0) + sizes.get("validation", 0)

    ours, papers = (learning(images), images["test"]), (learning(published), published["test"])
    if ours[1] == papers[1] and (ours[0] == papers[0] or fewer_on_purpose):
        return ""
    kind = "subset" if ours[0] <= papers[0] and ours[1] <= papers[1] else "other edition"
    return (
        f"{kind}: {ours[0]:,} of {papers[0]:,} training images (with validation),"
        f" {ours[1]:,} of {papers[1]:,} test images"
    )
