"""Four small AlexNets on CIFAR-10, with and without deconvolution layers.

Paper: S. Li, L. Wang, J. Li and Y. Yao 2021, "Image Classification Algorithm Based on Improved AlexNet" (sections 3
and 4).

    python -m train.run --model deconv_alexnet_2       # Table 2, "new_AlexNet_2"; cifar_alexnet_2 is "AlexNet_2"

Stated: training images cropped at random to 28x28 and "expanded 6 times to 300,000", then standardized; batch
128, 120 epochs, reshuffled; cross-entropy plus (alpha / 2) |w|^2.
Not stated, our choice: the optimizer (Adam), its learning rate (1e-3, cosine decay to 0) and alpha (1e-4), the same for
all four nets. The six crops of an image are drawn again in each epoch. Test images are center-cropped to 28x28.

Our interpretation: "the data is standardized" by the mean and standard deviation of each color channel over the
training images.

Where we deviate: a tenth of the training images is used for validation; the paper has no validation split.
"""

from train.recipe import Augmentation, Normalization, Optimizer, Recipe, Stage

L2 = 5e-5  # Keras's form, without the factor 1/2: alpha = 1e-4
OPTIMIZER = Optimizer(name="adam", learning_rate=1e-3, l2=L2, schedule="cosine")
CROPS = Augmentation(resize=32, crops_per_image=6)

CIFAR10 = Recipe(
    name="cifar10",
    model="deconv_alexnet_2",
    dataset="cifar10",
    batch_size=128,
    normalization=Normalization(of_training_images=True),
    stages=(Stage(epochs=120, optimizer=OPTIMIZER, augment=CROPS),),
)
