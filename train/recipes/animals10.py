"""MobileNetV2 by transfer learning on Animals-10.

Paper: H. Liu, "Animal Image Classification Recognition based on Transfer Learning" (sections 2 and 3).

    python -m train.run --model mobilenet_v2 --dataset animals10 --data-dir archive.zip

Stated: MobileNetV2 pretrained on ImageNet with a new softmax head; at first everything except the head is frozen, then
part of it is unfrozen; dropout; cross-entropy, Adam, 50 epochs in total; training images are augmented by horizontal
flip, translation, rotation, scaling, proportional crop and change of aspect ratio, also against class imbalance.
Not stated, our choice:
- the split: seeded, stratified, 80/10/10;
- 20 epochs frozen and 30 with the upper blocks unfrozen, learning rates 1e-3 and 1e-5 (Keras's guide to transfer
  learning);
- the unfrozen part: features.14 to features.18, the blocks of 160 and 320 channels and the last 1x1 convolution;
- dropout 0.2 before the head, batch 32, and the ranges of the augmentation;
- class imbalance: all classes are sampled equally often, and augmentation makes repeated images differ;
- Adam and the weights are Keras's, since the paper names TensorFlow and "the migration learning model that has been
  trained in Google".
"""

import dataclasses

from train.recipe import Augmentation, Optimizer, Recipe, Stage

AUGMENTATION = Augmentation(
    flip=True, shift_x=0.1, shift_y=0.1, rotation=15.0, zoom=0.1, crop_area=0.8, aspect=0.1
)
HEAD = Stage(
    name="head",
    freeze=("backbone",),
    epochs=20,
    optimizer=Optimizer(name="keras_adam", learning_rate=1e-3),
    balance="sampling",
    augment=AUGMENTATION,
)
FINE_TUNING = dataclasses.replace(
    HEAD,
    name="fine-tuning",
    freeze=("features.:14",),
    epochs=30,
    optimizer=Optimizer(name="keras_adam", learning_rate=1e-5),
)

ANIMALS10 = Recipe(
    name="animals10",
    model="mobilenet_v2",
    pretrained="keras",
    dataset="animals10",
    batch_size=32,
    stages=(HEAD, FINE_TUNING),
)
