"""Document 2: Animals-10, MobileNetV2 by transfer learning.

    python -m train.reproduce animals10 --data-dir archive.zip
    python -m train.run --model mobilenet_v2 --dataset animals10 --data-dir archive.zip

Printed: 95.16 % test accuracy after 50 epochs, flat after 40; one GeForce RTX 2080 Ti, TensorFlow.
Ours: not run, for want of the data. At small scale (below; two CPU cores, minutes, 3 seeds): from scratch 66.5 %, head
alone 66.1 %, two stages 68.5 % (benchmarks/results/ledger_animals10.json).

Stated: MobileNetV2 pretrained on ImageNet with a new softmax head; first everything but the head frozen, then
part of it unfrozen; dropout; cross-entropy, Adam, 50 epochs in all; on the training images horizontal flip,
translation, rotation, scaling, proportional crop, change of aspect ratio, also against the unequal sizes of
classes.
Not stated, our choice:
- the split: seeded, by class, 80/10/10;
- 20 epochs frozen and 30 with the upper blocks free, learning rates 1e-3 and 1e-5 (Keras's guide to transfer
  learning);
- the free part: features.14 to features.18, the blocks of 160 and 320 channels and the last 1x1 convolution;
- dropout 0.2 before the head, batch 32, and how far the augmentation goes;
- against unequal classes: they are drawn equally often, and augmentation makes their repetitions differ;
- the weights: Keras's, since the document names TensorFlow and "the model that has been trained in Google".

Where ImageNet's weights, or Animals-10, are not at hand, the rows "ours-..." make the same comparison at small
scale: a narrow MobileNetV2 (width 0.35, 48x48 pixels) learns CIFAR-10 first, then cats from dogs. Batch-norm
momentum 0.9 there, since the runs are short.
"""

import dataclasses
from typing import Any

from train.papers import pretraining
from train.recipe import Augmentation, Optimizer, Recipe, Stage
from train.reproduce.claims import Document, Ordering, Row

AUGMENTATION = Augmentation(
    flip=True, shift_x=0.1, shift_y=0.1, rotation=15.0, zoom=0.1, crop_area=0.8, aspect=0.1
)
HEAD = Stage(
    name="head",
    freeze=("backbone",),
    epochs=20,
    optimizer=Optimizer(learning_rate=1e-3),
    balance="sampling",
    augment=AUGMENTATION,
)
FINE_TUNING = dataclasses.replace(
    HEAD,
    name="fine-tuning",
    freeze=("features.:14",),
    epochs=30,
    optimizer=Optimizer(learning_rate=1e-5),
)

ANIMALS10 = Recipe(
    name="animals10",
    model="mobilenet_v2",
    pretrained="keras",
    dataset="animals10",
    batch_size=32,
    stages=(HEAD, FINE_TUNING),
)

NARROW = ("width=0.35", "last_width=640", "norm_momentum=0.9")
PRETRAINING = "ours-pretraining"
SMALL = dataclasses.replace(
    ANIMALS10,
    model_options=NARROW,
    pretrained=f"row:{PRETRAINING}",
    dataset="cats_dogs",
    image_size=48,
)
# 3,000 photographs: the rates are those of a net that has seen little, and steps are few.
SMALL_HEAD = dataclasses.replace(HEAD, epochs=10)
SMALL_FINE_TUNING = dataclasses.replace(
    FINE_TUNING, epochs=20, optimizer=Optimizer(learning_rate=3e-4, schedule="cosine")
)
STAND_IN = "In place of ImageNet and Animals-10: CIFAR-10 and photographs of cats and dogs."


def _ours(name: str, label: str, seeds: int = 3, **changes: Any) -> Row:
    return Row(
        name=f"ours-{name}",
        table="ours",
        label=label,
        recipe=dataclasses.replace(SMALL, **changes),
        stand_in={},
        seeds=seeds,
        reading=STAND_IN,
    )


DOCUMENT = Document(
    name="animals10",
    title="Animal Image Classification Recognition based on Transfer Learning",
    rows=(
        Row(
            name="transfer",
            table="section 3.3",
            label="MobileNet V2, transfer learning",
            recipe=ANIMALS10,
            printed={"accuracy": 0.9516},
            reading="Nothing stands in for ImageNet's weights; the rows of ours compare at small scale.",
        ),
        _ours(
            "pretraining",
            "CIFAR-10, the weights of the rows below",
            seeds=1,
            pretrained=None,
            dataset="cifar10",
            batch_size=pretraining.BATCH_SIZE,
            stages=(pretraining.STAGE,),
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
    orderings=(
        Ordering(
            "accuracy",
            "ours-two-stages",
            "ours-scratch",
            "transfer is better than brand-new learning",
        ),
        Ordering(
            "accuracy",
            "ours-two-stages",
            "ours-frozen",
            "unfreezing some layers improves the classification further",
        ),
    ),
)
