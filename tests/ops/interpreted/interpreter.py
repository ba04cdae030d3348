"""Imported first by the files beside it: Triton's kernels then run in its interpreter, on CPU tensors.

No conftest, and no name that pytest looks for: :mod:`test_triton` starts these files in a process of their own, because what a
kernel becomes is decided when it is defined.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import triton.runtime.interpreter as interpreter

import lolm.ops.backends as backends

backends.PROBED = (1, 9, 5)  # the choice of a backend runs it first


class Kept:
    def restore(self) -> None:
        """Nothing: the language stays patched, since this process only interprets."""


def patch_once(patch=interpreter._patch_lang):
    """At every call of a function inside a kernel the interpreter patches the language again: two thirds of its time."""
    patched = set()

    def once(function) -> Kept:
        if function.__module__ not in patched:
            patched.add(function.__module__)
            patch(function)
        return Kept()

    return once


interpreter._patch_lang = patch_once()


def numpys(get=interpreter._get_np_dtype):
    """It makes a table of all types at every call."""
    known = {}

    def kept(triton_type):
        if triton_type.name not in known:
            known[triton_type.name] = get(triton_type)
        return known[triton_type.name]

    return kept


interpreter._get_np_dtype = numpys()
