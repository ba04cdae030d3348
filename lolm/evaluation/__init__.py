"""Measurements on held-out text."""
