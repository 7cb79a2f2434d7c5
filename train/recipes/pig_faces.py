"""AlexNet with and without spatial attention on pig faces.

Paper: "Pig face identification by AlexNet with a spatial attention module" (method; Table 1).

    python -m train.run --model sam_alexnet --batch-size 16       # Table 1, "Attention-AlexNet (16)"
    python -m train.run --model pig_alexnet --batch-size 16       # Table 1, "AlexNet (16)"

Stated: 10 pigs, 684 training, 77 validation, 254 test images; categorical cross-entropy; Adam, learning rate
1e-4; batch 16, 32, 64; at most 100 epochs; dropout 0.4; best checkpoint by accuracy; learning rate x 0.9 after
5 epochs without a lower validation loss.
Not stated, our choice: early stopping (named in the text) has patience 15 and watches the validation loss;
images are scaled to [0, 1]; Keras's defaults for everything else, of which three matter in a short run: batch-norm
momentum 0.99, Adam's epsilon before the bias correction, and training on the last, smaller batch of each epoch.

Our interpretation: precision, recall and F1 are support-weighted, since the reported recalls are 249, 242 and 247 of
254 images. "AlexNet jointed the LRN layer after the 1st and 2nd convolution layer": batch normalization takes its
place, and is also in the attention modules. "A total of 9 weight layers were there, among which 5 convolution layers
and 4 fully connected layers were included": 4096-4096-4096-10. `zoo/alexnet.py` has more on both. Keras's Adam: "under
the Keras framework".

Where we deviate: the paper's photographs were never published, so the default data set is synthetic_pigs. The paper
computes test scores after each epoch; our runs report the epoch with the best validation accuracy.
"""

import dataclasses

from train.recipe import EarlyStop, ModelOptions, Optimizer, Plateau, Recipe, Stage

PIG_FACES = Recipe(
    name="pig_faces",
    model="sam_alexnet",
    dataset="synthetic_pigs",
    batch_size=16,
    drop_last=False,
    stages=(
        Stage(
            epochs=100,
            optimizer=Optimizer(name="keras_adam", learning_rate=1e-4),
            plateau=Plateau(factor=0.9, patience=5),
            early_stop=EarlyStop(patience=15),
        ),
    ),
)

# 5 epochs are 215 steps. At momentum 0.99, the moving statistics would still contain 0.99^215 = 12% of their initial
# values (mean 0, variance 1) and lag by 100 steps; at 0.9, they lag by ten.
FAST_STATISTICS = ModelOptions(norm_momentum=0.9)
PIG_FACES_QUICK = dataclasses.replace(
    PIG_FACES,
    name="pig_faces_quick",
    model_options=FAST_STATISTICS,
    stages=(dataclasses.replace(PIG_FACES.stages[0], epochs=5),),
)
QUICK_NOTE = (
    "quick recipe: 5 epochs, and batch-norm momentum 0.9 instead of 0.99 (Keras's default, as in pig_faces), because"
    " 215 steps are too few for 0.99"
)
