"""`torchvision`, also where it was compiled for CUDA and torch for CPUs only.

Beside such a torch it cannot load its compiled operators, and fails at two of them that it looks for while it is
imported. Nets, transforms and folders of images are Python code, and need none.
"""

import contextlib

import torch

_library = torch.library.Library("torchvision", "FRAGMENT")  # an operator goes with its library
for _name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):  # it is there
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision as torchvision  # noqa: E402
