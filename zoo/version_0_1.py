"""Model options as version 0.1 recorded them in runs and `best/` folders; supported for one more version.

Imports only the standard library: a run's settings are read before JAX starts.
"""

from collections.abc import Mapping
from typing import Any

RENAMED_OPTIONS = {"dialect": "variant"}

_EVERY_CONVOLUTION = (1, 2, 3, 4, 5)
_NORM = {"norm_layers": _EVERY_CONVOLUTION, "attention_norm": True}
# Defaults of models whose papers we have since reinterpreted.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "pig_alexnet": {"head_widths": (4096, 4096), **_NORM},
    "sam_alexnet": _NORM,
    "sam_alexnet_tiny": _NORM,
    "conv_autoencoder": {"widths": (32, 64, 128, 256, 256)},
}


def options_of_version_0_1(
    name: str, options: Mapping[str, Any], *, defaults: bool = True
) -> dict[str, Any]:
    """Convert options that version 0.1 recorded for a model to options that build the same net today.

    `defaults`: add the defaults of version 0.1 where they have changed. False for options that only override others.
    """
    own = _DEFAULTS.get(name, {})
    found = dict(own) if defaults else {}
    for option, value in options.items():
        if option == "norm" and "norm_layers" in own:  # True: every convolution; False: none
            found |= {
                "norm_layers": _EVERY_CONVOLUTION if value else (),
                "attention_norm": bool(value),
            }
        else:
            found[RENAMED_OPTIONS.get(option, option)] = value
    return found
