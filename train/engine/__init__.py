"""Training engine: objectives, optimizers, pure steps and their compilation, checkpoints, and the training loop."""
