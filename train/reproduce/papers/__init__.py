"""The papers, one module each: reported results, comparisons, contradictions, and our interpretation of them."""

from train.reproduce.papers import afhq, animals10, cats_dogs, cifar10, pig_faces
from train.reproduce.schema import Paper

PAPERS: dict[str, Paper] = {
    module.PAPER.name: module.PAPER for module in (pig_faces, animals10, cifar10, afhq, cats_dogs)
}
