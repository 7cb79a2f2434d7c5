"""Model zoo: Flax Linen architectures for image classification, with pretrained weights.

    import jax, zoo
    model = zoo.create_model("sam_alexnet", num_classes=4, dropout_rate=0.2)
    variables = jax.jit(model.init)(jax.random.key(0), jax.numpy.zeros((1, 256, 256, 3)))
    logits = model.apply(variables, images)                   # images: float [N, H, W, 3]; logits: float32 [N, 4]
    codes = zoo.features(model, variables, images)            # input of the head: [N, 1024]

Importing this package is cheap: JAX is imported when the first model is created.
"""

from zoo.common.errors import ImageTooSmall, InputError
from zoo.common.resize import ResizeRule
from zoo.preprocessing import Preprocessing
from zoo.registry import (
    ModelEntry,
    ModelInfo,
    create_model,
    get_entry,
    list_models,
    model_info,
    register_model,
)
from zoo.version_0_1 import options_of_version_0_1

__version__ = "0.1.0"  # pyproject.toml reads it here

__all__ = [
    "ImageTooSmall",
    "InputError",
    "ModelEntry",
    "ModelInfo",
    "Preprocessing",
    "ResizeRule",
    "create_model",
    "features",
    "get_entry",
    "layer_table",
    "list_models",
    "load_pretrained",
    "load_variables",
    "model_info",
    "options_of_version_0_1",
    "register_model",
    "save_variables",
]

_LAZY = {
    "features": "zoo.inspect",
    "layer_table": "zoo.inspect",
    "load_pretrained": "zoo.pretrained",
    "load_variables": "zoo.weights",
    "save_variables": "zoo.weights",
}


def __getattr__(name: str):
    """Import the modules that need JAX on first use, to keep `import zoo` fast."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
