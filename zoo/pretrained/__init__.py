"""Pretrained weights: sources, file readers, name maps.

    import zoo
    module, variables, preprocessing = zoo.load_pretrained("resnet50", "torchvision", num_classes=3)

`zoo.pretrained.load` also returns a report of what was loaded and what was not. Keras, TensorFlow and torch are not
required, and no code from a file is ever executed.
"""

from zoo.pretrained.sources import Source

__all__ = ["Pretrained", "Source", "load", "load_pretrained"]


def __getattr__(name: str):
    """Import the module that needs JAX on first use, to list sources without JAX."""
    if name in ("Pretrained", "load", "load_pretrained"):
        from zoo.pretrained import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'zoo.pretrained' has no attribute {name!r}")
