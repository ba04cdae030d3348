"""Texts that a model writes, token by token."""

from lolm.generation.generate import GenerationError, Token, generate

__all__ = ["GenerationError", "Token", "generate"]
