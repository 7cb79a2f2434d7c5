"""What the zoo is timed against: the same nets, losses and optimisers in other libraries.

How weights travel from the zoo to a peer, for the check that both are the same net: an .npz file of float32
arrays named by their path in the zoo's variables, `params/conv1/conv/kernel` or
`batch_stats/conv1/norm/mean`. Kernels of convolutions are [height, width, in / groups, out], those of dense
layers [in, out]; images and activations are NHWC, which fixes the order in which they are flattened. Beside
them `image` (uint8 [B, H, W, 3]) and `label` (int32 [B]), the batch to compute losses of.

Imports the standard library only.
"""

# Every side trains with Adam, Keras's epsilon.
LEARNING_RATE = 1e-4
BETAS = (0.9, 0.999)
EPSILON = 1e-7

# Peer: the module of its worker, and that module's arguments. Those of torch run under --torch-python.
PEERS = {
    "torch": ("benchmarks.peers.torch_worker", ()),
    "torch-compile": ("benchmarks.peers.torch_worker", ("--compile",)),
    "keras": ("benchmarks.peers.keras_worker", ()),
}
NO_TWIN = "no twin of this model"
