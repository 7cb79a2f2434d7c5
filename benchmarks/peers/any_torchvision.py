"""Import of `torchvision` that also works if it was compiled for CUDA but torch for CPUs only.

With such a torch, torchvision cannot load its compiled operators, and its import fails because it looks up two of them.
Nets, transforms and image folders are Python code and do not need these operators, so stubs are declared here.
"""

import contextlib

import torch

# Kept in a variable because operators are removed together with their library object.
_library = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    with contextlib.suppress(RuntimeError):  # already defined
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision as torchvision  # noqa: E402
