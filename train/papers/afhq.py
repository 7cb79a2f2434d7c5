"""Document 4: Animal Faces-HQ, six ways to classify animal faces.

    python -m train.reproduce afhq --data-dir afhq.zip
    python -m train.run --model resnet50 --dataset afhq --data-dir afhq.zip      # 87 % printed
    python -m train.run --model vgg16 --dataset afhq --data-dir afhq.zip         # 98.3 %, loss 0.064
    python -m train.run --model vade --dataset afhq --data-dir afhq.zip          # 96.67 %, without labels
    python -m train.run --model gmvae --dataset afhq --data-dir afhq.zip         # 69.44 %, without labels
    python -m train.run --model conv_autoencoder --dataset afhq --data-dir afhq.zip   # with an SVM, 94.53 %

Ours, on digits in place of the data (two CPU cores, one to two minutes a run): VaDE 85.1 %, GMVAE 74.3 %, a mixture on
an auto-encoder's codes 81.7 %, k-means 80.3 % (5 seeds); auto-encoder and SVM 98.7 %, with noise on 5 to 20 % of the
images 98.7 to 98.9 % (3 seeds): the losses with noise do not show; the rest is not run
(benchmarks/results/ledger_afhq.json).
On 128 features of CIFAR-10 (5 seeds) VaDE ends at 34.3 %, below its own start, a mixture on the codes (40.3 %), and
k-means (38.2 %); GMVAE 29.3 %. Why: ten codes hold nearly all that varies in these features. Under a likelihood of
variance 1, whose constant is 117.6 of a loss of 126, what they miss weighs little beside the divergences, and clusters
merge: 5.0 to 6.9 effective ones of 10, where the mixture had 9.3 to 9.8.

Hardware not named. Stated for all: 80/10/10 of 16,130 images; resized to 224x224, scaled to [0, 1], normalised
by ImageNet's mean and deviation; a version of seven classes of about 500 images.

ResNet-50. Stated: Kaiming-uniform weights, or pretrained ones with Adam 1e-4, betas (0.9, 0.999), 30 epochs,
batch 16; the grids; then flips, rotation, dropout before the head, L2. We read weight decay and epsilon as
torch has them (in the gradient; 1e-8), since betas, normalisation and initialisation are named as torch names
them. Not stated, our choice: rotation up to 15 degrees, dropout 0.5; the settings of the first run, taken from
the second.
"Early stopping at epoch 19" or 20 is our rule for all runs: the epoch of the best validation accuracy is kept.
VGG16. Stated: at most 100 epochs, stop after 5 without a better validation accuracy (ours watches the
validation loss); the grid; augmentation on, of unknown kind (ours as for ResNet-50). Table 1's columns say
which runs are pretrained; the text says so of the first only. We take torchvision's weights, which belong to
the stated normalisation; Keras's decay and L2 (of all kernels here; perhaps only of the layers that the authors
added).
VaDE, GMVAE. Stated: 2048 features of a pretrained ResNet-50, latent size 10, learning rate 1e-4, batch 64 (3
classes) or 20 (7 classes), convergence after 10 epochs. Our choice: 100 epochs a stage; features divided by one
number, their standard deviation. The document also has seeds that fail: five runs each.
Auto-encoder. Stated: trained without its FC layer, which is then inserted, and all of it tuned with a big
batch; Adam; an SVM with C 1 and rbf on the codes. Our choice: layers (`zoo/conv_autoencoder.py`), 30 epochs a
stage, batch 64 in both stages (a recipe has one), noise of sigma 0.1 of the range, codes standardised before
the SVM. "On all the data we have" is on the training part alone here.

Contradictions, and our reading:
- The best Adam has betas (0.8, 0.999), and the grid prints (0.8, 0.9) and (0.9, 0.999): the former is (0.8,
  0.999).
- ResNet-50's best is 87 % (epoch 19), and 86 % "the highest we can get" (epoch 20): 87 %, said twice.
- All grids of CNNs are judged on test accuracy there, on validation accuracy here.
- The auto-encoder's learning rate 0.05 is not in its grid (0.0001 to 0.01): 0.0005, as large ones "can't
  converge".
- 20 % noisy images cost 26 points. If the other images kept their accuracy, all noisy ones being wrong would
  cost 19, and chance in three classes 12; 10 % cost 6.4, where chance would cost 6.1. So the clean images get
  worse, too, or the per cents are the strength of noise on all images: the row `ours-sigma-20` is that reading.
- VGG16 with an SVM (35.07 %) and without transfer (35.1 %) score the share of cats, 5,653 of 16,130 = 35.05 %:
  both seem to answer "cat" whatever they see (of logits that are NaN, the first is taken). The abstract
  nevertheless has the SVM ahead.
- "GMVAE under 3 class will converge while 7 class will not", and Table 3 prints 69.44 and 82.78 %.
Where we deviate: `afhq` keeps the published test part; nets without pretrained weights see images in [0, 1] and
no more, torchvision's the central 7/8.

Without the data: ResNet-50 and VGG16 are compared as tiny nets on photographs of cats and dogs (48x48 pixels),
"pretrained" on CIFAR-10 by us; clustering on the pixels of digits (28x28), and on features of CIFAR-10 from a net that
we train; the auto-encoder on digits of 32x32 pixels.
"""

import dataclasses
import math
from typing import Any

from train.papers import pretraining
from train.recipe import Augmentation, EarlyStop, Optimizer, Probe, Recipe, Stage, with_values
from train.reproduce.claims import Document, Grid, Ordering, Row

# --- ResNet-50 -----------------------------------------------------------------------------------

AUGMENTATION = Augmentation(flip=True, flip_vertical=True, rotation=15.0)
TORCH_ADAM = Optimizer(learning_rate=1e-4, epsilon=1e-8, decoupled=False)
TUNED_ADAM = dataclasses.replace(TORCH_ADAM, b1=0.8, weight_decay=1e-4)
TORCH_SGD = Optimizer(
    name="sgd", learning_rate=1e-4, momentum=0.9, weight_decay=1e-4, decoupled=False
)

RESNET = Recipe(
    name="afhq_resnet50",
    model="resnet50",
    model_options=("dropout_rate=0.5",),
    pretrained="torchvision",
    dataset="afhq",
    batch_size=16,
    stages=(Stage(epochs=30, optimizer=TUNED_ADAM, augment=AUGMENTATION),),
)
RESNET_PLAIN = dataclasses.replace(
    RESNET, model_options=(), stages=(Stage(epochs=30, optimizer=TORCH_ADAM),)
)
RESNET_SCRATCH = dataclasses.replace(
    RESNET_PLAIN, pretrained=None, model_options=("kernel_init=kaiming_uniform",)
)
RATES = (0.01, 0.005, 0.001, 0.0005, 0.0001)
DECAYS = (0.01, 0.001, 0.0001)

# In place of AFHQ and of ImageNet's weights.
PRETRAINED_RESNET, PRETRAINED_VGG = "ours-resnet-pretraining", "ours-vgg-pretraining"
PHOTOGRAPHS: dict[str, Any] = {"dataset": "cats_dogs", "image_size": 48}
SMALL_RESNET = {**PHOTOGRAPHS, "model": "resnet_tiny"}
SMALL_RESNET_PRETRAINED = {**SMALL_RESNET, "pretrained": f"row:{PRETRAINED_RESNET}"}
SMALL_VGG = {**PHOTOGRAPHS, "model": "vgg_tiny"}
SMALL_VGG_PRETRAINED = {**SMALL_VGG, "pretrained": f"row:{PRETRAINED_VGG}"}
CATS_AND_DOGS = (
    " Stand-in: cats and dogs, a tiny net, pretrained on CIFAR-10 where the document says ImageNet."
)
PRETRAINING = Recipe(
    name="afhq_pretraining",
    dataset="cifar10",
    image_size=48,
    batch_size=pretraining.BATCH_SIZE,
    stages=(pretraining.STAGE,),
)


def _pretraining(name: str, model: str) -> Row:
    return Row(
        name=name,
        table="ours",
        label=f"{model} on CIFAR-10, in place of ImageNet's weights",
        recipe=dataclasses.replace(PRETRAINING, model=model),
        stand_in={},
        seeds=1,
    )


RESNET_ROWS = (
    _pretraining(PRETRAINED_RESNET, "resnet_tiny"),
    Row(
        name="resnet50-scratch",
        table="section B 1",
        label="Resnet-50, no transfer learning",
        recipe=RESNET_SCRATCH,
        printed={"accuracy": 0.60, "train_accuracy": 0.80, "validation_accuracy": 0.60},
        stand_in=SMALL_RESNET,
        reading="Weights and epochs are stated; rate and batch are those of the run with transfer."
        + CATS_AND_DOGS,
    ),
    Row(
        name="resnet50-pretrained",
        table="section B 1, Figure 1",
        label="Resnet-50, transfer learning",
        recipe=RESNET_PLAIN,
        printed={"train_accuracy": 0.95, "validation_accuracy": 0.80},
        stand_in=SMALL_RESNET_PRETRAINED,
        reading="No test accuracy is printed." + CATS_AND_DOGS,
    ),
    Row(
        name="resnet50-sgd",
        table="section B 2",
        label="Resnet-50, best SGD",
        recipe=with_values(RESNET_PLAIN, {"stages.0.optimizer": TORCH_SGD}),
        stand_in=SMALL_RESNET_PRETRAINED,
        reading='"Best result using Adam outweighs the SGD": no number.' + CATS_AND_DOGS,
    ),
    Row(
        name="resnet50-adam",
        table="section B 2, Figure 2",
        label="Resnet-50, best Adam",
        recipe=with_values(RESNET_PLAIN, {"stages.0.optimizer": TUNED_ADAM}),
        printed={"accuracy": 0.82},
        stand_in=SMALL_RESNET_PRETRAINED,
        reading='"About 82 %", were it stopped at epoch 20; we keep the best of 30 epochs.'
        + CATS_AND_DOGS,
    ),
    Row(
        name="resnet50-augmented",
        table="section B 3 and 4, Figure 3",
        label="Resnet-50, against overfitting",
        recipe=RESNET,
        printed={"accuracy": 0.87, "loss": 0.35},
        stand_in=SMALL_RESNET_PRETRAINED,
        reading='87 % by epoch 19; once also 86 % by epoch 20, "the highest".' + CATS_AND_DOGS,
    ),
)
RESNET_GRIDS = (
    Grid(
        name="resnet50-sgd",
        table="section B 2",
        recipe=with_values(RESNET_PLAIN, {"stages.0.optimizer": TORCH_SGD}),
        axes={
            "stages.0.optimizer.learning_rate": RATES,
            "stages.0.optimizer.momentum": (0.8, 0.85, 0.9),
            "stages.0.optimizer.weight_decay": DECAYS,
        },
        best={
            "stages.0.optimizer.learning_rate": 0.0001,
            "stages.0.optimizer.momentum": 0.9,
            "stages.0.optimizer.weight_decay": 0.0001,
        },
        stand_in=SMALL_RESNET_PRETRAINED,
        short={"stages.0.epochs": 5},
        reading="Judged on test accuracy there, on validation accuracy here." + CATS_AND_DOGS,
    ),
    Grid(
        name="resnet50-adam",
        table="section B 2",
        recipe=RESNET_PLAIN,
        axes={
            "stages.0.optimizer.learning_rate": RATES,
            "stages.0.optimizer.b1": (0.8, 0.9),
            "stages.0.optimizer.weight_decay": DECAYS,
        },
        best={
            "stages.0.optimizer.learning_rate": 0.0001,
            "stages.0.optimizer.b1": 0.8,
            "stages.0.optimizer.weight_decay": 0.0001,
        },
        stand_in=SMALL_RESNET_PRETRAINED,
        short={"stages.0.epochs": 5},
        reading="The betas are printed as (0.8, 0.9) and (0.9, 0.999), the best as (0.8, 0.999): we vary the first of"
        " them. Judged on test accuracy there, on validation accuracy here." + CATS_AND_DOGS,
    ),
)

# --- VGG16 ---------------------------------------------------------------------------------------

VGG = Recipe(
    name="afhq_vgg16",
    model="vgg16",
    # The grid's axis counts on the activation's place.
    model_options=("activation=relu", "dropout_rate=0.1"),
    pretrained="torchvision",
    dataset="afhq",
    batch_size=64,
    stages=(
        Stage(
            epochs=100,
            optimizer=Optimizer(learning_rate=1e-4, decay=1e-6, l2=1e-4),
            early_stop=EarlyStop(patience=5),
            augment=AUGMENTATION,
        ),
    ),
)
VGG_TUNED = dataclasses.replace(VGG, model_options=("activation=relu", "dropout_rate=0.0"))
VGG_FIRST = with_values(
    VGG,
    {
        "pretrained": None,
        "model_options": ("activation=linear", "dropout_rate=0.0", "dialect=keras"),
        "stages.0.optimizer": Optimizer(learning_rate=0.01, decay=1e-3),
    },
)
PRINTED_SVM = Probe(method="svm", standardise=False, c=1.0, gamma=0.001, kernel="rbf")
VGG_LINEAR_SVM = dataclasses.replace(
    VGG_TUNED, model_options=("activation=linear", "dropout_rate=0.0"), probe=PRINTED_SVM
)
# Nothing is trained but the SVM, on the features of the best net.
VGG_SVM = dataclasses.replace(
    VGG, pretrained="row:table1-vgg16-dropout", stages=(), probe=PRINTED_SVM
)

VGG_ROWS = (
    _pretraining(PRETRAINED_VGG, "vgg_tiny"),
    Row(
        name="table1-vgg16-first",
        table="Table 1, section C 1",
        label="VGG16 without transfer",
        recipe=VGG_FIRST,
        printed={
            "accuracy": 0.351,
            "train_accuracy": 0.36,
            "validation_accuracy": 0.35,
            "loss": math.nan,
        },
        stand_in=SMALL_VGG,
        failure=True,
        reading="The loss is NaN. 35.1 % is the share of cats, the first class, which is what the largest of logits"
        " that are NaN comes to. A run of ours that ends at a NaN has failed alike."
        + CATS_AND_DOGS,
    ),
    Row(
        name="table1-vgg16-tuned",
        table="Table 1, Figure 5",
        label="VGG16 with transfer",
        recipe=VGG_TUNED,
        printed={
            "accuracy": 0.903,
            "loss": 0.134,
            "train_accuracy": 0.96,
            "validation_accuracy": 0.96,
        },
        stand_in=SMALL_VGG_PRETRAINED,
        reading="A loss of 0.134 is low for 9.7 % of errors; both are printed." + CATS_AND_DOGS,
    ),
    Row(
        name="table1-vgg16-dropout",
        table="Table 1, Figure 6",
        label="VGG16, best results",
        recipe=VGG,
        printed={"accuracy": 0.983, "loss": 0.064},
        stand_in=SMALL_VGG_PRETRAINED,
        reading="The same with dropout 0.1 after the fully connected layers." + CATS_AND_DOGS,
    ),
    Row(
        name="table2-vgg16-svm",
        table="Table 2",
        label="VGG-svm",
        recipe=VGG_LINEAR_SVM,
        printed={"accuracy": 0.3507, "train_accuracy": 0.3729, "validation_accuracy": 0.3509},
        stand_in=SMALL_VGG_PRETRAINED,
        failure=True,
        reading="The share of cats is 35.05 %: one answer for all, it seems. Of which net the features are is not"
        " stated; ours is linear, as the first was, trained at a rate that it survives; its features are not scaled."
        " Features that came in another order than their labels would fail so, too."
        + CATS_AND_DOGS,
    ),
    Row(
        name="ours-vgg16-svm-unscaled",
        table="ours",
        label="the same SVM on the best net's features",
        recipe=VGG_SVM,
        stand_in=SMALL_VGG,
        reading="Tells what the net contributes to Table 2's failure." + CATS_AND_DOGS,
    ),
    Row(
        name="ours-vgg16-svm",
        table="ours",
        label="SVM on the best net's standardised features, gamma after their variance",
        recipe=dataclasses.replace(VGG_SVM, probe=Probe(method="svm")),
        stand_in=SMALL_VGG,
        reading="Tells what scaling contributes to it: of 4096 numbers of variance 1, two images are about 8192"
        " apart in squared distance, which gamma 0.001 makes exp(-8.2), nearly nothing, and gamma 1/4096 exp(-2)."
        + CATS_AND_DOGS,
    ),
)
VGG_GRIDS = (
    Grid(
        name="vgg16",
        table="section C 2",
        recipe=VGG_TUNED,
        axes={
            "batch_size": (6, 32, 64),
            "stages.0.optimizer.learning_rate": (0.1, 0.01, 0.001, 0.0001),
            "stages.0.optimizer.decay": (1e-2, 1e-3, 1e-6),
            "stages.0.optimizer.l2": (0.1, 0.01, 0.001, 0.0001),
            "model_options.0": tuple(
                f"activation={name}" for name in ("relu", "tanh", "sigmoid", "linear")
            ),
        },
        best={
            "batch_size": 64,
            "stages.0.optimizer.learning_rate": 0.0001,
            "stages.0.optimizer.decay": 1e-6,
            "stages.0.optimizer.l2": 0.0001,
            "model_options.0": "activation=relu",
        },
        stand_in=SMALL_VGG_PRETRAINED,
        short={"stages.0.epochs": 2, "images_per_class": 200},
        reading="The activation is that of all hidden layers; it may have been that of the added layers alone, as the"
        " convolutions were pretrained with ReLU." + CATS_AND_DOGS,
    ),
    Grid(
        name="vgg16-svm",
        table="section C 4",
        recipe=VGG_SVM,
        axes={
            "probe.c": (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
            "probe.gamma": (0.001, 0.01, 0.1, 1.0, 10.0, 100.0),
            "probe.kernel": ("rbf", "linear"),
        },
        best={"probe.c": 1.0, "probe.gamma": 0.001, "probe.kernel": "rbf"},
        stand_in=SMALL_VGG,
        reading="A linear kernel has no gamma: its 36 points are six." + CATS_AND_DOGS,
    ),
)

# --- VaDE and GMVAE ------------------------------------------------------------------------------

CLUSTERING = Recipe(
    name="afhq_vade",
    model="vade",
    dataset="afhq",
    batch_size=64,
    features="resnet50=torchvision",
    feature_scaling="unit",
    stages=(
        Stage(
            name="auto-encoder",
            objective="autoencoder",
            epochs=100,
            optimizer=Optimizer(learning_rate=1e-4),
        ),
        Stage(
            name="mixture",
            objective="vade",
            start="mixture",
            epochs=100,
            optimizer=Optimizer(learning_rate=1e-4),
        ),
    ),
)
VADE = CLUSTERING
GMVAE = dataclasses.replace(
    CLUSTERING,
    name="afhq_gmvae",
    model="gmvae",
    stages=(Stage(objective="gmvae", epochs=100, optimizer=Optimizer(learning_rate=1e-4)),),
)
AE_GMM = dataclasses.replace(
    CLUSTERING, stages=CLUSTERING.stages[:1], probe=Probe(method="gmm", standardise=False)
)
KMEANS = dataclasses.replace(
    CLUSTERING, stages=(), probe=Probe(method="kmeans", layer="input", standardise=False)
)
METHODS = {"vade": VADE, "gmvae": GMVAE, "ae-gmm": AE_GMM, "kmeans": KMEANS}
LABELS = {
    "vade": "VaDE",
    "gmvae": "GMVAE",
    "ae-gmm": "a Gaussian mixture on an auto-encoder's codes",
    "kmeans": "k-means on the features",
}
SEEDS = 5

# Digits at MNIST's size, each pixel a number in [0, 1], with the likelihood that VaDE's paper has for such data. At
# their own 8x8 the 64 pixels' likelihood counts for little beside the divergences, whose weight does not depend on
# the size: VaDE then gains nothing (78.7 % of the training images, seed 0, where k-means has 78.5), and GMVAE
# collapses to 3.7 effective clusters of 10 (33 %).
DIGITS: dict[str, Any] = {
    "dataset": "digits",
    "image_size": 28,
    "features": "pixels",
    "feature_scaling": "none",
}
DIGITS_NET = {
    **DIGITS,
    "model_options": ("likelihood=bernoulli",),
    "stages.*.optimizer.learning_rate": 1e-3,
    "stages.*.epochs": 50,
}
IN_PIXELS = "Stand-in: the 784 pixels of enlarged digits, in ten classes."


def _clustering_row(method: str, classes: int, printed: float | None = None) -> Row:
    seven = classes == 7
    digits = DIGITS if method == "kmeans" else DIGITS_NET
    changes = {"dataset": "afhq7", "batch_size": 20} if seven else {}
    return Row(
        name=f"{'ours' if printed is None else 'table3'}-{method}-{classes}",
        table="ours, beside Table 3" if printed is None else "Table 3",
        label=f"{LABELS[method]}, {classes} classes",
        recipe=with_values(METHODS[method], changes),
        printed={} if printed is None else {"accuracy": printed},
        stand_in=None if seven else digits,
        seeds=SEEDS,
        reading="What stands in for 3 classes would for 7, too: run there." if seven else IN_PIXELS,
    )


# 128 numbers of each image, from a net that learned them with labels.
CIFAR_FEATURES = "ours-cifar-features"


def _cifar_row(method: str) -> Row:
    shorter = (
        {}
        if method == "kmeans"
        else {
            "stages.*.epochs": 30,
            "stages.*.optimizer.learning_rate": 1e-3,
        }
    )
    return Row(
        name=f"ours-cifar-{method}",
        table="ours, beside Table 3",
        label=f"{LABELS[method]}, CIFAR-10",
        recipe=with_values(
            METHODS[method],
            {
                "dataset": "cifar10",
                "features": f"row:{CIFAR_FEATURES}",
                "images_per_class": 500,
                **shorter,
            },
        ),
        stand_in={},
        seeds=SEEDS,
        reading=f"On 128 features of the net of {CIFAR_FEATURES}, which learned with labels, as ImageNet's did.",
    )


VAE_ROWS = (
    _clustering_row("gmvae", 3, 0.6944),
    _clustering_row("vade", 3, 0.9667),
    _clustering_row("gmvae", 7, 0.8278),
    _clustering_row("vade", 7, 0.9419),
    _clustering_row("kmeans", 3),
    _clustering_row("ae-gmm", 3),
    _clustering_row("kmeans", 7),
    _clustering_row("ae-gmm", 7),
    Row(
        name=CIFAR_FEATURES,
        table="ours",
        label="deconv_alexnet_1 on CIFAR-10, whose features the rows below cluster",
        recipe=Recipe(
            name="afhq_cifar_features",
            model="deconv_alexnet_1",
            dataset="cifar10",
            batch_size=128,
            stages=(
                Stage(
                    epochs=2,
                    optimizer=Optimizer(schedule="cosine"),
                    augment=Augmentation(resize=32),
                ),
            ),
        ),
        stand_in={},
        seeds=1,
    ),
    *(_cifar_row(method) for method in METHODS),
)

# --- Convolutional auto-encoder and SVM ----------------------------------------------------------

CAE_ADAM = Optimizer(learning_rate=5e-4, b1=0.8)
CAE = Recipe(
    name="afhq_cae",
    model="conv_autoencoder",
    dataset="afhq",
    batch_size=64,
    stages=(
        Stage(
            name="without bottleneck",
            objective="autoencoder",
            model_options=("bottleneck=None",),
            epochs=30,
            optimizer=CAE_ADAM,
        ),
        Stage(
            name="with bottleneck",
            objective="autoencoder",
            start="bottleneck",
            epochs=30,
            optimizer=CAE_ADAM,
        ),
    ),
    probe=Probe(method="svm", c=1.0, kernel="rbf"),
)
DIGITS_CAE: dict[str, Any] = {
    "dataset": "digits",
    "image_size": 32,
    "model_options": ("input_shape=(32, 32, 3)", "widths=(16, 32, 64)", "bottleneck=64"),
}
# Turned over, some digits are others.
UPRIGHT_CAE = {
    **DIGITS_CAE,
    "stages.*.augment.flip": False,
    "stages.*.augment.flip_vertical": False,
    "stages.*.augment.shift_x": 0.08,
    "stages.*.augment.shift_y": 0.08,
}
IN_DIGITS = " Stand-in: digits of 32x32 pixels in ten classes."
NOISE_READING = "Sigma is not stated: 0.1 of the range."


def _cae_row(
    name: str,
    label: str,
    printed: tuple[float, float, float] | None,
    changes: dict[str, Any],
    reading: str = "",
    stand_in: dict[str, Any] = DIGITS_CAE,
) -> Row:
    columns = ("train_accuracy", "accuracy", "validation_accuracy")
    return Row(
        name=name,
        table="Table 4" if printed else "ours, beside Table 4",
        label=label,
        recipe=with_values(CAE, changes),
        printed=dict(zip(columns, printed, strict=True)) if printed else {},
        stand_in=stand_in,
        reading=reading + IN_DIGITS,
    )


CAE_ROWS = (
    _cae_row("table4-origin", "origin", (0.9891, 0.9453, 0.9560), {}),
    _cae_row(
        "table4-augmentation",
        "augmentation",
        (0.9909, 0.9570, 0.9647),
        {"stages.*.augment": AUGMENTATION},
        "Flips and rotation, drawn anew at each visit; the SVM is fitted to the images as they are.",
        UPRIGHT_CAE,
    ),
    *(
        _cae_row(
            f"{'table4' if printed else 'ours'}-noise-{percent}",
            f"Gaussian noise {percent}%",
            printed,
            {"noisy_images": percent / 100},
            NOISE_READING + reading,
        )
        for percent, printed, reading in (
            (5, (0.9815, 0.9212, 0.9355), ""),
            (10, (0.9316, 0.8812, 0.8943), ""),
            (15, None, " Announced in the text, and not printed."),
            (
                20,
                (0.7816, 0.6812, 0.7015),
                " A fifth of the images cannot cost 26 points while the others stay right.",
            ),
        )
    ),
    _cae_row(
        "ours-sigma-20",
        "Gaussian noise of sigma 20 % on all images",
        None,
        {"noisy_images": 1.0, "noise_sigma": 51.0},
        "The other reading of 20 %: the strength of the noise.",
    ),
)
CAE_GRID = Grid(
    name="cae-adam",
    table="section E 1",
    recipe=CAE,
    axes={
        "stages.1.optimizer.learning_rate": (0.0001, 0.0005, 0.001, 0.005, 0.01),
        "stages.1.optimizer.b1": (0.8, 0.9),
    },
    best={"stages.1.optimizer.learning_rate": 0.0005, "stages.1.optimizer.b1": 0.8},
    stand_in=DIGITS_CAE,
    short={"stages.*.epochs": 10},
    reading="Printed as best: 0.05 with (0.8, 0.999). 0.05 is not in the grid; 0.0005 and 0.005 are, and with a large"
    ' rate it "can\'t converge".' + IN_DIGITS,
)


DOCUMENT = Document(
    name="afhq",
    title="Animal face classification based on deep learning",
    rows=(*RESNET_ROWS, *VGG_ROWS, *VAE_ROWS, *CAE_ROWS),
    orderings=(
        *(
            Ordering(column, "resnet50-pretrained", "resnet50-scratch", "transfer learning wins")
            for column in ("train_accuracy", "validation_accuracy")
        ),
        Ordering("accuracy", "resnet50-adam", "resnet50-sgd", "the best Adam outweighs SGD"),
        Ordering(
            "accuracy",
            "resnet50-augmented",
            "resnet50-adam",
            "augmentation, dropout and L2 win 5 points",
        ),
        Ordering("accuracy", "table1-vgg16-tuned", "table1-vgg16-first", "the grid's best wins"),
        Ordering("accuracy", "table1-vgg16-dropout", "table1-vgg16-tuned", "dropout wins 8 points"),
        Ordering(
            "accuracy",
            "table1-vgg16-dropout",
            "table2-vgg16-svm",
            "softmax is better than the SVM on VGG16's features",
        ),
        *(
            Ordering("accuracy", f"table3-vade-{n}", f"table3-gmvae-{n}", f"VaDE wins, {n} classes")
            for n in (3, 7)
        ),
        Ordering("accuracy", "ours-cifar-vade", "ours-cifar-gmvae", "VaDE wins, CIFAR-10"),
        # The document does not compare; its method would be pointless otherwise.
        *(
            Ordering("accuracy", vade, start, f"expected: {text}, {where}")
            for vade, where in (("table3-vade-3", "3 classes"), ("ours-cifar-vade", "CIFAR-10"))
            for start, text in (
                (vade.replace("table3", "ours").replace("vade", "ae-gmm"), "it gains on its start"),
                (vade.replace("table3", "ours").replace("vade", "kmeans"), "VaDE beats k-means"),
            )
        ),
        Ordering(
            "accuracy", "table4-augmentation", "table4-origin", "augmentation is a little better"
        ),
        Ordering("accuracy", "table4-origin", "table4-noise-5", "noise costs accuracy"),
        Ordering("accuracy", "table4-noise-5", "table4-noise-10", "more noise costs more"),
        Ordering("accuracy", "table4-noise-10", "table4-noise-20", "still more costs much more"),
    ),
    grids=(*RESNET_GRIDS, *VGG_GRIDS, CAE_GRID),
)
