"""Models: pattern-built stacks, the decoder baselines, and LOLM from its streams."""
