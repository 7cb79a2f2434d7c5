"""The papers, one module each: their tables, claims and contradictions, and how we read them."""

from train.reproduce.claims import Paper
from train.reproduce.papers import afhq, animals10, cats_dogs, cifar10, pig_faces

PAPERS: dict[str, Paper] = {
    module.PAPER.name: module.PAPER for module in (pig_faces, animals10, cifar10, afhq, cats_dogs)
}
