"""Recipes, the training loop, and the commands: `python -m train.run --help`.

import train
predictor = train.load_run("runs/sam_alexnet-synthetic_pigs")   # or a best/ folder moved elsewhere
predictor.probabilities(images)                                 # uint8 [H, W, 3] each -> [N, classes]
"""

import sys

# While `python -m train.run` looks for its module, sys.argv[0] is "-m". From here on, signals stop the command without
# a traceback, even while it imports its libraries.
if sys.argv[:1] == ["-m"] and any(word.startswith("train.") for word in sys.orig_argv):
    from train import stopping

    stopping.install()


def __getattr__(name: str):
    """Import modules that need JAX on first use only, so that `--help` is instant."""
    if name in ("load_run", "Predictor"):
        from train import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'train' has no attribute {name!r}")
