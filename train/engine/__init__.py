"""The machinery of training: objectives, optimisers, pure steps, their compilation, and the one loop."""
