"""The ops in Triton, for GPUs: a module an op, with the op under its name and with its arguments, less ``backend``."""
