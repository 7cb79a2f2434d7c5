"""Animals-10, MobileNetV2 by transfer learning.

Paper: H. Liu, "Animal Image Classification Recognition based on Transfer Learning". Settings:
`train/recipes/animals10.py`.

    python -m train.reproduce animals10 --data-dir archive.zip

Reported: 95.16 % test accuracy after 50 epochs, flat after 40; one GeForce RTX 2080 Ti, TensorFlow.
Ours: not run, because the data are missing. At small scale (below; two CPU cores, minutes, 3 seeds): from scratch
66.5 %, head alone 66.1 %, two stages 68.5 % (benchmarks/results/ledger_animals10.json).

Where ImageNet's weights, or Animals-10, are not available, the rows "ours-..." make the same comparison at small
scale: a narrow MobileNetV2 (width 0.35, 48x48 pixels) learns CIFAR-10 first, then cats against dogs. Batch-norm
momentum 0.9 there, since the runs are short.
"""

import dataclasses
from typing import Any

from train.recipe import JobWeights, ModelOptions, Optimizer
from train.recipes import ours
from train.recipes.animals10 import ANIMALS10, FINE_TUNING, HEAD
from train.reproduce.claims import Comparison, Paper, Row

NARROW = ModelOptions(width=0.35, last_width=640, norm_momentum=0.9)
PRETRAINING = "ours-pretraining"
SMALL = dataclasses.replace(
    ANIMALS10,
    model_options=NARROW,
    pretrained=JobWeights(PRETRAINING),
    dataset="cats_dogs",
    image_size=48,
)
# 3,000 photographs: the rates suit a net that has seen little, and steps are few.
SMALL_HEAD = dataclasses.replace(HEAD, epochs=10)
SMALL_FINE_TUNING = dataclasses.replace(
    FINE_TUNING, epochs=20, optimizer=Optimizer(learning_rate=3e-4, schedule="cosine")
)
PROXY = "In place of ImageNet and Animals-10: CIFAR-10 and photographs of cats and dogs."


def _ours(name: str, label: str, seeds: int = 3, **changes: Any) -> Row:
    return Row(
        name=f"ours-{name}",
        table="ours",
        label=label,
        recipe=dataclasses.replace(SMALL, **changes),
        proxy={},
        seeds=seeds,
        note=PROXY,
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
            note="ImageNet's weights have no proxy; our own rows compare at small scale.",
        ),
        _ours(
            "pretraining",
            "CIFAR-10, the weights of the rows below",
            seeds=1,
            pretrained=None,
            dataset="cifar10",
            batch_size=ours.PRETRAINING_BATCH_SIZE,
            stages=(ours.PRETRAINING,),
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
                    optimizer=Optimizer(learning_rate=1e-3, schedule="cosine"),
                ),
            ),
        ),
        _ours(
            "frozen",
            "the head alone",
            stages=(dataclasses.replace(SMALL_HEAD, epochs=30),),
        ),
        _ours(
            "two-stages",
            "the head, then the upper blocks",
            stages=(SMALL_HEAD, SMALL_FINE_TUNING),
        ),
    ),
    comparisons=(
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
