"""Keras AlexNet on Kaggle's cats and dogs.

Paper: K. Le 2021, "Alexnet and image classification" (section 4, and the notebook published with it).

    python -m train.run --model alexnet --dataset cats_dogs --data-dir cat-and-dog.zip

Stated: images scaled to [0, 1]; rotation up to 5 degrees, shifts up to 10 %, horizontal flip; 62 steps per epoch
at batch 128 (8,007 / 128 = 62.6: full batches only); 100 epochs. The published notebook uses plain SGD with
learning rate 0.1 and binary cross-entropy on a two-way softmax; on two classes that is softmax cross-entropy
exactly: p and 1 - p give the two outputs the same term, and their mean is -log p.
Where we deviate: the paper watches the test set while it trains and saves the weights of the lowest training loss; our
validation images come out of the training split, and the best validation accuracy is kept.
"""

from train.recipe import Augmentation, Optimizer, Recipe, Stage

CATS_DOGS = Recipe(
    name="cats_dogs",
    model="alexnet",
    dataset="cats_dogs",
    batch_size=128,
    stages=(
        Stage(
            epochs=100,
            optimizer=Optimizer(name="sgd", learning_rate=0.1),
            augment=Augmentation(rotation=5.0, shift_x=0.1, shift_y=0.1, flip=True),
        ),
    ),
)
