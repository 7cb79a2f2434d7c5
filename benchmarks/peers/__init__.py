"""Baselines of the benchmarks: the same nets, losses and optimizers in other libraries.

To check that both are the same net, weights are passed from the zoo to a baseline as an .npz file of float32 arrays
named by their path in the zoo's variables, such as `params/conv1/conv/kernel` or `batch_stats/conv1/norm/mean`.
Convolution kernels are [height, width, in / groups, out], dense kernels [in, out]. Images and activations are NHWC,
which fixes the order of flattening. The file also contains `image` (uint8 [B, H, W, 3]) and `label` (int32 [B]), the
batch for the losses.

Imports only the standard library.
"""

# All implementations train with Adam and Keras's epsilon.
LEARNING_RATE = 1e-4
BETAS = (0.9, 0.999)
EPSILON = 1e-7

# Name: module of the worker, and its arguments. Those of torch run under --torch-python.
BASELINES = {
    "torch": ("benchmarks.peers.torch_worker", ()),
    "torch-compile": ("benchmarks.peers.torch_worker", ("--compile",)),
    "keras": ("benchmarks.peers.keras_worker", ()),
}
NOT_AVAILABLE = "model not available in this library"
