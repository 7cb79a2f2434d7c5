"""Benchmarks: training and input speed compared with other libraries, augmentation, scaling and start-up time."""
