"""Kernels run by Triton's interpreter: :mod:`tests.ops.test_triton` starts these files in a process of their own."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # which Triton reads when a kernel is defined

from functools import cache  # noqa: E402

import triton.runtime.interpreter as interpreter  # noqa: E402


class _Kept:
    def restore(self) -> None:
        """Nothing: the language stays patched, as this process only interprets."""


def _patch_once(patch=interpreter._patch_lang):
    """At every call of a function inside a kernel the interpreter patches the language again: two thirds of its time."""
    once = cache(lambda module, function: patch(function))
    by_module = {}

    def patched(function):
        by_module.setdefault(function.__module__, function)
        once(function.__module__, by_module[function.__module__])
        return _Kept()

    return patched


interpreter._patch_lang = _patch_once()
