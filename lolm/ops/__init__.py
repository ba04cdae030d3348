"""Scans, convolutions, attention, norms and loss: the reference forms, kernels for CPUs and CUDA, one place that chooses."""
