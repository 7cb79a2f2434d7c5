"""What stands in for ImageNet's weights where rows are compared at small scale: five epochs of CIFAR-10."""

from train.recipe import Augmentation, Optimizer, Stage

STAGE = Stage(
    name="pretraining",
    epochs=5,
    optimizer=Optimizer(learning_rate=2e-3, schedule="cosine"),
    augment=Augmentation(flip=True, shift_x=0.1, shift_y=0.1),
)
BATCH_SIZE = 64
