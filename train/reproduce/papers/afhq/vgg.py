"""VGG16, and VGG16 with an SVM: section C, Tables 1 and 2, Figures 5 and 6."""

import dataclasses
import math

from train.recipe import JobWeights, Probe
from train.recipes.afhq import REPORTED_SVM, VGG, VGG_FIRST, VGG_LINEAR_SVM, VGG_TUNED
from train.reproduce.papers.afhq import photographs
from train.reproduce.schema import Comparison, EarlierReading, Grid, Row

PRETRAINING = "ours-vgg-pretraining"
BEST = "table1-vgg16-dropout"
PROXY_SCRATCH = photographs.proxy("vgg_tiny")
PROXY = photographs.proxy("vgg_tiny", PRETRAINING)
EARLIER = EarlierReading(
    f"{photographs.EARLIER.text}; Optax's Adam instead of Keras's, early stopping by the validation loss",
    {
        **photographs.EARLIER.changes,
        "stages.*.optimizer.name": "adam",
        "stages.*.early_stop.monitor": "loss",
    },
)
# Only the SVM is trained, on the features of the best net.
SVM = dataclasses.replace(VGG, pretrained=JobWeights(BEST), stages=(), probe=REPORTED_SVM)

ROWS = (
    photographs.pretraining(PRETRAINING, "vgg_tiny"),
    Row(
        name="table1-vgg16-first",
        table="Table 1, section C 1",
        label="VGG16 without transfer",
        recipe=VGG_FIRST,
        reported={
            "accuracy": 0.351,
            "train_accuracy": 0.36,
            "validation_accuracy": 0.35,
            "loss": math.nan,
        },
        proxy=PROXY_SCRATCH,
        earlier=EARLIER,
        failure=True,
        note="The loss is NaN. 35.1% is the fraction of cats, the first class, which the argmax of NaN logits"
        " predicts for every image. Our runs with a NaN loss fail in the same way."
        + photographs.NOTE,
    ),
    Row(
        name="table1-vgg16-tuned",
        table="Table 1, Figure 5",
        label="VGG16 with transfer",
        recipe=VGG_TUNED,
        reported={
            "accuracy": 0.903,
            "loss": 0.134,
            "train_accuracy": 0.96,
            "validation_accuracy": 0.96,
        },
        proxy=PROXY,
        earlier=EARLIER,
        note="A loss of 0.134 is low for an error rate of 9.7%; both are reported."
        + photographs.NOTE,
    ),
    Row(
        name=BEST,
        table="Table 1, Figure 6",
        label="VGG16, best results",
        recipe=VGG,
        reported={"accuracy": 0.983, "loss": 0.064},
        proxy=PROXY,
        earlier=EARLIER,
        note="As above, with dropout 0.1 after the fully connected layers." + photographs.NOTE,
    ),
    Row(
        name="table2-vgg16-svm",
        table="Table 2",
        label="VGG-svm",
        recipe=VGG_LINEAR_SVM,
        reported={"accuracy": 0.3507, "train_accuracy": 0.3729, "validation_accuracy": 0.3509},
        proxy=PROXY,
        earlier=EARLIER,
        failure=True,
        note="The fraction of cats is 35.05%: the SVM seems to predict cat for every image. The paper does not say"
        " which net the features come from; this one has linear activations like the first one, trained at a learning"
        " rate at which it does not diverge; its features are not scaled. Features and labels in a different order"
        " would fail in the same way." + photographs.NOTE,
    ),
    Row(
        name="ours-vgg16-svm-unscaled",
        table="not in the paper",
        label="the same SVM on the best net's features",
        recipe=SVM,
        proxy=PROXY_SCRATCH,
        earlier=EARLIER,
        note="Shows how much the net contributes to the failure in Table 2." + photographs.NOTE,
    ),
    Row(
        name="ours-vgg16-svm",
        table="not in the paper",
        label="SVM on the best net's standardized features, gamma set by their variance",
        recipe=dataclasses.replace(SVM, probe=Probe(method="svm")),
        proxy=PROXY_SCRATCH,
        earlier=EARLIER,
        note="Shows how much scaling contributes: with 4096 features of variance 1, the squared distance of two images"
        " is about 8192, so the kernel is exp(-8.2), nearly zero, with gamma 0.001, and exp(-2) with gamma 1/4096."
        + photographs.NOTE,
    ),
)

COMPARISONS = (
    Comparison("accuracy", "table1-vgg16-tuned", "table1-vgg16-first", "the grid's best wins"),
    Comparison("accuracy", BEST, "table1-vgg16-tuned", "dropout helps"),
    Comparison(
        "accuracy",
        BEST,
        "table2-vgg16-svm",
        "softmax is better than the SVM on VGG16's features",
    ),
)

GRIDS = (
    Grid(
        name="vgg16",
        table="section C 2",
        recipe=VGG_TUNED,
        axes={
            "batch_size": (6, 32, 64),
            "stages.0.optimizer.learning_rate": (0.1, 0.01, 0.001, 0.0001),
            "stages.0.optimizer.decay": (1e-2, 1e-3, 1e-6),
            "stages.0.optimizer.l2": (0.1, 0.01, 0.001, 0.0001),
            "model_options.activation": ("relu", "tanh", "sigmoid", "linear"),
        },
        best={
            "batch_size": 64,
            "stages.0.optimizer.learning_rate": 0.0001,
            "stages.0.optimizer.decay": 1e-6,
            "stages.0.optimizer.l2": 0.0001,
            "model_options.activation": "relu",
        },
        proxy=PROXY,
        earlier=EARLIER,
        short={"stages.0.epochs": 2, "images_per_class": 200},
        note="We vary the activation of all hidden layers; the paper may have varied only that of the added layers,"
        " since the convolutions were pretrained with ReLU." + photographs.NOTE,
    ),
    Grid(
        name="vgg16-svm",
        table="section C 4",
        recipe=SVM,
        axes={
            "probe.c": (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
            "probe.gamma": (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
            "probe.kernel": ("rbf", "linear"),
        },
        best={"probe.c": 1.0, "probe.gamma": 0.001, "probe.kernel": "rbf"},
        proxy=PROXY_SCRATCH,
        earlier=EARLIER,
        note="A linear kernel has no gamma, so its 36 trials are six distinct ones."
        + photographs.NOTE,
    ),
)
