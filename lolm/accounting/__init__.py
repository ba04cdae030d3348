"""Parameters, FLOPs and state of every arm, and the sizes that make arms equal."""
