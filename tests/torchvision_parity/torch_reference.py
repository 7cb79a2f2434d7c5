"""Reference outputs of torchvision's nets for random weights.

    python torch_reference.py '{"model": "resnet50", "size": [64, 64], "batch": 2, "step": true}' out.npz out.pth

Runs in a Python interpreter that has torch and need not have JAX. Uses torchvision's nets if torchvision is installed.
Otherwise builds them in torch, with the structure of torchvision's `alexnet`, `vgg`, `resnet` and `mobilenet_v2`, so
that names and shapes in the state dict are the same. The weights are saved to the .pth file by `torch.save`. The .npz
file contains:

    images, labels      float32 [B, H, W, 3] and int32 [B]
    logits              in evaluation mode, float32
    versions            of torch and torchvision
    loss, gradients/<name>, statistics/<name>     if "step": one training step in float64 without dropout;
                        statistics are the running statistics after it
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

VGG = {"vgg11": (1, 1, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3)}
RESNET = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
}
MOBILENET = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class Vgg(nn.Module):
    def __init__(self, counts, classes, hidden):
        super().__init__()
        layers, channels = [], 3
        for width, count in zip((64, 128, 256, 512, 512), counts, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, hidden),
            nn.ReLU(),
            nn.Dropout(0.0),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(0.0),
            nn.Linear(hidden, classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class AlexNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(0.0),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(0.0),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


class Block(nn.Module):
    def __init__(self, channels, width, stride, bottleneck):
        super().__init__()
        self.bottleneck = bottleneck
        out = 4 * width if bottleneck else width
        if bottleneck:
            self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3 = nn.Conv2d(width, out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out)
        else:
            self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, bottleneck, counts, classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, widths = 64, (64, 128, 256, 512)
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True), start=1):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                blocks.append(Block(channels, width, stride, bottleneck))
                channels = 4 * width if bottleneck else width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


def round_channels(channels):
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def conv_norm_relu6(channels, out, kernel, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    def __init__(self, channels, out, stride, expansion):
        super().__init__()
        hidden = channels * expansion
        layers = [conv_norm_relu6(channels, hidden, 1)] if expansion != 1 else []
        layers += [
            conv_norm_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and channels == out

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        channels = round_channels(32 * width)
        layers = [conv_norm_relu6(3, channels, 3, 2)]
        for expansion, out, count, stride in MOBILENET:
            for index in range(count):
                scaled = round_channels(out * width)
                layers.append(
                    InvertedResidual(channels, scaled, stride if index == 0 else 1, expansion)
                )
                channels = scaled
        last = round_channels(1280 * max(1.0, width))
        layers.append(conv_norm_relu6(channels, last, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(last, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def build(case):
    """Build the net without dropout. Also returns torchvision's version, or why torchvision is not used."""
    name, classes = case["model"], 10
    try:
        from benchmarks.peers.any_torchvision import torchvision
    except ImportError:
        return build_in_torch(name, case, classes), "not installed"
    if "hidden" in case:  # a narrow top, which torchvision's VGG does not support
        return build_in_torch(name, case, classes), "not used"
    options = {"width_mult": case["width"]} if "width" in case else {}
    net = getattr(torchvision.models, name.removesuffix("_torchvision"))
    model = net(num_classes=classes, **options)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model, torchvision.__version__


def build_in_torch(name, case, classes):
    if name == "alexnet_torchvision":
        return AlexNet(classes)
    if name in VGG:
        return Vgg(VGG[name], classes, case.get("hidden", 4096))
    if name in RESNET:
        return ResNet(*RESNET[name], classes)
    return MobileNetV2(case.get("width", 1.0), classes)


def randomize(model, rng):
    """Set weights that keep activations moderate at any depth, and statistics far from their initial values."""
    state = {}
    for name, tensor in model.state_dict().items():
        shape, leaf = tuple(tensor.shape), name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            continue
        if leaf == "weight" and len(shape) > 1:
            values = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif leaf == "weight":
            values = rng.uniform(0.3, 0.8, shape)
        elif leaf == "running_var":
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(size=shape) * 0.1
        state[name] = torch.from_numpy(values.astype(np.float32))
    result = model.load_state_dict(state, strict=False)
    assert not result.unexpected_keys


def main():
    case, path, weights = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
    rng = np.random.default_rng(0)
    torch.set_num_threads(2)
    model, torchvision_version = build(case)
    arrays = {"versions": np.array([torch.__version__, torchvision_version])}
    randomize(model, rng)
    torch.save(model.state_dict(), weights)
    images = rng.normal(size=(case["batch"], *case["size"], 3)).astype(np.float32)
    labels = rng.integers(0, 10, case["batch"])
    arrays.update(images=images, labels=labels.astype(np.int32))
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        arrays["logits"] = model.eval()(x).numpy()
    if case.get("step"):
        model = model.double().train()
        loss = nn.functional.cross_entropy(model(x.double()), torch.from_numpy(labels))
        loss.backward()
        arrays["loss"] = loss.detach().numpy()
        for name, parameter in model.named_parameters():
            arrays[f"gradients/{name}"] = parameter.grad.numpy()
        for name, buffer in model.named_buffers():
            if not name.endswith("num_batches_tracked"):
                arrays[f"statistics/{name}"] = buffer.numpy()
    np.savez(path, **arrays)


if __name__ == "__main__":
    main()
