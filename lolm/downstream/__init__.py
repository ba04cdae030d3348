"""Scores on tasks of lm-evaluation-harness and on two tasks made from held-out documents; needs the extra ``eval``."""
