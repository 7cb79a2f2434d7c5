"""Pretrained weights: sources, readers of foreign files, name maps.

    import zoo
    module, variables, preprocessing = zoo.load_pretrained("resnet50", "torchvision", num_classes=3)

`zoo.pretrained.load` also gives a report of what was taken and what was not. Keras, TensorFlow and torch are not
needed, and nothing that a file holds is ever executed.
"""

from zoo.pretrained.loading import Pretrained, load, load_pretrained
from zoo.pretrained.sources import SOURCES, Source

__all__ = ["SOURCES", "Pretrained", "Source", "load", "load_pretrained"]
