"""Training: one loop for every arm, its optimiser, schedule, checkpoints and records."""
