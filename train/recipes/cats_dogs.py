"""Keras AlexNet on Kaggle's cats and dogs.

Paper: K. Le 2021, "Alexnet and image classification" (section 4, and the notebook published with it).

    python -m train.run --model alexnet --dataset cats_dogs --data-dir cat-and-dog.zip

Stated: images scaled to [0, 1]; rotation up to 5 degrees, shifts up to 10%, horizontal flip; 62 steps per epoch
at batch 128; 100 epochs. The published notebook uses plain SGD with a learning rate of 0.1 and binary cross-entropy on
a two-way softmax, which for two classes equals softmax cross-entropy: both outputs contribute the same term, -log p of
the true class, and the loss is their mean.

Our interpretation: the last epoch's weights are scored. The notebook saves the weights with the lowest training loss
but never loads them: "We see that the accuracies on both sets tend to increase (up to 98.85% for the training set and
90.95 % for the testing set) as the number of epochs increases", which are the values of "Epoch 100/100".

Where we deviate: the paper watches the test set during training. We hold out 69 of the 8,005 training images for
validation, which leaves 7,936, exactly 62 batches.
"""

from train.recipe import Augmentation, Optimizer, Recipe, Stage

CATS_DOGS = Recipe(
    name="cats_dogs",
    model="alexnet",
    dataset="cats_dogs",
    batch_size=128,
    validation_fraction=69 / 8005,
    score="last",
    stages=(
        Stage(
            epochs=100,
            optimizer=Optimizer(name="sgd", learning_rate=0.1),
            augment=Augmentation(rotation=5.0, shift_x=0.1, shift_y=0.1, flip=True),
        ),
    ),
)
