"""Six methods for classifying animal faces on Animal Faces-HQ: ResNet-50, VGG16, VGG16 with an SVM, VaDE, GMVAE, and a
convolutional autoencoder with an SVM.

Paper: S. Han, C. Wang, Q. Gao and J. Zou, "Animal face classification based on deep learning" (sections B to E).

    python -m train.run --model resnet50 --dataset afhq --data-dir afhq.zip      # reported: 87%
    python -m train.run --model vgg16 --dataset afhq --data-dir afhq.zip         # 98.3%, loss 0.064
    python -m train.run --model vade --dataset afhq --data-dir afhq.zip          # 96.67%, without labels
    python -m train.run --model gmvae --dataset afhq --data-dir afhq.zip         # 69.44%, without labels
    python -m train.run --model conv_autoencoder --dataset afhq --data-dir afhq.zip   # with an SVM, 94.53%

Stated for all: 16,130 images split 80/10/10; resized to 224x224, scaled to [0, 1], normalized by ImageNet's mean and
standard deviation; a version with seven classes of about 500 images each. Our interpretation: "The training set,
validation set and test set are in proportion of 80%, 10%, 10%" of all images, pooled before the split
(`datasets/named/afhq.py` has the arithmetic). "Transformation is to resize each images to 224x224, loaded in to a range
of [0, 1] and then normalized": without a crop, and for all methods, even with torchvision's weights.

ResNet-50. Stated: Kaiming-uniform weights, or pretrained ones with Adam 1e-4, betas (0.9, 0.999), 30 epochs,
batch 16; the grids; then flips, rotation, dropout before the head, L2. We assume torch's weight decay (added to the
gradient) and epsilon (1e-8), since betas, normalization and initialization have their torch names. Not stated, our
choice: rotation up to 15 degrees, dropout 0.5; the settings of the first run, taken from the second. We read "early
stopping at epoch 19" (or 20) as our rule for all runs: the epoch with the best validation accuracy is kept.

VGG16. Stated: at most 100 epochs "with a early stop when the validation accuracy has passed five epochs and is not
increasing"; the grid; augmentation on, but not which (we use that of ResNet-50). The columns of Table 1 show which runs
are pretrained; the text mentions it for the first one only. We use torchvision's weights, which match the stated
normalization; Keras's Adam, decay and L2 (on all kernels; the paper may apply it only to the layers that the authors
added).
VaDE, GMVAE. Stated: 2048 features of a pretrained ResNet-50, latent size 10, learning rate 1e-4, batch 64 (3
classes) or 20 (7 classes), convergence after 10 epochs. Our choice: 100 epochs per stage; features divided by one
number, their standard deviation.
Autoencoder. Stated: "we first pre-train the deep auto-encoder without the FC layer on all the data we have", which is
then inserted, and "in the fine-tuning stage, we use big batch to train the complete model"; Adam of TensorFlow 2; an
SVM with C = 1 and an rbf kernel on the codes, after each epoch (Figure 10a). Our interpretation: "all the data"
includes validation and test images, without labels (`all_splits`), so the results are transductive. Our choice: layers
(`zoo/conv_autoencoder.py`), 30 epochs per stage, batch 64 and then 256, noise with sigma 0.1 of the range, codes
standardized before the SVM. The paper's learning rate of 0.05 is not in its grid (0.0001 to 0.01): we take it to be
0.0005, since large ones "can't converge".
"""

import dataclasses

from train.recipe import (
    IMAGENET,
    Augmentation,
    EarlyStop,
    ModelOptions,
    NetFeatures,
    Optimizer,
    Probe,
    Recipe,
    Stage,
    with_values,
)

# The whole image, and ImageNet's mean and standard deviation.
IMAGES = dataclasses.replace(IMAGENET, crop_fraction=1.0)

# ResNet-50.

AUGMENTATION = Augmentation(flip=True, flip_vertical=True, rotation=15.0)
TORCH_ADAM = Optimizer(learning_rate=1e-4, epsilon=1e-8, decoupled=False)
TUNED_ADAM = dataclasses.replace(TORCH_ADAM, b1=0.8, weight_decay=1e-4)
TORCH_SGD = Optimizer(
    name="sgd", learning_rate=1e-4, momentum=0.9, weight_decay=1e-4, decoupled=False
)

RESNET = Recipe(
    name="afhq_resnet50",
    model="resnet50",
    model_options=ModelOptions(dropout_rate=0.5),
    pretrained="torchvision",
    dataset="afhq",
    batch_size=16,
    normalization=IMAGES,
    stages=(Stage(epochs=30, optimizer=TUNED_ADAM, augment=AUGMENTATION),),
)
RESNET_PLAIN = dataclasses.replace(
    RESNET, model_options=ModelOptions(), stages=(Stage(epochs=30, optimizer=TORCH_ADAM),)
)
RESNET_SCRATCH = dataclasses.replace(
    RESNET_PLAIN, pretrained=None, model_options=ModelOptions(kernel_init="kaiming_uniform")
)

# VGG16.

VGG = Recipe(
    name="afhq_vgg16",
    model="vgg16",
    model_options=ModelOptions(activation="relu", dropout_rate=0.1),
    pretrained="torchvision",
    dataset="afhq",
    batch_size=64,
    normalization=IMAGES,
    stages=(
        Stage(
            epochs=100,
            optimizer=Optimizer(name="keras_adam", learning_rate=1e-4, decay=1e-6, l2=1e-4),
            early_stop=EarlyStop(monitor="accuracy", patience=5),
            augment=AUGMENTATION,
        ),
    ),
)
VGG_TUNED = with_values(VGG, {"model_options.dropout_rate": 0.0})
VGG_FIRST = with_values(
    VGG,
    {
        "pretrained": None,
        "model_options": ModelOptions(activation="linear", dropout_rate=0.0, variant="keras"),
        "stages.0.optimizer": Optimizer(name="keras_adam", learning_rate=0.01, decay=1e-3),
    },
)
REPORTED_SVM = Probe(method="svm", standardize=False, c=1.0, gamma=0.001, kernel="rbf")
VGG_LINEAR_SVM = with_values(
    VGG_TUNED, {"model_options.activation": "linear", "probe": REPORTED_SVM}
)

# VaDE, GMVAE and their baselines.

VADE = Recipe(
    name="afhq_vade",
    model="vade",
    dataset="afhq",
    batch_size=64,
    features=NetFeatures("resnet50", "torchvision"),
    normalization=IMAGES,
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
GMVAE = dataclasses.replace(
    VADE,
    name="afhq_gmvae",
    model="gmvae",
    stages=(Stage(objective="gmvae", epochs=100, optimizer=Optimizer(learning_rate=1e-4)),),
)
AE_GMM = dataclasses.replace(
    VADE, stages=VADE.stages[:1], probe=Probe(method="gmm", standardize=False)
)
KMEANS = dataclasses.replace(
    VADE, stages=(), probe=Probe(method="kmeans", layer="input", standardize=False)
)

# Convolutional autoencoder with an SVM.

CAE_ADAM = Optimizer(name="keras_adam", learning_rate=5e-4, b1=0.8)
CAE = Recipe(
    name="afhq_cae",
    model="conv_autoencoder",
    dataset="afhq",
    batch_size=64,
    normalization=IMAGES,
    stages=(
        Stage(
            name="without bottleneck",
            objective="autoencoder",
            all_splits=True,
            model_options=ModelOptions(bottleneck=None),
            epochs=30,
            optimizer=CAE_ADAM,
        ),
        Stage(
            name="with bottleneck",
            objective="autoencoder",
            start="bottleneck",
            epochs=30,
            batch_size=256,
            optimizer=CAE_ADAM,
        ),
    ),
    probe=Probe(method="svm", c=1.0, kernel="rbf", every_epoch=True),
)
