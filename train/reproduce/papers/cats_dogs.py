"""Cats and dogs: AlexNet in Keras.

Paper: K. Le 2021, "Alexnet and image classification". Settings: `train/recipes/cats_dogs.py`.

    python -m train.reproduce cats_dogs --data-dir cat-and-dog.zip

Reported: 90.954% test accuracy after 100 epochs, 98.85% on the training images, test loss 0.3721; 116 s per
epoch on unspecified hardware.
Our run, shortened (10 epochs on a subset of 3,000 images, 21 steps per epoch; two busy CPU cores, 40 minutes): 63.6%
(benchmarks/results/ledger_cats_dogs.json). With SGD at learning rate 0.1, the training loss stays within 0.004 of
chance (ln 2 = 0.693) for eight epochs, then starts to fall (0.684 in the tenth); it does not diverge.

Contradiction: the confusion matrix (900 dogs and 940 cats correct, 112 dogs predicted as cats, 71 cats as dogs) sums to
2,023 images, but the paper counts 2,025: each folder contains one file that is not an image. 1,840 / 2,023 is the
reported 90.954%.
"""

from train.recipe import with_values
from train.recipes.cats_dogs import CATS_DOGS
from train.reproduce.schema import EarlierReading, Paper, Row

SLOWER = with_values(CATS_DOGS, {"stages.0.optimizer.learning_rate": 0.01})
# 3,000 training images, of which 26 are held out, make 23 steps per epoch; the paper has 62.
SHORT = {"stages.0.epochs": 10}
EARLIER = EarlierReading(
    "the epoch with the best validation accuracy is scored, a tenth of the training images is held out",
    {"validation_fraction": 0.1, "score": "best"},
)

PAPER = Paper(
    name="cats_dogs",
    title="Alexnet and image classification",
    rows=(
        Row(
            name="alexnet",
            table="section 4",
            label="Alexnet, 2 classes",
            recipe=CATS_DOGS,
            reported={
                "accuracy": 0.90954,
                "train_accuracy": 0.9885,
                "loss": 0.3721,
                "parameters": 58289538,
                "correct: cats": 940 / 1011,
                "confused: cats as dogs": 71 / 1011,
                "correct: dogs": 900 / 1012,
                "confused: dogs as cats": 112 / 1012,
            },
            proxy={},
            short=SHORT,
            earlier=EARLIER,
            note="The confusion matrix, 900 dogs correct and 112 predicted as cats, 940 cats correct and 71 predicted"
            " as dogs, in fractions of each class. 98.85% is Keras's running mean over the last epoch, on augmented"
            " images and with dropout, and so is our value. Proxy: fewer photographs of the same kind.",
        ),
        Row(
            name="ours-slower",
            table="not in the paper",
            label="SGD with learning rate 0.01",
            recipe=SLOWER,
            proxy={},
            short=SHORT,
            earlier=EARLIER,
            note="To show the effect of the notebook's learning rate of 0.1: a tenth of it.",
        ),
    ),
)
