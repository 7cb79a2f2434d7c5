"""Pretrained weights: sources, readers of foreign files, name maps.

    import zoo
    module, variables, preprocessing = zoo.load_pretrained("resnet50", "torchvision", num_classes=3)

`zoo.pretrained.load` also gives a report of what was taken and what was not. Keras, TensorFlow and torch are not
needed, and nothing that a file holds is ever executed.
"""

from zoo.pretrained.sources import Source

__all__ = ["Pretrained", "Source", "load", "load_pretrained"]


def __getattr__(name: str):
    """Load what needs JAX on first use, so that listing the sources is instant."""
    if name in ("Pretrained", "load", "load_pretrained"):
        from zoo.pretrained import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'zoo.pretrained' has no attribute {name!r}")
